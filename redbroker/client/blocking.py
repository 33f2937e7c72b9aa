"""The SDK for plain scripts, Django and Flask: the same names, without async.

    from redbroker.blocking import Producer

    with Producer("redis://localhost:6379") as producer:
        sent = producer.send("orders", b"value", key=b"key")

Nothing is written twice: each class wraps the asynchronous one. All of a process share one thread, which runs their
event loop and ends with the last of them; a call from any thread hands its work to it and waits. Ctrl-C cancels the
work and raises as usual. What is still open when the interpreter ends is closed then, bounded as `close` is; records
that a consumer had handed out last do not count as done in that case.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import inspect
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from redbroker.client.admin import Admin as AsyncAdmin
from redbroker.client.commits import Offsets
from redbroker.client.consumer import Consumer as AsyncConsumer
from redbroker.client.producer import Producer as AsyncProducer
from redbroker.client.room import Gate
from redbroker.client.types import ConsumerRecord, Sent

__all__ = ["Admin", "Consumer", "Producer"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
Self = TypeVar("Self", bound="Blocking")

OUTSTANDING_MAX = 10_000
"""Records of `send_nowait` handed to the loop and not yet stored; the next one waits."""


def waits(method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """The same method for those who wait, with the same arguments and result."""
    name = method.__name__

    def blocking(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._wait(name, args, kwargs)
        return result

    functools.update_wrapper(blocking, method)
    return blocking


def calls(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[Any, P], T]:
    """The same for a method that does not wait: it is called in the loop, where the client lives."""
    return waits(cast(Any, method))


class ClosedMeanwhile(RuntimeError):
    """Somebody else closed the client that a call was waiting for."""


class Blocking:
    """An asynchronous client and the loop it lives in. Constructors do no I/O; `with`, or `open` and `close`."""

    wrapped: ClassVar[str]
    """`module:class` of the asynchronous one."""
    ends_calls: ClassVar[bool] = False
    """Whether closing ends the calls of other threads, instead of waiting for them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._words = args, settings
        self._renew()

    def _renew(self) -> None:
        """As nobody has opened it yet."""
        args, settings = self._words
        self._client: Any = self._class()(*args, **settings)  # a wrong setting is told here
        self._portal: BlockingPortal | None = None
        self._calls: set[Call] = set()

    @classmethod
    def _class(cls) -> Any:
        module, _, name = cls.wrapped.partition(":")
        return getattr(importlib.import_module(module), name)

    def open(self: Self) -> Self:
        """Connect, for those who cannot use `with`; RuntimeError when it is open."""
        if self._portal is not None:
            raise RuntimeError("This client is open already.")
        portal = LOOP.enter()
        try:
            Call(portal, self._client.__aenter__).wait()
        except BaseException:
            LOOP.leave()
            raise
        self._portal = portal
        OPEN.add(self)
        return self

    def close(self) -> None:
        """Close; a producer delivers first what it has taken. Closing twice is no error."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        """Close as a `with` block does that ends with this error."""
        portal, self._portal = self._portal, None
        if portal is None:
            return
        OPEN.discard(self)
        if self.ends_calls:
            for call in tuple(self._calls):
                call.give_up()
        kind = None if error is None else type(error)
        try:
            Call(portal, functools.partial(self._client.__aexit__, kind, error, None)).wait()
        finally:
            LOOP.leave()

    def __enter__(self: Self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    @property
    def _opened(self) -> BlockingPortal:
        """The way into the client's loop; RuntimeError while it is not open."""
        portal = self._portal
        if portal is None:
            raise RuntimeError(f"This {type(self).__name__.lower()} is not open: use it inside `with`.")
        return portal

    def _wait(self, name: str, args: Any, kwargs: Any) -> Any:
        """Call a method of the client in its loop and wait for what it gives."""
        portal, role = self._opened, type(self).__name__.lower()

        async def work() -> Any:
            result = getattr(self._client, name)(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        call = Call(portal, work, f"This {role} was closed by another thread.")
        self._calls.add(call)
        try:
            if self._portal is None and self.ends_calls:  # closed since: `_close` may have missed this one
                call.give_up()
            return call.wait()
        finally:
            self._calls.discard(call)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the client has: methods wait, properties and values are as they are."""
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._class(), name, None)
        if callable(value):
            return functools.partial(_call, self, name)
        return getattr(self._client, name)


def _call(self: Blocking, name: str, /, *args: Any, **kwargs: Any) -> Any:
    return self._wait(name, args, kwargs)


class Producer(Blocking):
    """`redbroker.Producer` for those who wait.

    with Producer("redis://localhost:6379", linger_ms=5) as producer:
        producer.send("orders", b"1 x tea", key=b"table-4")
    """

    wrapped = "redbroker.client.producer:Producer"

    send = waits(AsyncProducer.send)
    flush = waits(AsyncProducer.flush)
    partitions_for = waits(AsyncProducer.partitions_for)
    counts = calls(AsyncProducer.counts)

    def _renew(self) -> None:
        super()._renew()
        self._gate = Gate(OUTSTANDING_MAX, self._client.config.buffer_bytes)

    def send_nowait(self, topic: str, value: Any = None, **fields: Any) -> Future[Sent]:
        """Hand one record over, with the arguments of `send`; the future's `result()` gives its place or raises.

        Waits while 10,000 or `buffer_bytes` are under way. Records of one thread keep their order per partition.
        """
        gate, nbytes = self._gate, len(value) if isinstance(value, (bytes, str)) else 0
        gate.enter(nbytes)
        try:
            future = self._opened.start_task_soon(functools.partial(self._client.send, topic, value, **fields))
        except BaseException:
            gate.leave(nbytes)
            raise
        future.add_done_callback(lambda _: gate.leave(nbytes))
        return future


class Admin(Blocking):
    """`redbroker.Admin` for those who wait.

    with Admin("redis://localhost:6379") as admin:
        admin.create_topic("orders", partitions=12)
    """

    wrapped = "redbroker.client.admin:Admin"

    create_topic = waits(AsyncAdmin.create_topic)
    delete_topic = waits(AsyncAdmin.delete_topic)
    list_topics = waits(AsyncAdmin.list_topics)
    describe_topic = waits(AsyncAdmin.describe_topic)
    add_partitions = waits(AsyncAdmin.add_partitions)
    configs = waits(AsyncAdmin.configs)
    alter_configs = waits(AsyncAdmin.alter_configs)
    trim = waits(AsyncAdmin.trim)
    list_groups = waits(AsyncAdmin.list_groups)
    describe_group = waits(AsyncAdmin.describe_group)
    offsets = waits(AsyncAdmin.offsets)
    seek = waits(AsyncAdmin.seek)
    delete_group = waits(AsyncAdmin.delete_group)
    describe_cluster = waits(AsyncAdmin.describe_cluster)


class Consumer(Blocking):
    """`redbroker.Consumer` for those who wait: every method of it, and `for record in consumer`.

    with Consumer("orders", storage="redis://localhost:6379", group_id="billing") as consumer:
        for record in consumer: ...

    Any thread may `close` it: the loop over it ends, other calls under way raise RuntimeError, and what the reading
    thread had in hand does not count as done. A call into the loop is paid per record: `getmany` is many times faster.
    A rebalance listener is called in the loop's thread.
    """

    wrapped = "redbroker.client.consumer:Consumer"
    ends_calls = True

    subscribe = calls(AsyncConsumer.subscribe)
    unsubscribe = waits(AsyncConsumer.unsubscribe)
    assign = calls(AsyncConsumer.assign)
    assignment = calls(AsyncConsumer.assignment)
    pause = calls(AsyncConsumer.pause)
    resume = calls(AsyncConsumer.resume)
    position = waits(AsyncConsumer.position)
    seek = waits(AsyncConsumer.seek)
    seek_to_beginning = waits(AsyncConsumer.seek_to_beginning)
    seek_to_end = waits(AsyncConsumer.seek_to_end)
    seek_to_time = waits(AsyncConsumer.seek_to_time)
    beginning_offsets = waits(AsyncConsumer.beginning_offsets)
    end_offsets = waits(AsyncConsumer.end_offsets)
    offsets_for_times = waits(AsyncConsumer.offsets_for_times)
    commit = waits(AsyncConsumer.commit)
    committed = waits(AsyncConsumer.committed)
    health = calls(AsyncConsumer.health)
    skipped = calls(AsyncConsumer.skipped)

    def commit_nowait(self, offsets: Offsets | None = None) -> Future[None]:
        """`commit` in the background, of what was handed out by now; its error is logged, too."""

        async def work() -> None:
            await self._client.commit_nowait(offsets)

        return self._opened.start_task_soon(work)

    _reader = 0  # the thread that has, or may have, records in hand; 0 when nobody knows what is
    _getmany = waits(AsyncConsumer.getmany)

    def getmany(self, max_records: int = 500, timeout_ms: float = 1_000) -> list[ConsumerRecord]:
        """Up to so many records, in order per partition; an empty list when none came in time."""
        with self._reading():
            return self._getmany(max_records, timeout_ms)

    def __iter__(self) -> Iterator[ConsumerRecord]:
        _ = self._opened
        return self

    def __next__(self) -> ConsumerRecord:
        if self._portal is None:
            raise StopIteration
        try:
            with self._reading():
                record: ConsumerRecord = self._wait("__anext__", (), {})
                return record
        except ClosedMeanwhile:
            raise StopIteration from None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Note who reads; one that was interrupted may have been handed records that it never saw."""
        self._reader = 0
        yield
        self._reader = threading.get_ident()

    def _close(self, error: BaseException | None) -> None:
        if self._reader != threading.get_ident():
            error = error or ClosedMeanwhile("Records in hand are not done.")
        super()._close(error)


# --- the loop they share --------------------------------------------------------------------------------------------


class Loop:
    """One thread with an event loop, from the first client's opening to the last one's closing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients = 0
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None

    def enter(self) -> BlockingPortal:
        """The portal into the loop, which is started for the first client."""
        with self._lock:
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal("asyncio", name="redbroker"))
            self._clients += 1
            return self._portal

    def leave(self) -> None:
        """One client is closed; with the last one the thread ends."""
        with self._lock:
            self._clients -= 1
            if not self._clients:
                self._portal = None
                self._stack.close()


class Call:
    """Work in the loop that can be given up from any thread, even while nobody knows yet whether it was started."""

    def __init__(self, portal: BlockingPortal, work: Callable[[], Awaitable[Any]], why: str = "") -> None:
        self._portal, self._work, self._why = portal, work, why
        self._scope: anyio.CancelScope | None = None
        self._given_up = self._ended = False

    def wait(self) -> Any:
        """What the work gives, or `ClosedMeanwhile`; an interrupted wait gives it up."""
        try:
            return self._portal.start_task_soon(self._run).result()
        except BaseException:
            self.give_up()
            raise

    async def _run(self) -> Any:
        try:
            with anyio.CancelScope() as self._scope:
                if not self._given_up:
                    return await self._work()
        finally:
            self._ended = True
        raise ClosedMeanwhile(self._why)

    def give_up(self) -> None:
        """Cancel the work; no harm when it is done."""
        self._given_up = True
        if not self._ended:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and all its work
                self._portal.start_task_soon(self._cancel)

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()


LOOP = Loop()
OPEN: weakref.WeakSet[Blocking] = weakref.WeakSet()
LEFT_BEHIND: list[Any] = []
"""Loops of processes this one was forked from, and their clients: to drop one waits for a thread that is not here."""


@atexit.register
def _close_all() -> None:
    for client in list(OPEN):
        with contextlib.suppress(Exception):
            client._close(ClosedMeanwhile("The program ended before it was closed."))


def _after_fork() -> None:
    """The child has no thread that runs the loop: clients opened before the fork are closed there."""
    global LOOP
    LEFT_BEHIND.append(LOOP)
    LOOP = Loop()
    for client in list(OPEN):
        LEFT_BEHIND.append(client._client)
        client._renew()
    OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
