"""Many records at once, and yet in order: per key when they are handled, per partition when they are committed.

    put ──► a lane per key ──► at most `parallel` handlers at once, one per lane
                                    │ done, in any order
    committable ◄── low-water mark per partition: everything below it is done

A lane is whatever must stay in order: a partition, or a key in it. No more than `most` records are in flight, waiting
ones included, so a slow handler holds the reader back and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Generic, NamedTuple, TypeVar

from redbroker.types import TopicPartition

__all__ = ["Lanes", "LowWater"]

R = TypeVar("R")


class LowWater:
    """One partition's records in flight, and how far all of them are done."""

    __slots__ = ("_done", "_flying", "_next")

    def __init__(self) -> None:
        self._flying: deque[int] = deque()
        self._done: set[int] = set()
        self._next = -1

    def begin(self, offset: int) -> None:
        """A record was taken up; offsets only grow."""
        self._flying.append(offset)

    def done(self, offset: int) -> None:
        """It is done with, whatever others are."""
        self._done.add(offset)
        while self._flying and self._flying[0] in self._done:
            self._next = self._flying.popleft() + 1
            self._done.discard(self._next - 1)

    @property
    def committable(self) -> int:
        """The offset to commit: of the first record not done; -1 while that is not known."""
        return self._next


class Item(NamedTuple, Generic[R]):
    """One record in flight."""

    place: TopicPartition
    offset: int
    record: R


class Lanes(Generic[R]):
    """Handles records concurrently. `handle` answers for a record: when it returns, the record is done with.

    What `handle` raises ends the work: `put` and `drained` raise it, and nothing behind the record is done.
    """

    def __init__(
        self, handle: Callable[[R], Awaitable[None]], *, parallel: int, most: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        if parallel < 1 or most < parallel:
            raise ValueError(f"parallel = {parallel} and most = {most} are wrong: 1 <= parallel <= most.")
        self._handle, self._parallel, self._most, self._now_s = handle, parallel, most, now_s
        self._waiting: dict[Hashable, deque[Item[R]]] = {}  # by lane, the running lanes' too
        self._ready: deque[Hashable] = deque()  # lanes that wait for a handler
        self._running: dict[asyncio.Task[None], tuple[TopicPartition, float]] = {}  # since when; the oldest first
        self._marks: dict[TopicPartition, LowWater] = {}
        self._in_flight: dict[TopicPartition, int] = {}
        self._moved = asyncio.Event()
        self.failure: BaseException | None = None

    @property
    def in_flight(self) -> int:
        """Records taken up and not done with."""
        return sum(self._in_flight.values())

    @property
    def oldest_s(self) -> float:
        """How long the handler that began first, of those that run, has had its record."""
        for _, since in self._running.values():
            return self._now_s() - since
        return 0.0

    async def put(
        self, place: TopicPartition, offset: int, lane: Hashable, record: R, *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> bool:  # fmt: skip
        """Take a record up, as soon as there is room; False where it is no longer `wanted` by then."""
        while self.in_flight >= self._most and self.failure is None:
            await self._move()
        self._raise()
        if not wanted():
            return False
        self._marks.setdefault(place, LowWater()).begin(offset)
        self._in_flight[place] = self._in_flight.get(place, 0) + 1
        waiting = self._waiting.get(lane)
        if waiting is None:
            waiting = self._waiting[lane] = deque()
            self._ready.append(lane)
        waiting.append(Item(place, offset, record))
        self._start()
        return True

    def committable(self) -> dict[TopicPartition, int]:
        """Per partition, the offset up to which every record is done with."""
        return {place: mark.committable for place, mark in self._marks.items() if mark.committable >= 0}

    async def drained(self) -> None:
        """Return when nothing is in flight."""
        while self.in_flight and self.failure is None:
            await self._move()
        self._raise()

    async def broken(self) -> None:
        """Wait for a handler to fail, and raise what it raised."""
        while self.failure is None:
            await self._move()
        self._raise()

    async def give_up(self, places: Collection[TopicPartition], timeout_s: float) -> dict[TopicPartition, int]:
        """Hand nothing more of these partitions out, finish what runs or cancel it after `timeout_s`.

        Gives what is committable of them by then, and forgets them.
        """
        for lane, waiting in list(self._waiting.items()):
            kept = deque(item for item in waiting if item.place not in places)
            for item in waiting:
                if item.place in places:
                    self._in_flight[item.place] -= 1
            self._waiting[lane] = kept
        running = [task for task, (place, _) in self._running.items() if place in places]
        if running:
            _, late = await asyncio.wait(running, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        marks = {place: self._marks.pop(place).committable for place in places if place in self._marks}
        for place in places:
            self._in_flight.pop(place, None)
        self._wake()
        return {place: offset for place, offset in marks.items() if offset >= 0}

    async def close(self, timeout_s: float) -> dict[TopicPartition, int]:
        """`give_up` of everything."""
        return await self.give_up(list(self._marks), timeout_s)

    # --- inside --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        while self._ready and len(self._running) < self._parallel and self.failure is None:
            lane = self._ready.popleft()
            waiting = self._waiting[lane]
            if not waiting:
                del self._waiting[lane]
                continue
            item = waiting.popleft()
            task = asyncio.get_running_loop().create_task(self._one(item))
            self._running[task] = item.place, self._now_s()
            task.add_done_callback(lambda task, lane=lane, item=item: self._ended(task, lane, item))  # type: ignore[misc]

    async def _one(self, item: Item[R]) -> None:
        await self._handle(item.record)

    def _ended(self, task: asyncio.Task[None], lane: Hashable, item: Item[R]) -> None:
        """One handler has ended: its lane goes to the end of the queue, so that busy keys do not starve others."""
        del self._running[task]
        mark = self._marks.get(item.place)
        if task.cancelled():
            pass  # given up: whoever reads the partition next tries again
        elif error := task.exception():
            self.failure = self.failure or error
        elif mark is not None:
            mark.done(item.offset)
        if mark is not None:
            self._in_flight[item.place] -= 1
        self._ready.append(lane)
        self._start()
        self._wake()

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _wake(self) -> None:
        self._moved.set()

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure
