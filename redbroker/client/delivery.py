"""What `send_nowait` gives: a light handle of one record; and the fate of a batch, which all its records share.

    Delivery ─► (Fate, place) ◄─ tells once ─ Batch

A handle is no more than its batch's fate and its place in it. The batch holds no handle, so one that its caller drops
is gone at once, the garbage collector never looks at it, and a batch is settled in one step however many records it
has. Only who waits costs something: a future or a callback, by place.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import Context, copy_context
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

from redbroker.client.errors import DeliveryError, ProducerRecord
from redbroker.client.types import Sent
from redbroker.errors import KafkaError

if TYPE_CHECKING:
    from redbroker.client.admission import Pairs

__all__ = ["Delivery", "Fate"]


class Delivery(tuple["Fate", int]):
    """One record on its way: `await` it for its place, or a `DeliveryError` that carries the record.

    Good for all that an `asyncio.Future` is good for: `gather`, `wait`, `wait_for`, `shield`, callbacks. Any number of
    tasks may await it, and one that is cancelled leaves the others waiting. `cancel`, which `gather` and `wait_for`
    call when they end early, ends the waiting for everybody, and takes no record back: it is still stored, once. A
    failure that nobody asks for is told once per batch, in the log.

        delivery = producer.send_nowait("orders", b"1 x tea")
        sent = await delivery
    """

    __slots__ = ()

    _asyncio_future_blocking = False  # asyncio takes what has this for a future

    def __await__(self) -> Generator[Any, None, Sent]:
        """Wait until the record is stored or has failed."""
        fate, place = self
        if not (fate.settled or place in fate.cancelled):
            waiter = fate.waiter(place)
            try:
                yield from waiter
            except BaseException:
                fate.forget(place, lambda each: each is waiter)
                raise
        return self.result()

    def done(self) -> bool:
        """Whether the record is stored, has failed, or is waited for no more."""
        fate, place = self
        return fate.settled or place in fate.cancelled

    def cancelled(self) -> bool:
        """Whether it was cancelled before it was told anything."""
        fate, place = self
        return place in fate.cancelled

    def cancel(self, msg: Any = None) -> bool:
        """Wait no more, nor let others wait; False when it is done. The record is stored all the same."""
        if self.done():
            return False
        fate, place = self
        fate.cancel(place, msg)
        return True

    def result(self) -> Sent:
        """The record's place; raises its DeliveryError, InvalidStateError before it is done, or CancelledError."""
        fate, place = self
        if (fate.failed or fate.cancelled or not fate.settled) and (error := self.exception()) is not None:
            raise error
        return fate.sent(place)

    def exception(self) -> DeliveryError | None:
        """Why it is not stored, if it is not; raises InvalidStateError before it is done, or CancelledError."""
        fate, place = self
        if place in fate.cancelled:
            raise self._make_cancelled_error()
        if not fate.settled:
            raise asyncio.InvalidStateError("The record is neither stored nor has it failed.")
        return fate.error(place)

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """Call `fn` with this in the loop's next turn once it is done."""
        fate, place = self
        context = copy_context() if context is None else context
        if self.done():
            fate.loop.call_soon(fn, self, context=context)
        else:
            fate.watch(place, (fn, self, context))

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        """Call `fn` no more; gives how often it would have been called."""
        fate, place = self
        return fate.forget(place, lambda each: isinstance(each, tuple) and each[0] == fn)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The producer's event loop."""
        return self[0].loop

    @property
    def _cancel_message(self) -> Any:
        """What `cancel` was given; asyncio looks at it."""
        fate, place = self
        return fate.cancelled.get(place)

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        """What asyncio asks a cancelled future for."""
        message = self._cancel_message
        return asyncio.CancelledError() if message is None else asyncio.CancelledError(message)

    def __repr__(self) -> str:
        fate, place = self
        if not self.done():
            told = "under way"
        elif self.cancelled():
            told = "cancelled"
        else:
            told = str(fate.error(place) or fate.sent(place))
        return f"<Delivery {told}>"


Columns = tuple[Sequence[bytes | None], Sequence[bytes | None] | None, Mapping[int, "Pairs"]]
"""Values, keys (None: no record has one) and headers of records, by place."""

new_tuple = tuple.__new__  # skips the argument handling of a named tuple's own constructor
NONE_CANCELLED: dict[int, Any] = {}


class Fate:
    """What becomes of records that travel together, by place.

    Times stand in runs, `times_ms[n]` from the place `since[n]` on: records that come together have the same one.
    """

    __slots__ = (
        "_base_offset", "_columns", "_error", "_watchers", "cancelled", "failed", "loop", "partition", "settled",
        "since", "times_ms", "topic",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, topic: str, partition: int | None) -> None:
        self.loop = loop
        self.topic = topic
        self.partition = partition
        self.settled = self.failed = False
        self.since = array("q")
        self.times_ms = array("q")
        self.cancelled = NONE_CANCELLED
        self._base_offset = -1
        self._error: KafkaError | None = None
        self._columns: Columns = ((), None, {})
        self._watchers: dict[int, Any] | None = None  # one by place, or a list of them

    def handles(self, place: int) -> Callable[[], Delivery]:
        """What gives this place's handle, then the next one's; all in C, for it is called for every record."""
        return map(Delivery, zip(repeat(self), count(place))).__next__

    def taken(self, place: int, timestamp_ms: int) -> None:
        """Records from this place on were taken at this time."""
        if not self.times_ms or self.times_ms[-1] != timestamp_ms:
            self.since.append(place)
            self.times_ms.append(timestamp_ms)

    # --- told ----------------------------------------------------------------------------------------------------

    def settle(self, base_offset: int | None) -> None:
        """All are stored from this offset on, or nobody asks where."""
        self._base_offset = -1 if base_offset is None else base_offset
        self._tell()

    def fail(self, error: KafkaError, columns: Columns) -> None:
        """None is stored, and who asks gets his record back."""
        self.failed, self._error, self._columns = True, error, columns
        self._tell()

    def cancel(self, place: int, message: Any) -> None:
        """Whoever waits for this one waits no more."""
        if self.cancelled is NONE_CANCELLED:
            self.cancelled = {}
        self.cancelled[place] = message
        if self._watchers is not None:
            self._wake(place, self._watchers.pop(place, []))

    def follow(self, other: Fate, place: int) -> None:
        """This one's only record became another's: it shares its fate."""
        self.partition = other.partition
        self.taken(0, other.time_ms(place))
        if other._error is None:
            self.settle(None if other._base_offset < 0 else other._base_offset + place)
        else:
            values, keys, headers = other._columns
            key = None if keys is None else keys[place]
            self.fail(other._error, ((values[place],), (key,), {0: headers.get(place, ())}))

    def _tell(self) -> None:
        self.settled = True
        watchers, self._watchers = self._watchers, None
        for place, watching in (watchers or {}).items():
            self._wake(place, watching)

    def _wake(self, place: int, watching: Any) -> None:
        for each in watching if watching.__class__ is list else (watching,):
            kind = each.__class__
            if kind is tuple:
                callback, delivery, context = each
                self.loop.call_soon(callback, delivery, context=context)
            elif kind is Fate:
                each.follow(self, place)
            elif not each.done():
                each.set_result(None)

    # --- asked ---------------------------------------------------------------------------------------------------

    def watch(self, place: int, watcher: Any) -> None:
        """Tell a future, another fate or a callback once this one is done."""
        if self.settled:
            self._wake(place, watcher)
            return
        if self._watchers is None:
            self._watchers = {}
        before = self._watchers.setdefault(place, watcher)
        if before.__class__ is list:
            before.append(watcher)
        elif before is not watcher:
            self._watchers[place] = [before, watcher]

    def waiter(self, place: int) -> asyncio.Future[None]:
        """A future of the caller's own that tells when a record is stored or has failed; he may cancel it."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self.watch(place, waiter)
        return waiter

    def forget(self, place: int, which: Callable[[Any], bool]) -> int:
        """Tell those no more; gives how many they were."""
        if self._watchers is None or place not in self._watchers:
            return 0
        watching = self._watchers.pop(place)
        if watching.__class__ is not list:
            watching = [watching]
        kept = [each for each in watching if not which(each)]
        if kept:
            self._watchers[place] = kept
        return len(watching) - len(kept)

    def sent(self, place: int) -> Sent:
        """Where a record is, once all are stored."""
        offset = -1 if self._base_offset < 0 else self._base_offset + place
        return new_tuple(Sent, (self.topic, self.partition, offset, self.time_ms(place)))

    def error(self, place: int) -> DeliveryError | None:
        """Why a record is not stored, if they failed."""
        if self._error is None:
            return None
        values, keys, headers = self._columns
        record = ProducerRecord(
            self.topic, values[place], None if keys is None else keys[place], headers.get(place, ()), self.partition,
            self.time_ms(place) if self.times_ms else None,
        )  # fmt: skip
        return DeliveryError(self._error.code, self._error.message, record)

    def time_ms(self, place: int) -> int:
        """When a record was taken."""
        times_ms = self.times_ms
        return times_ms[0] if len(times_ms) == 1 else times_ms[bisect_right(self.since, place) - 1]
