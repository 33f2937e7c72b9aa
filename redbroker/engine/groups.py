"""Groups: every consumer group lives in Redis, and any worker goes on with any of them.

    Groups.ask -> the group's turn -> machine.step … step -> swap_group.lua -> answers, wake-up
    Groups.beat -> beat_group.lua                                          no load, no step

The rules are the pure machines'; here is how their values are kept. All events that wait for a group are stepped in one
turn and committed by one compare and set, so 200 members that join at once cost a few writes. Two workers that serve
the same group are slow, never wrong: who loses the race steps its events again on what the winner left.

A parked request (JoinGroup until all have joined, SyncGroup until the leader's) waits for `wake`, not for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson

from redbroker.engine.group_values import pack, summary, unpack
from redbroker.engine.keys import GroupKeys, MetaKeys
from redbroker.engine.scripts import script
from redbroker.engine.slots import key_slot
from redbroker.engine.turns import Asked, Kept, Parked, Turn, take_turn
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.classic_group import ClassicGroup
from redbroker.machines.group import Group
from redbroker.machines.mixed_group import NOTHING

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.durability import Durability
    from redbroker.engine.tail import Tail

log = logging.getLogger(__name__)

BATCH_MAX = 200
"""Events of one turn."""
KEPT_MAX = 10_000
"""Groups this process remembers; the rest are read again when they are needed."""
SWAP_ATTEMPTS = 30
STALE_MS = 300
"""A turn that Redis gets later than this after it was stepped is stepped again: one of the two stood still."""
STALE_ATTEMPTS = 3
"""Then the turn is so large that it takes this long."""
LOOK_S = 5.0
"""How long who is parked trusts its subscription: announcements are sent once, and nobody asks whether they came."""
PAUSE_S = 0.002
SPREAD_S = 0.01

COORDINATOR_AWAY = {
    ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.KAFKA_STORAGE_ERROR,
}  # fmt: skip
"""What a client of a group is told as COORDINATOR_NOT_AVAILABLE: it looks for the coordinator and tries again."""

T = TypeVar("T")
Batch = list[Asked]


class Listed(NamedTuple):
    """One group of `Groups.list`. `type`: classic or consumer; `phase`: Kafka's state name, as Stable."""

    name: str
    type: str
    protocol_type: str
    phase: str


class Groups:
    """The groups of one key space: `engine.groups`.

    `troubled` is called with a group's name when Redis did not answer for it: its members may have been unable to beat.
    `changed` is called when this process has changed one, `glance` before one is stepped, to see whether this process
    has just stood still. `outside` is what groups of mixed protocols need to know.
    """

    def __init__(self, storage: Storage, tail: Tail, settings: Settings, durability: Durability) -> None:
        self.storage, self.settings = storage, settings
        self._tail, self._durability = tail, durability
        self._meta = MetaKeys(settings.key_prefix)
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, Kept] = {}
        self.rebalances: dict[str, int] = {}  # generations and group epochs begun by this process, for who counts them
        self.noted: dict[str, bytes] = {}  # the list of all groups, as last seen or written
        self._turns: set[asyncio.Task[None]] = set()
        self.troubled: Callable[[str], None] = lambda name: None
        self.changed: Callable[[str], None] = lambda name: None
        self.glance: Callable[[], None] = lambda: None
        self.outside = NOTHING

    # --- changing ------------------------------------------------------------------------------------------------

    async def ask(self, name: str, event: Any) -> Any:
        """The machine's answer to an event, however long it takes: parked requests wait here, woken by pub/sub.

        Gives what the machine answers (a dataclass, None) or raises the KafkaError it refuses with. May be cancelled at
        any time: the event has been taken in, and the client's next request finds it so. Handlers of JoinGroup
        and SyncGroup call `await ctx.server.parked(groups.ask(…), None)`.
        """
        answer = await self.change(name, event)
        while isinstance(answer, Parked):
            await self.wait(name, answer.version, answer.until_ms)
            answer = await self.change(name, answer.event)
        return answer

    async def change(self, name: str, event: Any) -> Any:
        """As `ask`, but gives `Parked` where the answer is not there yet."""
        kept = self._keep(name)
        asked = Asked(event, self._loop.create_future())
        kept.queue.append(asked)
        if not kept.busy:
            kept.busy = True
            turn = self._loop.create_task(self._serve(kept))
            self._turns.add(turn)
            turn.add_done_callback(self._turns.discard)
        return await asked.answer

    async def wait(self, name: str, version: int, until_ms: int) -> None:
        """Return when a change after `version` woke who is parked, or when the server's clock is at `until_ms`.

        It may return too early, and does after `LOOK_S`: who waits asks again.
        """
        kept = self._keep(name)
        left_s = max(0.0, (until_ms - kept.now_ms()) / 1000) + random.uniform(0, SPREAD_S)
        await self._tail.wait({kept.keys.wake: version}, 1, min(left_s, LOOK_S))

    def mark(self, name: str) -> int:
        """The newest change of a group this process has heard of; `news` waits for a later one."""
        kept = self._keep(name)
        return max(int(kept.version or 0), self._tail.written(kept.keys.wake))

    async def news(self, name: str, mark: int, timeout_s: float) -> bool:
        """True when a change after `mark` may have something to tell some member; perhaps too early, False in time."""
        return await self._tail.wait({self._keep(name).keys.wake: mark}, 1, timeout_s)

    async def beat(self, name: str, member_id: str, epoch: int, instance_id: str | None = None) -> bool:
        """A member is alive: its session begins anew. One small script; `epoch` is the generation or the member epoch.

        True: nothing to tell the member. False: there is (KIP-848), `ask` the machine. Refusals are raised:
        UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID, REBALANCE_IN_PROGRESS.
        """
        keys = self._keep(name).keys
        instance = "" if instance_id is None else f"={instance_id}"
        call = self.storage.run(
            script("beat_group"), (keys.head, keys.sessions, keys.beats), (member_id, epoch, instance)
        )
        return bool(await self.answered(name, call))

    async def delete(self, names: Sequence[str]) -> list[KafkaError | None]:
        """Delete empty groups with their offsets: NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND, or None per group."""
        return await asyncio.gather(*(self._delete(name) for name in names))

    async def delete_idle(self, name: str, known: bytes) -> bool:
        """Delete a group that has neither members nor offsets, and is still of this version."""
        return bool(await self._drop(name, 1, known))

    # --- reading -------------------------------------------------------------------------------------------------

    async def get(self, name: str) -> Group | None:
        """The group's value as Redis has it now, or None. One that only has offsets is an empty classic group."""
        kept = self._keep(name)
        offsets_only = await self.answered(name, self.load(kept))
        return ClassicGroup() if kept.group is None and offsets_only else kept.group

    async def versioned(self, name: str) -> tuple[Group | None, bytes]:
        """`get`, and the version of what it gave, for scripts that write only if the group is still that one."""
        group = await self.get(name)
        kept = self._keep(name)
        return group, kept.version or b"0"

    async def describe(self, names: Iterable[str]) -> list[Group | KafkaError | None]:
        """`get` for many at once; a group whose Redis node is away is its error."""
        found = await asyncio.gather(*(self.get(name) for name in names), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, KafkaError):
                raise each
        return found  # type: ignore[return-value]

    async def list(self, types: Collection[str] = (), phases: Collection[str] = ()) -> list[Listed]:
        """Every group, also those that only have offsets (Empty, no protocol type); filters as in ListGroups v5."""
        listed = [
            Listed(name, value["type"], value["protocol_type"], value["phase"])
            for name, stored in (await self.summaries()).items()
            for value in (orjson.loads(stored),)
        ]
        kinds, states = {each.lower() for each in types}, {each.lower() for each in phases}
        return [
            each
            for each in listed
            if (not kinds or each.type in kinds) and (not states or each.phase.lower() in states)
        ]

    async def summaries(self) -> dict[str, bytes]:
        """Group name -> what the list of all groups says of it."""
        flat = await self.storage.call(self._meta.groups, "HGETALL", self._meta.groups)
        return {name.decode(): stored for name, stored in zip(flat[::2], flat[1::2], strict=True)}

    # --- the list of all groups ----------------------------------------------------------------------------------

    async def note(self, name: str, group: Group | None, *, fresh: bool = False) -> None:
        """List a group if this process has not; POLICY_VIOLATION when there are `groups_max`."""
        text = summary(group)
        if self.noted.get(name) == text or (fresh and name in self.noted):
            return
        await self.storage.run(
            script("note_group"), (self._meta.groups,), (name, text, int(fresh), self.settings.groups_max)
        )
        self.noted[name] = text

    async def note_as(self, name: str, text: bytes) -> None:
        """Change what the list says of a group."""
        self.noted[name] = text
        await self.storage.call(self._meta.groups, "HSET", self._meta.groups, name, text)

    async def relist(self) -> None:
        """Read the list, and put back what is missing of the groups this process knows."""
        known = set(self.noted)
        found = await self.summaries()
        self.noted = found | {name: text for name, text in self.noted.items() if name not in known}
        self.rebalances = {name: count for name, count in self.rebalances.items() if name in self.noted}
        for name, kept in list(self._kept.items()):
            if kept.group is not None and name not in found:
                await self.note(name, kept.group)

    def stood_still(self, for_ms: int) -> None:
        """Nobody was heard for a while: those a group waits for get that time again."""
        for kept in self._kept.values():
            if waits(kept.group):
                kept.was_deaf(for_ms)

    def serves(self, name: str) -> bool:
        """Whether this process has had to do with a group lately."""
        return name in self._kept

    async def unlist(self, name: str) -> None:
        """Take a group that is gone off the list."""
        self.noted.pop(name, None)
        self.rebalances.pop(name, None)
        await self.storage.call(self._meta.groups, "HDEL", self._meta.groups, name)

    # --- one group's turn --------------------------------------------------------------------------------------

    def _keep(self, name: str) -> Kept:
        kept = self._kept.get(name)
        if kept is None:
            check_name(name)
            if len(self._kept) >= KEPT_MAX:
                for old in [old for old, each in self._kept.items() if not each.busy][: KEPT_MAX // 4]:
                    del self._kept[old]
            kept = self._kept[name] = Kept(name, GroupKeys(self.settings.key_prefix, name), self._loop)
        return kept

    async def _serve(self, kept: Kept) -> None:
        """Take turns until nobody waits."""
        while kept.queue:
            batch = [kept.queue.popleft() for _ in range(min(len(kept.queue), BATCH_MAX))]
            batch = [asked for asked in batch if not asked.answer.done()]
            try:
                await self.answered(kept.name, self._commit(kept, batch))
            except KafkaError as refused:
                for asked in batch:
                    asked.give(refused)
            except asyncio.CancelledError:
                for asked in [*batch, *kept.queue]:
                    asked.give(KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, "This worker is closing."))
                raise
            except Exception as unexpected:
                log.exception("A turn of group %r failed", kept.name)
                for asked in batch:
                    asked.give(unexpected)
        kept.busy = False

    async def _commit(self, kept: Kept, batch: Batch) -> None:
        """Step a batch of events and swap the group, again and again until nobody came first; then answer."""
        for attempt in range(SWAP_ATTEMPTS):
            fresh = kept.version is None
            if fresh:
                await self.load(kept)
            known = kept.version
            self.glance()
            turn = take_turn(kept, batch, self.settings, self.outside)
            if turn.idle:
                if not fresh:
                    await self.load(kept)  # what was answered from the cache must still be so
                if kept.version == known:
                    turn.answer(kept)
                    return
            elif await self._swap(kept, turn, batch, mind_time=attempt < STALE_ATTEMPTS):
                turn.answer(kept)
                return
            else:
                # A shorter batch is stepped faster, or who has many events would lose to who has one for ever.
                half = max(1, len(batch) // 2)
                kept.queue.extendleft(reversed(batch[half:]))
                del batch[half:]
                await asyncio.sleep(random.uniform(0, PAUSE_S * min(attempt, 10)))
        raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, f"Group {kept.name!r} is changed by too many at once.")

    async def _swap(self, kept: Kept, turn: Turn, batch: Batch, *, mind_time: bool) -> bool:
        """Write a turn's group if Redis still has the one it was made from, and, to mind time, still at its time."""
        mind_time = mind_time and waits(kept.group)
        known = kept.version or b"0"  # of what the turn was made from, whatever others load meanwhile
        if kept.group is None:
            await self.note(kept.name, turn.group)  # listed first: nobody may be left with a group nobody looks after
        keys, token = kept.keys, secrets.token_hex(6)
        swapped, version, now_ms, value = await self.storage.run(
            script("swap_group"),
            (keys.state, keys.head, keys.sessions, keys.beats, keys.assignment, keys.wake),
            (
                known,
                token,
                pack(turn.group),
                int(turn.wake),
                turn.now_ms + STALE_MS if mind_time else 0,
                orjson.dumps(turn.changes()),
            ),
        )
        kept.saw(now_ms)
        if swapped == 1:
            before, after = kept.group, turn.group
            if after is not None and after.epoch > (0 if before is None else before.epoch):
                self.rebalances[kept.name] = self.rebalances.get(kept.name, 0) + 1
            kept.have(bytes(version), turn.group, turn.after)
            if turn.wake:
                self._tail.announce(keys.wake, 0, int(version))
            self.changed(kept.name)
            self._note_soon(kept)
        elif swapped == 0:
            kept.have(bytes(version), unpack(value))
        elif swapped == -2:
            kept.was_deaf(now_ms - turn.now_ms)
        else:
            batch[:] = turn.without_expiry(batch)
        return bool(swapped == 1)

    async def load(self, kept: Kept) -> bool:
        """Read a group unless it is known already; True when there is no group, but offsets."""
        keys, began_s, known = kept.keys, self._loop.time(), kept.version or b""
        version, now_ms, offsets_only, value = await self.storage.run(
            script("load_group"), (keys.state, keys.head, keys.offsets), (known,)
        )
        kept.saw(now_ms)
        took_ms = (self._loop.time() - began_s) * 1000
        if took_ms > STALE_MS:
            kept.was_deaf(took_ms)
        if version == known and kept.version is None:  # forgotten meanwhile, and no value was told
            return await self.load(kept)
        if version not in (known, kept.version):
            kept.have(bytes(version), unpack(value))
        return bool(offsets_only)

    def _note_soon(self, kept: Kept) -> None:
        """Tell the list of a new phase; it may lag, and the tenders mend it."""
        text = summary(kept.group)
        if self.noted.get(kept.name) != text:
            self.noted[kept.name] = text
            call = self.storage.call(self._meta.groups, "HSET", self._meta.groups, kept.name, text)
            call.add_done_callback(lambda done: done.cancelled() or done.exception())

    # --- deleting ------------------------------------------------------------------------------------------------

    async def _delete(self, name: str) -> KafkaError | None:
        try:
            await self._drop(name, 0, b"")
        except KafkaError as refused:
            return refused
        return None

    async def _drop(self, name: str, idle: int, known: bytes) -> int:
        keys = self._keep(name).keys
        names = (keys.state, keys.head, keys.sessions, keys.beats, keys.assignment, keys.offsets, keys.wake)
        deleted = await self.answered(name, self.acked("delete_group", names, (idle, known)))
        if deleted:
            await self.unlist(name)
        return int(deleted)

    async def acked(self, operation: str, keys: tuple[bytes, ...], args: Sequence[Any]) -> Any:
        """Run a script as durably as acks=all; REQUEST_TIMED_OUT when it ran, but too few copies have it."""
        replicas = self._durability.copies(None, key_slot(keys[0])) - 1
        reply, acknowledged = await self.storage.run_acked(
            script(operation), keys, args, replicas=replicas, timeout_ms=self.settings.storage_timeout_ms
        )
        if acknowledged < replicas:
            got = f"{acknowledged} of {replicas} replicas have it"
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, f"The change was made, but only {got}.")
        return reply

    async def answered(self, name: str, call: Awaitable[T]) -> T:
        """A storage call in a group's words: where Redis is away, the coordinator is."""
        began_s = self._loop.time()
        try:
            return await call
        except KafkaError as error:
            if error.code not in COORDINATOR_AWAY:
                raise
            if kept := self._kept.get(name):
                kept.forget()
                kept.was_deaf((self._loop.time() - began_s) * 1000)
            self.troubled(name)
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, error.message) from error

    async def close(self) -> None:
        """End the turns under way."""
        for turn in list(self._turns):
            turn.cancel()
        if self._turns:
            await asyncio.wait(self._turns)


def waits(group: Group | None) -> bool:
    """Whether something in a group has a deadline."""
    return group is not None and group.next_deadline_ms is not None


def check_name(name: str) -> None:
    """INVALID_GROUP_ID for what is no group's name."""
    if not name or "\0" in name:
        raise KafkaError(ErrorCode.INVALID_GROUP_ID, "A group id is a text without NUL characters, and not empty.")
