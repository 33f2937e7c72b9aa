"""A group's turn: the events that wait for it, stepped one after the other on the group as this process knows it.

`Kept` is what is remembered of one group, `Asked` one event and who waits for its answer, `Turn` the outcome before it
is committed. Nothing here does I/O; `Groups` loads, swaps and takes the turn again when somebody came first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redbroker.engine.group_values import Derived, changes
from redbroker.engine.keys import GroupKeys
from redbroker.machines import classic_group, consumer_group, mixed_group
from redbroker.machines.group import Expire, Group, Park

if TYPE_CHECKING:
    from redbroker.config import Settings

log = logging.getLogger(__name__)

OF_CONSUMER_GROUPS = (consumer_group.ConsumerHeartbeat, consumer_group.Refresh)
"""Events that go to the KIP-848 machine whatever the group is: it converts empty groups and upgrades others."""
NO_DERIVED = Derived(None)


class Asked:
    """One event of a group, and the future of its answer."""

    __slots__ = ("answer", "event")

    def __init__(self, event: Any, answer: asyncio.Future[Any]) -> None:
        self.event, self.answer = event, answer

    def give(self, answer: Any) -> None:
        """Answer, or fail with an exception, unless whoever asked has gone."""
        if self.answer.done():
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
            self.answer.exception()  # who asked may have gone by now: that is no news
        else:
            self.answer.set_result(answer)


class Kept:
    """One group as this process knows it; `version` None: not at all, b"0": there is none.

    `deaf_ms`: how long nobody could be heard lately, because this process or Redis stood still. Deadlines wait for it.
    """

    __slots__ = ("_clock_ms", "_loop", "busy", "deaf_ms", "derived", "group", "keys", "name", "queue", "version")

    def __init__(self, name: str, keys: GroupKeys, loop: asyncio.AbstractEventLoop) -> None:
        self.name, self.keys, self._loop = name, keys, loop
        self.version: bytes | None = None
        self.group: Group | None = None
        self.derived = NO_DERIVED
        self.queue: deque[Asked] = deque()
        self.busy = False
        self.deaf_ms = 0
        self._clock_ms = 0.0

    def saw(self, server_ms: int) -> None:
        """The server's clock, as its answer just said: times in a group are the server's."""
        self._clock_ms = server_ms - self._loop.time() * 1000

    def now_ms(self) -> int:
        """The server's time by this process's steady clock."""
        return int(self._clock_ms + self._loop.time() * 1000)

    def was_deaf(self, for_ms: float) -> None:
        """Nobody could be heard for so long."""
        self.deaf_ms = max(self.deaf_ms, int(for_ms))

    def have(self, version: bytes, group: Group | None, derived: Derived | None = None) -> None:
        """This is what Redis has."""
        self.version, self.group = version, group
        self.derived = derived or Derived(group)

    def forget(self) -> None:
        """Nobody knows what Redis has."""
        self.version = None


class Turn:
    """What a batch of events made of a group, and the answers to give once that is committed."""

    def __init__(self, kept: Kept, batch: Sequence[Asked]) -> None:
        self._before, self.group, self._batch = kept.derived, kept.group, batch
        self.now_ms, self._deaf_ms = kept.now_ms(), kept.deaf_ms
        if self._deaf_ms and self.group is not None:
            self.group = self.group.not_before(self.now_ms + self._deaf_ms)
        self._answers: list[Any] = []
        self._was = kept.group
        self.after = kept.derived
        self.wake = False
        self.touched: set[str] = set()

    @property
    def idle(self) -> bool:
        """Nothing is to be written."""
        return self.group is self._was and not self.touched

    def take(self, settings: Settings, outside: mixed_group.Outside) -> None:
        """Step all events; what was parked and then woken by a later one is stepped once more."""
        places = list(range(len(self._batch)))
        self._answers = [None] * len(self._batch)
        while places:
            last_wake = -1
            for place in places:
                answer = self._answers[place]
                event = answer.event if isinstance(answer, Park) else self._batch[place].event
                if self._step(place, event, self.now_ms, settings, outside):
                    last_wake = place
            self.wake = self.wake or last_wake >= 0
            places = [each for each in range(last_wake) if isinstance(self._answers[each], Park)]

    def _step(self, place: int, event: Any, now_ms: int, settings: Settings, outside: mixed_group.Outside) -> bool:
        """Step one event; a machine that fails leaves the group as it was. True when it wakes who is parked."""
        try:
            if of_consumer_group(self.group, event):
                step = mixed_group.step(self.group, event, now_ms, settings, outside)
            else:
                step = classic_group.step(self.group, event, now_ms, settings)  # type: ignore[arg-type]
        except Exception as unexpected:
            log.exception("%s failed in a group's machine", type(event).__name__)
            self._answers[place] = unexpected
            return False
        self.group, self._answers[place] = step.group, step.answer
        self.touched |= step.touched
        return bool(step.wake)

    def changes(self) -> dict[str, Any]:
        """What swap_group.lua shall write beside the value."""
        if self.group is None:
            return {"expired": self._expired()}
        touched = self.touched & self.after.sessions.keys()
        return changes(self.group, self._before, self.after, touched, self._expired())

    def _expired(self) -> list[str]:
        return [name for asked in self._batch if isinstance(asked.event, Expire) for name in asked.event.member_ids]

    def without_expiry(self, batch: Sequence[Asked]) -> list[Asked]:
        """The batch without its `Expire` events, answered: a member has shown itself, so look again later."""
        for asked in batch:
            if isinstance(asked.event, Expire):
                asked.give(None)
        return [asked for asked in batch if not isinstance(asked.event, Expire)]

    def answer(self, kept: Kept) -> None:
        """It is committed: tell everybody."""
        version = int(kept.version or 0)
        if kept.deaf_ms <= self._deaf_ms:
            kept.deaf_ms = 0
        for asked, answer in zip(self._batch, self._answers, strict=True):
            if isinstance(answer, Park):
                answer = Parked(answer.until_ms, answer.event, version)
            asked.give(answer)


@dataclasses.dataclass(frozen=True, slots=True)
class Parked(Park):
    """A `Park`, and the version of the group at which it was given: only later changes need to wake."""

    version: int = 0


def take_turn(kept: Kept, batch: Sequence[Asked], settings: Settings, outside: mixed_group.Outside) -> Turn:
    """Step all events of a batch, in order."""
    turn = Turn(kept, list(batch))
    turn.take(settings, outside)
    if not turn.idle:
        turn.after = Derived(turn.group, kept.derived)
    return turn


def of_consumer_group(group: Group | None, event: Any) -> bool:
    """Whether the machine of consumer groups takes an event; a group that is not there is a classic one's."""
    return isinstance(event, OF_CONSUMER_GROUPS) or (group is not None and group.type == "consumer")
