"""The app: typed topics, handlers, and a life from start to drained end.

app = RedBroker("redis://localhost:6379")
orders = app.topic("orders", key=str, value=Order)

@orders.subscribe(group="billing", parallel_by_key=16, retry=Retry(attempts=5), dlq="orders.dlq")
async def bill(order: Order, ctx: Context) -> None: ...

app.run()                                   # until SIGTERM or SIGINT: finishes, commits, leaves
async with app: await orders.send(order)    # or inside somebody else's event loop, as app.lifespan does
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from redbroker.client.clock import Clock
from redbroker.client.connection import Connection
from redbroker.client.errors import ProducerRecord, SerializationError
from redbroker.client.producer import Producer
from redbroker.client.retries import FAILURE_BYTES_MAX, NEVER, Retry
from redbroker.client.serializers import decoded, serializer_for
from redbroker.client.subscription import Running, Subscription, Undecodable
from redbroker.client.types import ConsumerRecord, Sent
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from redbroker.client.testing import AppTest

__all__ = ["RedBroker", "TypedTopic"]

log = logging.getLogger(__name__)

DRAIN_S = 10.0
BYTES_MAX = (1 << 31) - 1
K = TypeVar("K", default=bytes)
V = TypeVar("V", default=bytes)
H = TypeVar("H", bound=Callable[..., Any])


class TypedTopic(Generic[K, V]):
    """A topic with the types of its keys and values.

    `RedBroker.topic` makes it. All there is, at once:

        orders = RedBroker("redis://localhost:6379").topic("orders", key=str, value=dict)

        @orders.subscribe(group="billing")
        async def bill(order: dict) -> None:
            print(order["id"])

        async with orders.app:
            await orders.send({"id": 1}, key="ann")
        key, value = orders.encode("ann", {"id": 1})  # bytes, as `send` stores them
        orders.decode(ConsumerRecord("orders", 0, 0, 0, key, value))  # and back, as a handler gets them
    """

    def __init__(
        self,
        app: RedBroker,
        name: str,
        key: type[K],
        value: type[V],
        partitions: int | None,
        configs: Mapping[str, str],
    ) -> None:
        self.app, self.name, self.partitions, self.configs = app, name, partitions, dict(configs)
        self._key, self._value = serializer_for(key), serializer_for(value)

    async def send(
        self, value: V | None, *, key: K | None = None, headers: Any = (), partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Sent:  # fmt: skip
        """Send one record and wait until it is stored; gives its place. DeliveryError when it could not be.

        sent = await orders.send(Order(id=1), key="42")
        """
        made_key, made = self.encode(key, value)
        return await self.app.send_bytes(
            self.name, made, key=made_key, headers=headers, partition=partition, timestamp_ms=timestamp_ms
        )

    def encode(self, key: K | None, value: V | None) -> tuple[bytes | None, bytes | None]:
        """Key and value as bytes; `SerializationError` names the part that is not of its type."""
        part = "key"
        try:
            made_key = self._key.encode(key)
            part = "value"
            return made_key, self._value.encode(value)
        except Exception as fault:
            record = ProducerRecord(self.name, value, key)
            message = f"The {part} of a record for {self.name} is wrong: {fault}"
            raise SerializationError(ErrorCode.INVALID_RECORD, message, record) from fault

    def decode(self, record: ConsumerRecord) -> ConsumerRecord:
        """The record with key and value of the declared types; `DeserializationError` tells which was not."""
        return decoded(record, self._key, self._value)

    def subscribe(
        self,
        *,
        group: str,
        parallel_by_key: int = 1,
        retry: Retry = NEVER,
        dlq: str | None = None,
        undecodable: Undecodable = "raise",
        to: str | None = None,
        drain_s: float = DRAIN_S,
        stuck_after_s: float = 300.0,
        **settings: Any,
    ) -> Callable[[H], H]:
        """Handle this topic's records as a member of `group`; the handler takes the value, or value and `Context`.

        `parallel_by_key`: so many records at once, those of one key in order; 1: in order per partition. `retry` and
        `dlq`: what becomes of a record whose handler raises; without them the app stops there. `undecodable`: `raise`
        (the app stops), `skip` (counted) or `dead-letter`. `to`: topic of what the handler returns, unless None.
        `drain_s` bounds how long running handlers may finish when a partition goes or the app stops; then they are
        cancelled, and their records are handled again. When the app stops, what was sent gets as long once more.
        `stuck_after_s`: the app is not healthy while a handler has had one record for longer. Further settings are the
        consumer's. Functions that are not async run in threads, which cannot be cancelled and are not
        waited for at the end of the process.
        """

        def register(handler: H) -> H:
            self.app.add(
                Subscription(
                    self,
                    group,
                    handler,
                    parallel_by_key,
                    retry,
                    dlq,
                    undecodable,
                    to,
                    drain_s,
                    stuck_after_s,
                    settings=settings,
                )
            )
            return handler

        return register


class RedBroker:
    """One service: its topics, handlers and connection.

    Nothing is done before `async with`, `run` or `test`. All there is, at once:

        app = RedBroker("redis://localhost:6379")
        lines = app.topic("lines", value=str, partitions=4)
        app.metrics(CollectorRegistry())  # its figures for Prometheus

        async with app.test() as t:  # without a server
            await t.send("lines", "first")

        async with app.lifespan():  # as a web server does; a service says app.run()
            await app.send("lines", "second")
            await app.send_bytes("lines", b"third", key=b"k")
            print(app.health()["healthy"], app.counts())
    """

    def __init__(self, storage: str | Connection | None = None, **settings: Any) -> None:
        self.connection = storage if isinstance(storage, Connection) else Connection(storage, **settings)
        self._shared = self.connection if isinstance(storage, Connection) else None
        self.clock = Clock()
        self.topics: dict[str, TypedTopic[Any, Any]] = {}
        self.subscriptions: list[Subscription] = []
        self.running: list[Running] = []
        self.failure: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # where it runs, while it runs
        self._producer: Producer | None = None
        self._stack: contextlib.AsyncExitStack | None = None
        self._ended = asyncio.Event()

    # --- declaring -----------------------------------------------------------------------------------------------

    def topic(
        self, name: str, *, key: type[K] = bytes, value: type[V] = bytes,  # type: ignore[assignment]
        partitions: int | None = None, configs: Mapping[str, str] | None = None,
    ) -> TypedTopic[K, V]:  # fmt: skip
        """Declare a topic. It is made at the start if there is none, with `partitions` and `configs`.

        orders = app.topic("orders", key=str, value=Order, partitions=12)
        """
        if name in self.topics:
            raise ValueError(f"Topic {name!r} is declared already.")
        made = TypedTopic(self, name, key, value, partitions, configs or {})
        self.topics[name] = made
        return made

    def add(self, subscription: Subscription) -> None:
        """Register a subscription; `topic.subscribe` does."""
        if self._stack is not None:
            raise RuntimeError("The app runs already: subscribe before it starts.")
        same = [
            each for each in self.subscriptions if (each.topic, each.group) == (subscription.topic, subscription.group)
        ]
        if same:
            raise ValueError(f"Group {subscription.group!r} handles topic {subscription.topic.name!r} already.")
        self.subscriptions.append(subscription)

    # --- sending -------------------------------------------------------------------------------------------------

    async def send(self, topic: str, value: Any, *, key: Any = None, headers: Any = ()) -> Sent:
        """Send to a topic by its name: as its declared types, or bytes, text and JSON where it is not declared."""
        declared = self.topics.get(topic)
        if declared is not None:
            return await declared.send(value, key=key, headers=headers)
        return await self.send_bytes(topic, plain(value), key=plain(key), headers=headers)

    async def send_bytes(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Any = (),
        partition: int | None = None, timestamp_ms: int | None = None,
    ) -> Sent:  # fmt: skip
        """Send what is bytes already."""
        if self._producer is None:
            raise RuntimeError("The app does not run: `async with app`, `app.run()` or `app.lifespan` starts it.")
        stamp = self.clock.stamp() if timestamp_ms is None else timestamp_ms
        return await self._producer.send(
            topic, value, key=key, headers=headers, partition=partition, timestamp_ms=stamp
        )

    # --- living --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> RedBroker:
        if self._stack is not None:
            raise RuntimeError("The app runs already.")
        self.failure, self._ended = None, asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            if self.connection is not self._shared:
                await stack.enter_async_context(self.connection)
            self._producer = await Producer(self.connection).__aenter__()
            drain_s = max((each.drain_s for each in self.subscriptions), default=DRAIN_S)
            stack.push_async_callback(self._producer.close, drain_s)
            await self._make_topics()
            self.running = [Running(each, self) for each in self.subscriptions]
            tasks = [asyncio.create_task(each.run()) for each in self.running]
            for task in tasks:
                task.add_done_callback(self._over)
            stack.push_async_callback(self._stop, tasks)
            self._stack = stack.pop_all()
        self.loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self.loop = self._stack, None, None
        if stack is not None:
            await stack.aclose()
        self._producer = None

    async def _make_topics(self) -> None:
        """Make what is declared or needed and not there.

        Retry and dead-letter topics are as wide as the widest topic whose records they take, and have room for its
        largest record with what a failure adds.
        """
        topics = self.connection.engine.topics
        await topics.reload()
        for each in self.subscriptions:
            await self._make(each.topic.name, each.topic.partitions, each.topic.configs)
        needed: dict[str, tuple[int, int]] = {}  # partitions, and bytes of the largest record
        for each in self.subscriptions:
            if (found := topics.get(each.topic.name)) is not None:
                size = found.partitions, min(BYTES_MAX, found.max_message_bytes + FAILURE_BYTES_MAX)
                for name in (*each.topics[1:], *((each.dlq,) if each.dlq else ())):
                    needed[name] = max(size[0], needed.get(name, size)[0]), max(size[1], needed.get(name, size)[1])
        for name, (width, nbytes) in needed.items():
            declared, configs = self.topics.get(name), {"max.message.bytes": str(nbytes)}
            partitions = declared.partitions if declared else None
            await self._make(name, partitions or width, configs | (declared.configs if declared else {}))
            if (made := topics.get(name)) is not None and made.max_message_bytes < nbytes:
                log.warning(
                    "Topic %s takes records of up to %d bytes, too few for the largest that may fail: set its"
                    " max.message.bytes to %d.", name, made.max_message_bytes, nbytes,
                )  # fmt: skip
        for name, declared in self.topics.items():
            await self._make(name, declared.partitions, declared.configs)

    async def _make(self, name: str, partitions: int | None, configs: Mapping[str, str]) -> None:
        topics = self.connection.engine.topics
        if await topics.find(name) is None:
            try:
                await topics.create(name, partitions, configs)
            except KafkaError as refused:
                if refused.code is not ErrorCode.TOPIC_ALREADY_EXISTS:  # another process of the service was first
                    raise

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.failure = self.failure or error
            log.error("A subscription has stopped, and the app with it: %s", error, exc_info=error)
            self._ended.set()

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.running = []

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then finish what is in flight, commit and leave; raises what ended it before."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        async with self:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._ended.set)
            try:
                await self._ended.wait()
            finally:
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.remove_signal_handler(number)
        if self.failure is not None:
            raise self.failure

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any = None) -> AsyncIterator[None]:
        """For FastAPI and Starlette: `FastAPI(lifespan=app.lifespan)`."""
        async with self:
            yield

    def health(self) -> dict[str, Any]:
        """How the app is, as JSON: `healthy`, and per subscription its state and lag in records and seconds."""
        parts = []
        for each in self.running:
            found = each.consumer.health()
            parts.append(
                {
                    "topic": each.subscription.topic.name,
                    "group": each.subscription.group,
                    "state": "stuck" if each.hangs else found.state,
                    "lag_records": found.lag_records,
                    "lag_s": found.lag_s,
                    "partitions": len(found.assignment),
                    "in_flight": each.lanes.in_flight,
                    "oldest_s": each.lanes.oldest_s,
                    "handled": each.counts.handled,
                    "retried": each.counts.retried,
                    "dead": each.counts.dead,
                    "skipped": each.counts.skipped + sum(each.consumer.skipped().values()),
                }
            )
        healthy = (
            self.failure is None and self._producer is not None and all(each["state"] != "stuck" for each in parts)
        )
        return {
            "healthy": healthy,
            "failure": None if self.failure is None else str(self.failure),
            "subscriptions": parts,
        }

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Records this app has sent, by topic: those that are stored, and those that failed."""
        return ({}, {}) if self._producer is None else self._producer.counts()

    def metrics(self, registry: CollectorRegistry) -> None:
        """Add this app's figures to a Prometheus registry, for as long as that lives: `redbroker.client.metrics`."""
        from redbroker.client.metrics import AppMetrics

        registry.register(AppMetrics(self))

    def test(self) -> AppTest:
        """The app without a server, for tests: see `redbroker.client.testing`."""
        from redbroker.client.testing import AppTest

        return AppTest(self)


def plain(value: Any) -> bytes | None:
    """Bytes of what no topic declares: bytes as they are, text as UTF-8, the rest as JSON."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    kind: Any = type(value)
    return made_once(kind).encode(value)


made_once = functools.lru_cache(maxsize=256)(serializer_for)
"""To make a serializer takes a millisecond."""
