"""Tail: wakes those who wait for new entries, without polling.

Every append announces `<next> <written>` on its partition's channel (`keys.tail`): the log end and the bytes ever
appended. A worker listens on one connection per Redis node and keeps a subscription `wait_idle_ms` beyond its last
waiter. `written` only grows, so a waiter who knows what it was at its last read needs no locks and misses nothing:

    Log.read -> written 900          Tail.wait({channel: 900}, missing 100)  ->  True at "… 1000"

Where a log has replicas, its announcements stop at `gate`: readers are woken by `advance`, when the high watermark has
followed (see `watermark.py`).

A wake-up may be spurious: once after a subscription is confirmed or lost, because announcements in between are
unknown. The caller reads again and waits again, until its own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.subscriber import Subscriber
from redbroker.engine.target import Address, StorageError

# A retained announcement counts for a new waiter this long: its read may have been under way when it came. Later
# than that the reader has seen more, or the log was cut by a failover and the announcement is void.
RETAINED_S = 1.0
RETRY_FIRST_S = 0.02
RETRY_LONGEST_S = 1.0

log = logging.getLogger(__name__)


class Waiter:
    """One `wait`: what is still missing over all its channels."""

    __slots__ = ("gained", "known", "missing", "woken")

    def __init__(self, known: Mapping[bytes, int], missing_bytes: int) -> None:
        self.known = known
        self.missing = max(1, missing_bytes)
        self.gained: dict[bytes, int] = {}
        self.woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def heard(self, channel: bytes, written: int) -> None:
        """Count what a channel gained; a counter that went back means another log."""
        gain = written - self.known[channel]
        self.gained[channel] = gain
        if gain < 0 or sum(self.gained.values()) >= self.missing:
            self.wake(True)

    def wake(self, result: bool) -> None:
        """End the wait."""
        if not self.woken.done():
            self.woken.set_result(result)


class Channel:
    """One channel: who waits or listens, and what was last heard when."""

    __slots__ = ("confirmed", "end", "heard_s", "idle_since_s", "listeners", "name", "waiters", "written")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.waiters: set[Waiter] = set()
        self.listeners: list[Callable[[bytes], None]] = []
        self.confirmed = 0  # the number of the subscription that works now; 0: none does
        self.written = 0
        self.end = -1  # the log end as last announced
        self.heard_s = float("-inf")
        self.idle_since_s = 0.0

    def uncertain(self) -> None:
        """Announcements may have been missed: everybody looks again."""
        self.heard_s = float("-inf")
        for waiter in list(self.waiters):
            waiter.wake(True)


class Tail:
    """Waits for announcements of appends, and other messages, on sharded pub/sub channels."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._timeout_s = settings.storage_timeout_ms / 1000
        self._idle_s = settings.wait_idle_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._channels: dict[bytes, Channel] = {}
        self._subscribers: dict[Address, Subscriber] = {}
        self._unplaced: set[bytes] = set()
        self._placing: asyncio.Task[None] | None = None
        self._retry_s = 0.0
        self._closed = False
        self._confirmations = 0
        self.gate: Callable[[bytes, int, int], bool] = lambda channel, end, written: False
        self._sweeper = self._loop.call_later(self._idle_s / 4, self._sweep)
        storage.on_topology_change(self._move)

    # --- what callers use --------------------------------------------------------------------------------------

    async def wait(self, known: Mapping[bytes, int], missing_bytes: int, timeout_s: float) -> bool:
        """True once `missing_bytes` more than `known` (channel -> `written`) are announced; False at the time-out.

        True may come too early (see above), so the caller reads and, if it must, waits again.
        """
        waiter = Waiter(known, missing_bytes)
        timer = self._loop.call_later(timeout_s, waiter.wake, False)
        channels = [self._channel(name) for name in known]
        try:
            fresh_s = self._loop.time() - RETAINED_S
            for channel in channels:
                channel.waiters.add(waiter)
                if channel.heard_s >= fresh_s and channel.written > known[channel.name]:
                    waiter.heard(channel.name, channel.written)
            return await waiter.woken
        finally:
            timer.cancel()
            for channel in channels:
                channel.waiters.discard(waiter)
                channel.idle_since_s = self._loop.time()

    def announce(self, channel: bytes, next_offset: int, written: int) -> None:
        """This worker appended: wake its own waiters without the way through Redis.

        The answer of an append may come after the announcement of a later one: a live subscription is not contradicted.
        """
        known = self._channels.get(channel)
        if known is not None and (written > known.written or not known.confirmed):
            self._announced(known, next_offset, written)

    def advance(self, channel: bytes, next_offset: int, written: int) -> None:
        """The high watermark has reached an end whose announcement the gate kept back."""
        known = self._channels.get(channel)
        if known is not None:
            self._announced(known, next_offset, written)

    def awaited(self, channel: bytes) -> bool:
        """Does anybody wait on this channel now?"""
        known = self._channels.get(channel)
        return known is not None and bool(known.waiters)

    def end(self, channel: bytes) -> int:
        """The log end as last announced; -1 where nothing was heard."""
        known = self._channels.get(channel)
        return -1 if known is None else known.end

    def written(self, channel: bytes) -> int:
        """The counter as last announced; 0 where nothing was heard."""
        known = self._channels.get(channel)
        return 0 if known is None else known.written

    def subscription(self, channel: bytes) -> int:
        """The number of the subscription that tells every append to this channel; 0 while none is confirmed.

        The same number before a look and now means that whatever was appended since then has been announced, or is
        on its way and will wake who waits.
        """
        known = self._channels.get(channel)
        return 0 if known is None else known.confirmed

    def moved(self, channel: bytes, written: int) -> bool:
        """Was more announced than `written`?"""
        known = self._channels.get(channel)
        return known is not None and known.written > written

    async def listen(self, channel: bytes, callback: Callable[[bytes], None]) -> None:
        """Call `callback` with every message of `channel`, for good; b"" stands for "perhaps missed some"."""
        self._channel(channel).listeners.append(callback)

    async def close(self) -> None:
        """Close the connections; waiters wake with False."""
        self._closed = True
        self._sweeper.cancel()
        if self._placing is not None:
            self._placing.cancel()
            await asyncio.wait([self._placing])
        for channel in self._channels.values():
            for waiter in list(channel.waiters):
                waiter.wake(False)
        for subscriber in self._subscribers.values():
            await subscriber.close()
        self._subscribers.clear()

    # --- what subscribers report -------------------------------------------------------------------------------

    def heard(self, channel: bytes, message: bytes) -> None:
        """A message; `<next> <written>` wakes waiters."""
        known = self._channels.get(channel)
        if known is None:
            return
        if known.waiters or not known.listeners:
            end, _, written = message.partition(b" ")
            if written.isdigit():  # groups announce `<phase> <version>`
                place = int(end) if end.isdigit() else -1, int(written)
                if not self.gate(channel, *place):
                    self._announced(known, *place)
        for callback in known.listeners:
            callback(message)

    def confirmed(self, channel: bytes) -> None:
        """A subscription works from now on; what came before it is unknown."""
        self._retry_s = 0.0
        known = self._channels.get(channel)
        if known is not None:
            self._confirmations += 1
            known.confirmed = self._confirmations
            self._uncertain(known)

    def dropped(self, subscriber: Subscriber, channel: bytes, why: str) -> None:
        """The node refused or gave up a channel: find its new one."""
        log.debug("subscription to %r on %s ended: %s", channel, subscriber.address, why)
        self._storage.refresh_soon()
        self._misplaced([channel])

    def lost(self, subscriber: Subscriber, error: Exception) -> None:
        """A connection is gone."""
        log.warning("redis %s was lost by its subscriber: %s", subscriber.address, error)
        if self._subscribers.get(subscriber.address) is subscriber:
            del self._subscribers[subscriber.address]
        self._storage.refresh_soon()
        self._misplaced(subscriber.channels)

    def _announced(self, channel: Channel, end: int, written: int) -> None:
        channel.end, channel.written, channel.heard_s = end, written, self._loop.time()
        for waiter in list(channel.waiters):
            waiter.heard(channel.name, written)

    def _uncertain(self, channel: Channel) -> None:
        channel.uncertain()
        for callback in channel.listeners:
            callback(b"")

    # --- placing channels on nodes -----------------------------------------------------------------------------

    def _channel(self, name: bytes) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name)
            subscriber = self._subscribers.get(self._storage.master_of(name))
            if subscriber is not None:
                subscriber.subscribe([name])
            else:
                self._unplaced.add(name)
                self._place_soon()
        return channel

    def _misplaced(self, names: Iterable[bytes]) -> None:
        for name in names:
            channel = self._channels.get(name)
            if channel is not None:
                self._unplaced.add(name)
                if channel.confirmed:
                    channel.confirmed = 0
                    self._uncertain(channel)
        self._retry_s = self._retry_s or RETRY_FIRST_S
        self._place_soon()

    def _move(self) -> None:
        """Slots have other masters: channels follow them."""
        for subscriber in list(self._subscribers.values()):
            gone = [name for name in subscriber.channels if self._storage.master_of(name) != subscriber.address]
            if gone:
                subscriber.unsubscribe(gone)
                self._misplaced(gone)

    def _place_soon(self) -> None:
        if self._unplaced and not self._closed and (self._placing is None or self._placing.done()):
            self._placing = self._loop.create_task(self._place())

    async def _place(self) -> None:
        """Subscribe every unplaced channel at its master, with growing pauses while that fails."""
        while self._unplaced:
            if self._retry_s:
                await asyncio.sleep(self._retry_s * random.uniform(0.5, 1.0))
            homes: dict[Address, list[bytes]] = {}
            for name in self._unplaced:
                homes.setdefault(self._storage.master_of(name), []).append(name)
            await asyncio.gather(*(self._place_at(address, names) for address, names in homes.items()))
            self._retry_s = min(2 * self._retry_s or RETRY_FIRST_S, RETRY_LONGEST_S)

    async def _place_at(self, address: Address, names: list[bytes]) -> None:
        subscriber = self._subscribers.get(address)
        if subscriber is None:
            subscriber = Subscriber(self, address, self._timeout_s)
            try:
                await subscriber.open(self._storage.target.access, min(self._timeout_s, RETRY_LONGEST_S))
            except (OSError, StorageError) as error:
                log.debug("cannot subscribe at %s: %s", address, error)
                self._storage.refresh_soon()
                return
            self._subscribers[address] = subscriber
        here = [name for name in names if name in self._channels and self._storage.master_of(name) == address]
        self._unplaced.difference_update(here)  # the others have moved on, or are gone, while the connection was opened
        subscriber.subscribe(here)

    def _sweep(self) -> None:
        """Drop subscriptions nobody has waited on for `wait_idle_ms`."""
        idle_before_s = self._loop.time() - self._idle_s
        for name, channel in list(self._channels.items()):
            if not channel.waiters and not channel.listeners and channel.idle_since_s <= idle_before_s:
                del self._channels[name]
                self._unplaced.discard(name)
                for subscriber in self._subscribers.values():
                    subscriber.unsubscribe([name])
        self._sweeper = self._loop.call_later(self._idle_s / 4, self._sweep)
