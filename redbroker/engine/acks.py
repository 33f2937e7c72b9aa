"""The lane of acks=all: scripts and one WAIT for all of them, group-committed.

WAIT speaks about the last write of its own connection only, so scripts and WAIT share this one, and nothing else
uses it. All calls of a loop tick form a group: their scripts, then one WAIT for the most replicas any of them asks for.

    tick 1:  EVALSHA a  EVALSHA b  WAIT 1 200        at most WAITS_MAX groups are under way; later calls gather
    tick 2:  EVALSHA c             WAIT 1 200        behind them and form the next group

A WAIT blocks its connection, so it asks for `WAIT_SLICE_MS` at most. Calls whose replicas have not acknowledged by
then and who still have time join the next group's WAIT, which covers their writes too.

WAIT compares offsets of the history the node has now. A master that followed another one meanwhile, and leads again,
has lost the write and still counts its replicas. That takes a moment, so a WAIT right behind its script cannot be
deceived. Where a moment has passed (the next group's WAIT, or a worker that was paused), the replication id is asked
for behind it: is it the one this connection began with, nothing was taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import hiredis

from redbroker.engine.discovery import info_field
from redbroker.engine.lane import Lane, Router
from redbroker.engine.refusals import TRANSIENT
from redbroker.engine.resp import Call, Errand, Pipe
from redbroker.engine.target import Address
from redbroker.errors import ErrorCode

WAITS_MAX = 4
WAIT_SLICE_MS = 200
LATE_S = 1.0
"""A WAIT that takes longer may not have followed its scripts at once."""
ELSEWHERE = TRANSIENT | {"MOVED"}
"""Refusals after which a call may end up at another node."""


class AckedCall(Call):
    """A script call that ends with `(reply, replicas that acknowledged)`.

    `replicas` is how many must, `deadline` the loop time until which they may.
    """

    __slots__ = ("deadline", "lane", "replicas", "reply")

    deadline: float
    lane: AckLane
    replicas: int
    reply: Any
    acked: int = 0
    lingered: bool = False

    def answer(self, reply: Any) -> None:
        """The script's reply: final without replicas to wait for, else kept until the WAIT behind it."""
        if not self.replicas:
            self.set_result((reply, 0))
            return
        self.reply = reply
        self.lane.answered.append(self)


class Wait(Errand):
    """The WAIT that ends a group."""

    __slots__ = ("lane",)

    def __init__(self, lane: AckLane, replicas: int, timeout_ms: int) -> None:
        super().__init__(asyncio.get_running_loop(), "WAIT", replicas, timeout_ms)
        self.lane = lane

    def answer(self, reply: Any) -> None:
        """The count of replicas, in line with the scripts' replies (a callback would come one tick late)."""
        super().answer(reply)
        took_s = self._loop.time() - self.born
        self.lane.waits_took(took_s)
        self.lane.waited(reply, late=took_s > LATE_S)


class Identity(Errand):
    """INFO, for the replication id."""

    __slots__ = ("lane",)

    def __init__(self, lane: AckLane) -> None:
        super().__init__(asyncio.get_running_loop(), "INFO", "replication")
        self.lane = lane

    def answer(self, reply: Any) -> None:
        """Whose history the node has, in line with the other replies."""
        super().answer(reply)
        self.lane.identified(reply)


class AckLane(Lane):
    """Script calls to one node, with replication."""

    def __init__(self, router: Router, address: Address) -> None:
        super().__init__(router, address)
        self.answered: list[AckedCall] = []
        self._lingering: list[AckedCall] = []
        self._doubted: list[AckedCall] = []
        self._rid = ""
        self._gathered: list[Call] = []
        self._waits = 0
        self._scheduled = False

    def _submitter(self, pipe: Pipe) -> Callable[[Call], None]:
        self._waits, self._rid = 0, ""
        pipe.submit(Identity(self))
        return self._gather

    def _gather(self, call: Call) -> None:
        if len(self._gathered) >= self._pending_max:
            call.fail(ErrorCode.REQUEST_TIMED_OUT, "Too many calls wait for this Redis node (storage_pending_max).")
            return
        if isinstance(call, AckedCall):
            call.lane = self
        self._gathered.append(call)
        self._commit_soon()

    def _commit_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        """Send the gathered calls and the WAIT that covers them and the lingering ones."""
        self._scheduled = False
        pipe = self.pipe
        if pipe is None or self._waits >= WAITS_MAX or not (self._gathered or self._lingering):
            return
        calls, self._gathered = self._gathered, []
        waiting = [*self._lingering, *(call for call in calls if isinstance(call, AckedCall) and not call.done())]
        for call in calls:
            pipe.submit(call)
        if waiting:
            left_ms = int(1000 * (min(call.deadline for call in waiting) - self._loop.time()))
            self._waits += 1
            replicas = max(call.replicas for call in waiting)
            pipe.submit(Wait(self, replicas, max(1, min(WAIT_SLICE_MS, left_ms))))
        pipe.flush()

    def waits_took(self, seconds: float) -> None:
        """Count a WAIT's answer."""
        self._router.cells.waits.took(seconds)

    def waited(self, reply: Any, late: bool = False) -> None:
        """A WAIT ended: every script answered before it is covered."""
        if self.pipe is None:
            return  # the connection is gone; its calls are dealt with there
        self._waits -= 1
        now = self._loop.time()
        calls = [*self._lingering, *self.answered]
        self._lingering.clear()
        self.answered.clear()
        for call in calls:
            if call.done():
                continue
            if not isinstance(reply, int):
                # The node stopped being a master: nobody knows what the next one has.
                self._without_wait(call)
            elif reply >= call.replicas and (late or call.lingered):
                call.acked = reply
                self._doubted.append(call)
            elif reply >= call.replicas or now >= call.deadline:
                self._router.cells.waits_short += reply < call.replicas
                call.set_result((call.reply, reply))
            else:
                call.lingered = True
                self._lingering.append(call)
        if self._doubted:
            self.pipe.submit(Identity(self))
        if self._gathered or self._lingering:
            self._commit_soon()

    def identified(self, reply: Any) -> None:
        """The node told its replication id: if it is another one, what was executed before may be gone."""
        if self.pipe is None:
            return
        rid = info_field(reply, "master_replid") if isinstance(reply, bytes) else ""
        before, self._rid = self._rid, rid
        doubted, self._doubted = self._doubted, []
        if rid == before or not before:
            for call in doubted:
                if not call.done():
                    call.set_result((call.reply, call.acked))
            return
        executed = [*doubted, *self._lingering, *self.answered]
        self._lingering.clear()
        self.answered.clear()
        for call in executed:
            if not call.done():
                self._without_wait(call)

    def refused(self, call: Call, error: hiredis.ReplyError) -> None:
        """The node refused a call: what it executed before for the same slot, and nobody confirmed, comes back first.

        The slot's next master may not have it, and would refuse a producer's later batch that came alone.
        """
        if isinstance(call, AckedCall) and str(error).partition(" ")[0] in ELSEWHERE:
            for executed in (self._doubted, self._lingering, self.answered):
                for each in [one for one in executed if one.slot == call.slot and not one.once and not one.done()]:
                    executed.remove(each)
                    self._without_wait(each)
        super().refused(call, error)

    def _without_wait(self, call: AckedCall) -> None:
        if call.once:
            call.set_result((call.reply, 0))
        else:
            call.executed = True
            self._be_patient(call)
            self._router.again(self, call)

    def _unanswered(self, pipe: Pipe) -> Iterable[Call]:
        executed = [*self._doubted, *self._lingering, *self.answered]
        calls = [*executed, *pipe.pending, *self._gathered]
        self._doubted.clear()
        self._lingering.clear()
        self.answered.clear()
        self._gathered.clear()
        for call in executed:
            if call.once and not call.done():
                call.set_result((call.reply, 0))
        return calls

    def _busy(self) -> bool:
        return super()._busy() or bool(self._gathered)
