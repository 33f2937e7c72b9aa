"""A hold: stands in a slot's place while refused calls of that slot come back, so that their order is kept.

    batches 1 2 3 sent; 1 is answered MOVED          -> hold: a PING behind 3 marks what is still to come back
    4 is submitted meanwhile                          -> kept
    2 and 3 come back MOVED, then the PING            -> 1 2 3 go to the new master, then 4

The same holds for NOSCRIPT (then they go back as EVAL) and for refusals that pass with time (with a pause).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from redbroker.engine.lane import Lane
from redbroker.engine.resp import Call
from redbroker.errors import ErrorCode


class Releaser(Protocol):
    """What a hold needs from the storage."""

    def route(self, call: Call) -> None:
        """Submit a call to whatever serves its slot now."""

    def release(self, table: list[Any], slot: int) -> None:
        """Put the slot's lane back in its place."""


class Hold:
    """Collects the calls of one slot."""

    def __init__(self, storage: Releaser, table: list[Any], slot: int, calls_max: int) -> None:
        self._storage, self._table, self._slot, self._calls_max = storage, table, slot, calls_max
        self._returned: list[Call] = []
        self._fresh: list[Call] = []
        self._given_up: set[bytes] = set()
        self._lanes: set[Lane] = set()
        self._outstanding = 1
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._one_down)

    def submit(self, call: Call) -> None:
        """A new call for the slot: it goes after those that come back."""
        if len(self._fresh) >= self._calls_max:
            call.fail(ErrorCode.REQUEST_TIMED_OUT, "Too many calls wait for this Redis slot (storage_pending_max).")
        else:
            self._fresh.append(call)

    def again(self, lane: Lane, call: Call, delay_s: float) -> None:
        """A refused call came back from `lane`; what was sent there after it may come back too."""
        self._returned.append(call)
        self._mark(lane, delay_s)

    def give_up(self, lane: Lane, log: bytes) -> None:
        """A refused call from `lane` has failed for good: those behind it for the same log must not be stored alone."""
        self._given_up.add(log)
        self._mark(lane, 0.0)

    def _mark(self, lane: Lane, delay_s: float) -> None:
        """Wait until `lane` has answered all that was sent before, and for the pause its refusal asks for."""
        if lane not in self._lanes:
            self._lanes.add(lane)
            marker = lane.errand("PING")
            if marker is not None:
                self._outstanding += 1
                marker.add_done_callback(self._one_down)
            if delay_s:
                self._outstanding += 1
                self._loop.call_later(delay_s, self._one_down)

    def hold_back(self, call: Call) -> None:
        """An unanswered call of a lost connection: sent after those that came back, and before what is new."""
        self._returned.append(call)

    def _one_down(self, _: object = None) -> None:
        self._outstanding -= 1
        if self._outstanding == 0:
            self._storage.release(self._table, self._slot)
            for call in (*self._returned, *self._fresh):
                if call.follows in self._given_up:
                    call.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER, "Redis is moving or failing over; try again.")
                elif not call.done():
                    self._storage.route(call)

    def close(self) -> None:
        """Fail what is held; the storage is closing."""
        for call in (*self._returned, *self._fresh):
            call.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER, "The storage was closed.")
