"""A lane: the way to one Redis node, kept open over any number of lost connections.

While the connection is up, `lane.submit` *is* `pipe.submit` (the hot path has no hop in between). While it is down,
calls wait in the backlog, in order, until the connection is back, their slots move elsewhere, or their patience
(`storage_retry_ms`) ends. Calls under way when a connection is lost go to the head of the backlog and are sent again:
every write of ours is idempotent. Calls marked `once` fail instead, since nobody knows whether they were executed.
When a script call is given up, so are those behind it for the same log: a producer that is new there may begin with
any sequence, so its second batch, stored alone, would make the first out of order for good.

One timer per lane looks after ages: a call without an answer after `storage_timeout_ms` fails, a connection that was
silent all that time is closed, and silence of a tenth of it makes the router ask whether the node was replaced.

So much silence also ends the calls of readers that ask other masters together with this one (`ImpatientCall`), and
the next ones are refused at once, until the node says something: a silent master holds up its own partitions only. So
does one whose connection has been down for as long, or for `storage_retry_ms`. A node that did answer is slow, not
gone: for the next `storage_timeout_ms` readers wait for it twice as long as it took, or they would give up each time
just before its answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import hiredis

from redbroker.config import Settings
from redbroker.engine.resp import Call, Errand, ImpatientCall, Pipe, settle_errands
from redbroker.engine.target import Address
from redbroker.errors import ErrorCode
from redbroker.metrics import StorageCells

TICK_S = 0.05
RECONNECT_FIRST_S = 0.02
RECONNECT_LONGEST_S = 1.0

log = logging.getLogger(__name__)


class Router(Protocol):
    """What a lane needs from the storage around it."""

    settings: Settings
    cells: StorageCells
    several_masters: bool

    async def open_lane(self, lane: Lane) -> Pipe:
        """A greeted connection to the lane's node."""

    def refused(self, lane: Lane, call: Call, error: hiredis.ReplyError) -> None:
        """Decide about a refused call."""

    def route(self, call: Call) -> None:
        """Submit a call to whatever serves its slot now."""

    def again(self, lane: Lane, call: Call, delay_s: float = 0.0) -> None:
        """Try a call that was not executed (or may be executed twice) again, in order with others of its slot."""

    def hold_back(self, call: Call) -> bool:
        """Give an unanswered call of a lost connection to its slot's hold, if there is one, to keep their order."""

    def refresh_soon(self) -> None:
        """Look at the topology again, at a bounded rate."""


class Lane:
    """Calls to one node, in order."""

    def __init__(self, router: Router, address: Address) -> None:
        self.address = address
        self.pipe: Pipe | None = None
        self.trouble: Exception | None = None
        self.submit: Callable[[Call], None] = self._park
        self.retired = False
        self._router = router
        self._loop = asyncio.get_running_loop()
        self._pending_max = router.settings.storage_pending_max
        self._retry_s = router.settings.storage_retry_ms / 1000
        self._timeout_s = router.settings.storage_timeout_ms / 1000
        self._backlog: deque[Call] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next_give_up = float("inf")
        self._silent_from: float | None = None  # set while readers are refused
        self._away_from = self._loop.time()
        self._away_s = min(self._timeout_s / 10, self._retry_s)
        self._slow_s = self._slow_until = 0.0

    # --- up --------------------------------------------------------------------------------------------------

    def connect(self) -> asyncio.Task[None]:
        """Start connecting, unless that is under way; the task ends when the lane is up or retired."""
        if self._connecting is None or self._connecting.done():
            self._connecting = self._loop.create_task(self._connect())
        return self._connecting

    async def _connect(self) -> None:
        pause_s = RECONNECT_FIRST_S
        while self.pipe is None and not self.retired:
            try:
                self._up(await self._router.open_lane(self))
            except Exception as error:  # whatever it was, the lane must come back
                if self.trouble is None:
                    log.warning("redis %s is away: %s", self.address, error)
                self.trouble = error
                self._router.refresh_soon()
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, RECONNECT_LONGEST_S)

    def _up(self, pipe: Pipe) -> None:
        if pipe.gone.is_set():
            raise ConnectionError("lost at once")
        if self.trouble is not None:
            log.info("redis %s is back", self.address)
        self._router.cells.connected += 1
        self.pipe, self.trouble, self._silent_from = pipe, None, None
        self.submit = self._send = self._submitter(pipe)
        self.reroute()

    def _submitter(self, pipe: Pipe) -> Callable[[Call], None]:
        return pipe.submit

    def errand(self, *words: str) -> Errand | None:
        """Send a command of our own in line with the calls; None while the lane is down."""
        if self.pipe is None:
            return None
        errand = Errand(self._loop, *words)
        self.submit(errand)
        return errand

    def submit_asking(self, call: Call) -> None:
        """Send a call that was answered ASK: ASKING and the call leave in one write."""
        if self.errand("ASKING") is None:
            self.connect()
            self._router.again(self, call, RECONNECT_FIRST_S)
        else:
            self.submit(call)

    def refused(self, call: Call, error: hiredis.ReplyError) -> None:
        """The node refused a call."""
        self._router.refused(self, call, error)

    # --- down ------------------------------------------------------------------------------------------------

    def _park(self, call: Call) -> None:
        if self.retired:
            call.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"Redis {self.address} is no longer in use.")
        elif len(self._backlog) >= self._pending_max:
            call.fail(ErrorCode.REQUEST_TIMED_OUT, "Too many calls wait for this Redis node (storage_pending_max).")
        elif self._impatient(call) and self._away_from + self._away_s <= self._loop.time():
            self.connect()
            self._fail_away(call)
        else:
            self._be_patient(call)
            self._backlog.append(call)
            self.connect()
            self.sending()

    def _be_patient(self, call: Call) -> None:
        if call.patience is None:
            call.patience = self._loop.time() + (self._away_s if self._impatient(call) else self._retry_s)
        self._next_give_up = min(self._next_give_up, call.patience)

    def _impatient(self, call: Call) -> bool:
        """Do other masters' answers wait for this one?"""
        return isinstance(call, ImpatientCall) and self._router.several_masters

    def lost(self, pipe: Pipe, error: Exception) -> None:
        """The connection is gone: keep what may be sent again, fail what may not."""
        if pipe is not self.pipe:  # it never finished its greeting
            settle_errands(pipe.pending, error)
            return
        self._listen(pipe)
        self.pipe, self.trouble = None, error
        self._away_from = self._loop.time() if self._silent_from is None else self._silent_from
        self._router.cells.lost += not self.retired
        self.submit = self._park
        log.log(logging.DEBUG if self.retired else logging.WARNING, "redis %s was lost: %s", self.address, error)
        kept: list[Call] = []
        given_up: set[bytes] = set()
        for call in self._unanswered(pipe):
            if isinstance(call, Errand):
                call.answer(error)
            elif call.done():
                if not call.cancelled() and call.exception() is not None and call.follows:
                    given_up.add(call.follows)
            elif call.once or self._age(call) >= self._timeout_s - TICK_S or call.follows in given_up:
                call.fail(ErrorCode.REQUEST_TIMED_OUT, f"Redis {self.address} was lost before it answered.")
                if not call.once and call.follows:
                    given_up.add(call.follows)
            else:
                call.executed = True
                self._be_patient(call)
                if not self._router.hold_back(call):
                    kept.append(call)
        self._backlog.extendleft(reversed(kept))
        self._router.refresh_soon()
        if self.retired:
            self.reroute()
        else:
            self.connect()
            self.sending()

    def _unanswered(self, pipe: Pipe) -> Iterable[Call]:
        return pipe.pending

    def _age(self, call: Call) -> float:
        return self._loop.time() - call.born

    def reroute(self) -> None:
        """Send the backlog to whatever serves its slots now (this lane again, when nothing has changed)."""
        calls, self._backlog = self._backlog, deque()
        for call in calls:
            if not call.done():
                self._router.route(call)

    def reroute_if_down(self) -> None:
        """After a change of topology: calls that wait here may have somewhere better to go."""
        if self.pipe is None and self._backlog:
            self.reroute()

    # --- ages ------------------------------------------------------------------------------------------------

    def sending(self) -> None:
        """Keep the timer running while there is something to watch."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._backlog:
            self._router.refresh_soon()
        if self._backlog and (self._backlog[0].done() or self._next_give_up <= now):
            self._give_up(now)
        if self.pipe is not None:
            self._watch(self.pipe, now)
        if self._busy():
            self.sending()

    def _give_up(self, now: float) -> None:
        """Fail the calls whose patience has ended, and those behind them for the same log."""
        waiting, self._backlog = self._backlog, deque()
        given_up: set[bytes] = set()
        self._next_give_up = float("inf")
        for call in waiting:
            if call.done():
                continue
            log = call.follows
            if (call.patience or 0) > now and log not in given_up:
                self._be_patient(call)
                self._backlog.append(call)
                continue
            self._fail_away(call)
            if log is not None:
                given_up.add(log)

    def _fail_away(self, call: Call) -> None:
        call.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"Redis {self.address} is away: {self.trouble or 'connecting'}.")

    def _busy(self) -> bool:
        return bool(self._backlog or (self.pipe is not None and self.pipe.pending))

    def _watch(self, pipe: Pipe, now: float) -> None:
        """Fail calls that are too old, suspect a silent node, leave a dead one."""
        self._listen(pipe)
        oldest_born = now - self._timeout_s + TICK_S
        for call in pipe.pending:
            if call.born > oldest_born:
                break
            if not isinstance(call, Errand):
                call.fail(ErrorCode.REQUEST_TIMED_OUT, f"Redis {self.address} did not answer (storage_timeout_ms).")
        if not pipe.pending:
            if self.retired:
                pipe.abort(ConnectionError("no longer a master"))
            return
        silent_from = max(pipe.heard, pipe.pending[0].born)
        silent_s = now - silent_from
        if self._silent_from is None and silent_s >= self._patience_s and self._router.several_masters:
            self._refuse_readers(pipe, silent_from)
        if silent_s >= self._timeout_s - TICK_S:
            pipe.abort(TimeoutError("silent for storage_timeout_ms"))
        elif silent_s >= self._timeout_s / 10:
            if self.retired:
                pipe.abort(TimeoutError("silent and no longer a master"))
            else:
                self._router.refresh_soon()

    # --- silence ---------------------------------------------------------------------------------------------

    @property
    def _patience_s(self) -> float:
        """How long readers wait for a node that says nothing."""
        return self._slow_s if self._loop.time() < self._slow_until else self._timeout_s / 10

    def _refuse_readers(self, pipe: Pipe, silent_from: float) -> None:
        """End what readers wait for; their late answers find no one."""
        self._silent_from = silent_from
        self.submit = self._submit_in_silence
        for call in pipe.pending:
            if isinstance(call, ImpatientCall):
                self._fail_silent(call)

    def _submit_in_silence(self, call: Call) -> None:
        if self.pipe is not None:
            self._listen(self.pipe)
        if self._silent_from is not None and isinstance(call, ImpatientCall):
            self._fail_silent(call)
        else:
            self._send(call)

    def _fail_silent(self, call: Call) -> None:
        call.fail(ErrorCode.REQUEST_TIMED_OUT, f"Redis {self.address} is silent.")

    def _listen(self, pipe: Pipe) -> None:
        """Has the node broken its silence? Then readers may ask it again, and are more patient for a while."""
        if self._silent_from is not None and pipe.heard > self._silent_from:
            self._slow_s = 2 * (pipe.heard - self._silent_from)
            self._slow_until = self._loop.time() + self._timeout_s
            self._silent_from = None
            self.submit = self._send

    # --- end -------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """The node serves no slots any more: send waiting calls elsewhere, close when nothing is under way."""
        self.retired = True
        if self._connecting is not None:
            self._connecting.cancel()
        self.reroute()
        if self.pipe is not None and not self.pipe.pending:
            self.pipe.abort(ConnectionError("no longer a master"))

    async def close(self) -> None:
        """Close now; calls under way fail."""
        self.retired = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        pipe, self.pipe = self.pipe, None
        self.submit = self._park
        calls = [*self._backlog, *(self._unanswered(pipe) if pipe else ())]
        self._backlog.clear()
        for call in calls:
            if not (isinstance(call, Errand) or call.done()):
                call.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER, "The storage was closed.")
        if pipe is not None:
            pipe.abort(ConnectionError("closed"))
            await pipe.gone.wait()
