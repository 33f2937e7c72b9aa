"""Tending: somebody looks after every group, also after one that nobody talks to.

Each worker tends the groups it coordinates (rendezvous hashing); where no worker lives, a process tends those it uses
itself. To tend is one small script, called when something may be due: a member's session is over, the group's deadline
has passed, offsets are to be forgotten. Nobody's doing it wrong can break a group: all changes are compare and set.

Silence is the member's fault only if it could have been heard. So when a worker takes a group over, when Redis did not
answer, when this process stood still or the server's clock jumped, every member first gets a whole session again.
Deadlines (to join, to sync, to give up partitions) wait as long as nobody could be heard: `Groups.stood_still`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from redbroker.engine.group_values import CONSUMER, reads, summary
from redbroker.engine.keys import GroupKeys
from redbroker.engine.offsets import partition_of
from redbroker.engine.scripts import script
from redbroker.errors import KafkaError
from redbroker.machines.classic_group import EMPTY, STABLE
from redbroker.machines.group import Expire, Tick

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.groups import Groups
    from redbroker.engine.offsets import Offsets
    from redbroker.engine.workers import Worker, Workers

log = logging.getLogger(__name__)

AT_ONCE = 50
JUMP_MS = 2_000
OVERDUE_MS = 5_000
PULSE_S = 0.25
STALL_S = 1.0
"""A pulse later than this after the last one was held up, and so were the heartbeats this process should have heard."""
RELIST_S = 5.0
QUIET_S = 10.0
"""How often a group is looked at when nothing is due: another worker may have changed it."""


class Seen(NamedTuple):
    """What tend_group.lua tells of a group; `first_ms`: when the first session ends, -1: none does."""

    version: bytes
    now_ms: int
    type: str
    protocol_type: str
    phase: str
    since_ms: int
    deadline_ms: int
    offsets: bool
    first_ms: int
    due: tuple[str, ...]

    @classmethod
    def of(cls, reply: Sequence[Any]) -> Seen:
        """The script's reply."""
        version, now_ms, kind, protocol_type, phase, since_ms, deadline_ms, offsets, first_ms, *due = reply
        words = kind.decode(), protocol_type.decode(), phase.decode()
        names = tuple(name.decode() for name in due)
        return cls(bytes(version), now_ms, *words, since_ms, deadline_ms, bool(offsets), first_ms, names)


class Watch:
    """What a process remembers of a group it may have to tend."""

    __slots__ = ("attended", "check_s", "clock_ms", "missed", "next_s", "ours", "ring")

    def __init__(self, check_s: float) -> None:
        self.ring: Sequence[Worker] | None = None
        self.ours = self.attended = False
        self.next_s = 0.0
        self.check_s = check_s  # when its offsets are to be looked at
        self.clock_ms: float | None = None
        self.missed = 0  # how often in a row the group was not there


class Tender:
    """Looks after groups until the engine closes."""

    def __init__(self, groups: Groups, offsets: Offsets, workers: Workers, settings: Settings) -> None:
        self._groups, self._offsets, self._workers, self._settings = groups, offsets, workers, settings
        self._loop = asyncio.get_running_loop()
        self._watches: dict[str, Watch] = {}
        self._pulse_s = self._loop.time()
        self._relist_s = 0.0
        groups.troubled, groups.changed, groups.glance = self.lost_sight, self.look_soon, self.glance

    def lost_sight(self, name: str) -> None:
        """Redis did not answer for a group: its members may have tried to beat in vain."""
        if watch := self._watches.get(name):
            watch.attended, watch.next_s = False, 0.0

    def look_soon(self, name: str) -> None:
        """A group was changed here: something may be due earlier than it seemed."""
        if watch := self._watches.get(name):
            watch.next_s = min(watch.next_s, self._loop.time() + self._settings.group_tend_ms / 1000)

    def glance(self) -> None:
        """See whether this process has just stood still; before anything happens because somebody was silent."""
        now_s = self._loop.time()
        still_s, self._pulse_s = now_s - self._pulse_s, now_s
        if still_s > STALL_S:
            self._groups.stood_still(int(still_s * 1000))
            for watch in self._watches.values():
                watch.attended, watch.next_s = False, 0.0

    async def run(self) -> None:
        """Tend every `group_tend_ms`; never returns."""
        pulse = self._loop.create_task(self._pulse())
        try:
            while True:
                await asyncio.sleep(self._settings.group_tend_ms / 1000)
                try:
                    await self.round()
                except KafkaError as away:
                    log.debug("Groups could not be tended: %s", away)
        finally:
            pulse.cancel()

    async def _pulse(self) -> None:
        self._pulse_s = self._loop.time()
        while True:
            await asyncio.sleep(PULSE_S)
            self.glance()

    async def round(self) -> None:
        """Look after every group for which something may be due."""
        self.glance()
        now_s = self._loop.time()
        if now_s >= self._relist_s:
            await self._groups.relist()
            self._relist_s = now_s + RELIST_S * random.uniform(0.8, 1.2)
            self._watches = {name: watch for name, watch in self._watches.items() if name in self._groups.noted}
        names = [name for name in self._groups.noted if self._is_due(name, now_s)]
        for start in range(0, len(names), AT_ONCE):
            await asyncio.gather(*(self._tend_safely(name) for name in names[start : start + AT_ONCE]))

    # --- one group -----------------------------------------------------------------------------------------------

    def _is_due(self, name: str, now_s: float) -> bool:
        watch = self._watches.get(name)
        if watch is None:
            check_s = self._settings.offsets_retention_check_ms / 1000
            watch = self._watches[name] = Watch(now_s + random.uniform(0.5, 1) * check_s)
        live = self._workers.live()
        if not live:
            watch.ring, watch.ours = None, self._groups.serves(name)
        elif watch.ring is not live:
            watch.ring = live
            ours = self._workers.coordinator(name).node_id == self._workers.node_id
            if ours and not watch.ours:
                watch.attended, watch.next_s = False, 0.0
            watch.ours = ours
        return watch.ours and now_s >= watch.next_s

    async def _tend_safely(self, name: str) -> None:
        try:
            await self._tend(name, self._watches[name])
        except KafkaError as away:
            log.debug("Group %r could not be tended: %s", name, away)
        except Exception:
            log.exception("Group %r could not be tended", name)

    async def _tend(self, name: str, watch: Watch) -> None:
        seen = await self._look(name, watch)
        if seen.version == b"0" and not seen.offsets:
            watch.missed += 1
            watch.next_s = self._loop.time() + RELIST_S
            if watch.missed > 1:  # a group is listed a moment before it is made
                await self._groups.unlist(name)
            return
        watch.missed = 0
        checking = self._loop.time() >= watch.check_s
        if checking:
            watch.check_s = self._loop.time() + self._settings.offsets_retention_check_ms / 1000
        watch.next_s = self._next_s(seen, watch)  # before whatever is awaited: a change meanwhile may bring it forward
        if seen.due:
            log.info("Group %r: the sessions of %d members are over.", name, len(seen.due))
            await self._groups.change(name, Expire(seen.due))
        elif 0 < seen.deadline_ms <= seen.now_ms:
            await self._groups.change(name, Tick())
        await self._mend_list(name, seen)
        if checking:
            await self._forget_old_offsets(name, seen)

    async def _look(self, name: str, watch: Watch) -> Seen:
        """What is due; nothing at all when members may have been silent through no fault of theirs."""
        keys = GroupKeys(self._settings.key_prefix, name)
        names = (keys.head, keys.sessions, keys.beats, keys.offsets)
        while True:
            self.glance()
            renew, asked_s = not watch.attended, self._loop.time()
            call = self._groups.storage.run(script("tend_group"), names, (int(renew), OVERDUE_MS))
            seen = Seen.of(await self._groups.answered(name, call))
            clock_ms = seen.now_ms - self._loop.time() * 1000
            jumped = watch.clock_ms is not None and abs(clock_ms - watch.clock_ms) > JUMP_MS
            watch.clock_ms = clock_ms
            slow = self._loop.time() - asked_s > STALL_S
            self.glance()
            if renew or (watch.attended and not jumped and not slow):
                watch.attended = True
                return seen
            watch.attended = False

    def _next_s(self, seen: Seen, watch: Watch) -> float:
        """When to look again."""
        times = [ms for ms in (seen.first_ms, seen.deadline_ms) if ms > 0]
        left_s = min((ms - seen.now_ms for ms in times), default=QUIET_S * 1000) / 1000
        return min(self._loop.time() + min(left_s, QUIET_S), watch.check_s)

    async def _mend_list(self, name: str, seen: Seen) -> None:
        """The list says what the group was when somebody last wrote there; say what it is."""
        if seen.version == b"0":
            text = summary(None)
        else:
            text = orjson.dumps({"type": seen.type, "protocol_type": seen.protocol_type, "phase": seen.phase})
        if self._groups.noted.get(name) != text and not seen.due:
            await self._groups.note_as(name, text)

    # --- offsets ---------------------------------------------------------------------------------------------------

    async def _forget_old_offsets(self, name: str, seen: Seen) -> None:
        """Kafka's rules (KIP-211): a group empty for `offsets_retention_minutes` loses its offsets, and then itself.

        Offsets of consumers that assign themselves go by the time of their commit, and so do those of topics that a
        group with members does not read any more.
        """
        group, known = await self._groups.versioned(name)
        if known != seen.version:
            return  # changed since it was looked at, perhaps by that look: its phase has just begun
        entries = await self._offsets.entries(name)
        empty = group is None or not group.members
        simple = group is None or not group.protocol_type
        old_ms = seen.now_ms - self._settings.offsets_retention_minutes * 60_000
        if not (empty or (seen.protocol_type == CONSUMER and (seen.phase == STABLE or seen.type == CONSUMER))):
            return
        words = []
        for field, entry in entries:
            time_ms = orjson.loads(entry)[3]
            if empty and not simple:
                time_ms = max(time_ms, seen.since_ms)
            if time_ms <= old_ms and (empty or not reads(group, partition_of(field).topic)):  # type: ignore[arg-type]
                words += [field, entry]
        if words and await self._offsets.forget(name, known, words) > 0:
            log.info("Group %r: %d committed offsets have expired.", name, len(words) // 2)
        waits = group is not None and group.next_deadline_ms is not None
        if empty and not waits and seen.phase in ("", EMPTY) and len(words) == 2 * len(entries):
            await self._groups.delete_idle(name, known)
