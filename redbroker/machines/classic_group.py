"""The classic group protocol (JoinGroup, SyncGroup, LeaveGroup) as a pure state machine. `docs/groups.md` draws it.

    Empty -- a member joins --> PreparingRebalance -- all joined, or deadline --> CompletingRebalance
                                  ^      ^                                          |          |
              joins, leaves,      |      +-- joins, leaves, expires, no SyncGroup --+     leader's SyncGroup
              expires, changes    +---------------------- Stable <-----------------------------+

Kafka's rules (group-coordinator, 4.x), with three of ours, because any worker may go on with any group:

* A generation is never lower than the seconds since 2026, so a group value lost in a failover repeats none.
* A deadline found long overdue was watched by nobody (Redis or all workers were away): it begins anew, or everybody
  who could not come back in time would be thrown out at once. One too far ahead is of a clock that was set back.
* A parked request is stepped again with the same event, so every event is idempotent for who already has its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.classic_types import (
    COMPLETING,
    EMPTY,
    PREPARING,
    STABLE,
    ClassicGroup,
    Heartbeat,
    Joined,
    JoinGroup,
    Leave,
    LeaveGroup,
    Left,
    Member,
    Synced,
    SyncGroup,
)
from redbroker.machines.group import Expire, Park, Step, Tick

if TYPE_CHECKING:
    from redbroker.config import Settings

__all__ = [
    "COMPLETING", "EMPTY", "PREPARING", "STABLE", "ClassicGroup", "Event", "Heartbeat", "JoinGroup", "Joined", "Leave",
    "LeaveGroup", "Left", "Member", "SyncGroup", "Synced", "step",
]  # fmt: skip

GENERATION_ZERO_MS = 1_767_225_600_000
"""2026-01-01: generations count seconds from here at least, and stay below 2^31 until 2094."""
OVERDUE_MS = 5_000
"""A deadline missed by more than this was attended by nobody."""

Event = JoinGroup | SyncGroup | Heartbeat | LeaveGroup | Tick | Expire


def step(group: ClassicGroup | None, event: Event, now_ms: int, settings: Settings) -> Step:
    """What an event makes of a group (None: there is none). Answers as told at each event's class."""
    turn = _Turn(group, now_ms, settings)
    turn.tick()
    answer = HANDLERS[type(event)](turn, event)
    return Step(turn.result(), answer, turn.wake, frozenset(turn.touched & turn.members.keys()))


class _Turn:
    """A group being changed by one event: the fields of `ClassicGroup`, writable."""

    def __init__(self, group: ClassicGroup | None, now_ms: int, settings: Settings) -> None:
        self.before, self.now_ms, self.settings = group, now_ms, settings
        base = group or ClassicGroup(since_ms=now_ms)
        self.phase, self.generation, self.since_ms = base.phase, base.generation, base.since_ms
        self.protocol_type, self.protocol, self.leader = base.protocol_type, base.protocol, base.leader
        self.members, self.pending = dict(base.members), dict(base.pending)
        self.deadline_ms, self.remaining_ms, self.grown = base.deadline_ms, base.remaining_ms, base.grown
        self.nbytes = base.nbytes
        self.changed = self.wake = False
        self.touched: set[str] = set()

    def result(self) -> ClassicGroup | None:
        """The group afterwards; the very same object when nothing changed."""
        if not self.changed:
            return self.before
        return ClassicGroup(
            self.phase, self.generation, self.protocol_type, self.protocol, self.leader, self.members, self.pending,
            self.deadline_ms, self.remaining_ms, self.grown, self.since_ms, self.nbytes,
        )  # fmt: skip

    # --- small words -----------------------------------------------------------------------------------------

    def put(self, member: Member) -> None:
        self.members[member.id] = member
        self.changed = True

    def enter(self, phase: str) -> None:
        self.phase, self.since_ms, self.changed = phase, self.now_ms, True

    def static_id(self, instance_id: str) -> str | None:
        """The member id that has an instance id."""
        return next((each.id for each in self.members.values() if each.instance_id == instance_id), None)

    def unknown(self, member_id: str, instance_id: str | None) -> ErrorCode | None:
        """Why this is no member, if it is none."""
        if instance_id is not None:
            owner = self.static_id(instance_id)
            if owner is not None and owner != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
            if owner is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
        return None if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    @property
    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    @property
    def all_joined(self) -> bool:
        return not self.pending and all(member.joined for member in self.members.values())

    def candidates(self) -> set[str]:
        """The protocols that every member supports."""
        counts = Counter(name for member in self.members.values() for name in dict(member.protocols))
        return {name for name, count in counts.items() if count == len(self.members)}

    def supports(self, event: JoinGroup) -> bool:
        """Whether a member with these protocols fits in."""
        names = {name for name, _ in event.protocols}
        if not self.members:
            return bool(event.protocol_type and names)
        for member in self.members.values():
            names.intersection_update(dict(member.protocols))
            if not names:
                break
        return event.protocol_type == self.protocol_type and bool(names)

    def vote(self) -> str:
        """The protocol of the next generation: each member votes for the first it prefers that all support."""
        candidates = self.candidates()
        votes = Counter(
            next(name for name, _ in member.protocols if name in candidates) for member in self.members.values()
        )
        return votes.most_common(1)[0][0]

    # --- time --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what was due."""
        lapsed = [member_id for member_id, until_ms in self.pending.items() if until_ms <= self.now_ms]
        for member_id in lapsed:
            self.drop_pending(member_id)
        if self.deadline_ms is None:
            return
        overdue_ms = self.now_ms - self.deadline_ms
        if overdue_ms > OVERDUE_MS or self.now_ms < self.since_ms - OVERDUE_MS:
            first = self.remaining_ms is not None
            span_ms = self.settings.group_initial_rebalance_delay_ms if first else self.rebalance_timeout_ms
            self.deadline_ms, self.since_ms = self.now_ms + span_ms, min(self.since_ms, self.now_ms)
            self.changed = self.wake = True
        elif overdue_ms >= 0:
            self.deadline_passed()

    def deadline_passed(self) -> None:
        """The join phase, the initial delay, or the time to send SyncGroup is over."""
        if self.phase == PREPARING:
            if self.grown and self.remaining_ms:
                longer_ms = min(self.settings.group_initial_rebalance_delay_ms, self.remaining_ms)
                self.deadline_ms, self.remaining_ms = self.now_ms + longer_ms, self.remaining_ms - longer_ms
                self.grown, self.changed = False, True
            else:
                self.complete()
            return
        self.deadline_ms, self.changed = None, True
        late = [member.id for member in self.members.values() if member.unsynced]
        for member_id in late:
            self.remove(member_id)
        if late:
            self.prepare()

    # --- phases ------------------------------------------------------------------------------------------------

    def rebalance(self) -> None:
        """Members changed: begin a rebalance, or finish the one under way if nobody is missing any more."""
        if self.phase == PREPARING:
            self.maybe_complete()
        else:
            self.prepare()

    def prepare(self) -> None:
        """Begin to wait for everybody to join; the first members of a group are given time to come together."""
        if self.phase == COMPLETING:
            for member in list(self.members.values()):
                self.put(replace(member, assignment=b"", syncing=False))
        for member in list(self.members.values()):
            if member.unsynced:
                self.put(replace(member, unsynced=False))
        first = self.phase == EMPTY
        self.enter(PREPARING)
        self.wake = True
        self.deadline_ms = self.remaining_ms = None
        if first:
            delay_ms = self.settings.group_initial_rebalance_delay_ms
            self.deadline_ms = self.now_ms + delay_ms
            self.remaining_ms, self.grown = max(self.rebalance_timeout_ms - delay_ms, 0), False
        elif self.all_joined:
            self.complete()
        else:
            self.deadline_ms = self.now_ms + self.rebalance_timeout_ms

    def maybe_complete(self) -> None:
        """End the join phase if all have joined; the initial delay runs its time."""
        if self.phase == PREPARING and self.remaining_ms is None and self.all_joined:
            self.complete()

    def complete(self) -> None:
        """End the join phase with those who are here: a new generation, or an empty group."""
        self.changed = self.wake = True
        for member in list(self.members.values()):
            if not member.joined and member.instance_id is None:
                self.remove(member.id)
        here = [member.id for member in self.members.values() if member.joined]
        if self.members and not here:  # static members may still come: until their sessions end
            self.deadline_ms, self.remaining_ms = self.now_ms + self.rebalance_timeout_ms, None
            return
        self.generation = max(self.generation + 1, (self.now_ms - GENERATION_ZERO_MS) // 1000)
        self.deadline_ms = self.remaining_ms = None
        self.grown = False
        if not self.members:
            self.protocol = self.leader = None
            self.enter(EMPTY)
            return
        if self.leader not in here:
            self.leader = here[0]
        self.protocol = self.vote()
        for member in list(self.members.values()):
            self.put(replace(member, joined=False, new=False, unsynced=True))
        self.touched.update(self.members)
        self.deadline_ms = self.now_ms + self.rebalance_timeout_ms
        self.enter(COMPLETING)

    # --- members -------------------------------------------------------------------------------------------------

    def add(self, event: JoinGroup, member_id: str) -> None:
        """A new member; its JoinGroup is parked."""
        if not self.members:
            self.protocol_type = event.protocol_type
        if self.phase == PREPARING and self.remaining_ms is not None:
            self.grown = True
        self.pending.pop(member_id, None)
        self.nbytes += weight(event.protocols)
        self.put(
            Member(
                member_id, event.instance_id, event.client_id, event.client_host, event.session_timeout_ms,
                rebalance_timeout(event), event.protocols, joined=True, new=True,
            )
        )  # fmt: skip
        self.leader = self.leader or member_id
        self.touched.add(member_id)
        self.rebalance()

    def update(self, event: JoinGroup, member_id: str) -> None:
        """A member comes back, perhaps with another subscription; its JoinGroup is parked."""
        before = self.members[member_id]
        after = replace(
            before,
            session_timeout_ms=event.session_timeout_ms,
            rebalance_timeout_ms=rebalance_timeout(event),
            protocols=event.protocols,
            joined=True,
        )
        if after != before:
            self.nbytes += weight(after.protocols) - weight(before.protocols)
            self.put(after)

    def remove(self, member_id: str) -> None:
        """Take a member out; whatever it has parked is answered."""
        self.nbytes -= weight(self.members.pop(member_id).protocols)
        self.changed = self.wake = True
        if self.leader == member_id:
            self.leader = next(iter(self.members), None)

    def drop_pending(self, member_id: str) -> None:
        """An id that was given out will not be used any more."""
        del self.pending[member_id]
        self.changed = True
        if self.phase == PREPARING and self.all_joined:
            self.complete()

    # --- JoinGroup ---------------------------------------------------------------------------------------------

    def join(self, event: JoinGroup) -> Joined | Park:
        if event.parked:
            return self.join_again(event)
        settings = self.settings
        shortest_ms, longest_ms = settings.group_min_session_timeout_ms, settings.group_max_session_timeout_ms
        if not shortest_ms <= event.session_timeout_ms <= longest_ms:
            return refused(event, ErrorCode.INVALID_SESSION_TIMEOUT)
        if weight(event.protocols) > settings.group_member_bytes_max:
            return refused(event, ErrorCode.INVALID_REQUEST)
        if self.before is None and event.member_id:
            return refused(event, ErrorCode.UNKNOWN_MEMBER_ID)
        if not self.has_room(event):
            if event.member_id in self.members:
                self.remove(event.member_id)
            self.drop_quietly(event.member_id)
            return Joined(ErrorCode.GROUP_MAX_SIZE_REACHED, "")
        if not self.supports(event):
            return refused(event, ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        return self.join_known(event) if event.member_id else self.join_new(event)

    def drop_quietly(self, member_id: str) -> None:
        if self.pending.pop(member_id, None) is not None:
            self.changed = True

    def has_room(self, event: JoinGroup) -> bool:
        """The bounds on a group: how many members, and how many bytes of metadata they have together."""
        most = self.settings.group_max_size
        if not event.member_id and len(self.pending) >= most:
            return False
        known = self.members.get(event.member_id)
        if self.phase == PREPARING:
            joined = sum(member.joined for member in self.members.values())
            if joined >= most and not (known and known.joined):
                return False
        elif self.phase != EMPTY and known is None and len(self.members) >= most:
            return False
        replaced = weight(known.protocols) if known else 0
        return self.nbytes - replaced + weight(event.protocols) <= self.settings.group_bytes_max

    def join_new(self, event: JoinGroup) -> Joined | Park:
        member_id = event.new_member_id
        if event.instance_id is not None:
            owner = self.static_id(event.instance_id)
            if owner is not None:
                return self.replace_static(event, owner)
            self.add(event, member_id)
        elif event.known_id_required:
            self.pending[member_id] = self.now_ms + event.session_timeout_ms
            self.changed = True
            return Joined(ErrorCode.MEMBER_ID_REQUIRED, member_id)
        else:
            self.add(event, member_id)
        return self.placed(event, member_id)

    def join_again(self, event: JoinGroup) -> Joined | Park:
        """A parked request looks whether its answer is there; if a rebalance began meanwhile, it is in it."""
        if error := self.unknown(event.member_id, event.instance_id):
            return refused(event, error)
        if self.phase == PREPARING and not self.members[event.member_id].joined:
            self.update(event, event.member_id)
            self.maybe_complete()
        return self.placed(event, event.member_id)

    def join_known(self, event: JoinGroup) -> Joined | Park:
        member_id = event.member_id
        if member_id in self.pending:
            if event.instance_id is not None and self.static_id(event.instance_id) is not None:
                return refused(event, ErrorCode.FENCED_INSTANCE_ID)
            self.add(event, member_id)
            return self.placed(event, member_id)
        if error := self.unknown(member_id, event.instance_id):
            return refused(event, error)
        same = self.members[member_id].protocols == event.protocols
        leads = self.phase == STABLE and self.leader == member_id
        if self.phase == PREPARING or not same or leads:
            self.update(event, member_id)
            self.rebalance()
        return self.placed(event, member_id)

    def replace_static(self, event: JoinGroup, owner: str) -> Joined | Park:
        """A static member has restarted without its member id: it takes the place of what it was."""
        member_id, led, leader_before = event.new_member_id, self.leader == owner, self.leader
        # In the old one's place: the order of members decides who leads next.
        self.members = {
            (member_id if each.id == owner else each.id): replace(
                each, id=member_id, client_id=event.client_id, client_host=event.client_host,
                joined=False, new=False, syncing=False,
            ) if each.id == owner else each
            for each in self.members.values()
        }  # fmt: skip
        self.leader = member_id if led else self.leader
        self.wake = True
        self.touched.add(member_id)
        self.update(event, member_id)
        if self.phase == STABLE and self.vote() == self.protocol:
            self.put(replace(self.members[member_id], joined=False))
            if event.skip_supported:
                return replace(self.info(member_id, leads=led), skip_assignment=led)
            # Before v9 a leader that is told that it leads would assign anew: it is told its old id.
            return replace(self.info(member_id, leads=False), leader=leader_before or "")
        self.rebalance()
        return self.placed(event, member_id)

    def placed(self, event: JoinGroup, member_id: str) -> Joined | Park:
        """The answer for a member that has its place: parked while the group is preparing."""
        if self.phase != PREPARING:
            return self.info(member_id, leads=self.phase == COMPLETING and self.leader == member_id)
        assert self.deadline_ms is not None
        return Park(self.deadline_ms, replace(event, member_id=member_id, parked=True))

    def info(self, member_id: str, *, leads: bool) -> Joined:
        """This generation, as a member is told it."""
        told = self.members.values() if leads else ()
        return Joined(
            ErrorCode.NONE, member_id, self.generation, self.protocol_type, self.protocol, self.leader or "", False,
            tuple((each.id, each.instance_id, each.metadata(self.protocol)) for each in told),
        )  # fmt: skip

    # --- SyncGroup, Heartbeat, LeaveGroup, Expire ------------------------------------------------------------------

    def sync(self, event: SyncGroup) -> Synced | Park | KafkaError:
        if error := self.unknown(event.member_id, event.instance_id):
            return KafkaError(error)
        if event.generation != self.generation:
            return KafkaError(ErrorCode.ILLEGAL_GENERATION)
        if event.protocol_type not in (None, self.protocol_type) or event.protocol not in (None, self.protocol):
            return KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if self.phase == PREPARING:
            return KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
        if weight(event.assignments) > self.settings.group_bytes_max:
            return KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR, "The assignment exceeds group_bytes_max.")
        member = self.members[event.member_id]
        if self.phase == COMPLETING and self.leader == member.id:
            self.assign(dict(event.assignments))
        elif self.phase == COMPLETING:
            if member.unsynced or not member.syncing:
                self.put(replace(member, unsynced=False, syncing=True))
            assert self.deadline_ms is not None
            return Park(self.deadline_ms, event)
        if self.members[member.id].unsynced:
            self.put(replace(self.members[member.id], unsynced=False))
            self.all_synced()
        assert self.protocol is not None
        return Synced(self.protocol_type, self.protocol, self.members[member.id].assignment)

    def assign(self, assignments: dict[str, bytes]) -> None:
        """The leader has brought the assignment: the generation is stable. Nothing for a member is an empty one."""
        for member in list(self.members.values()):
            if member.syncing:
                self.touched.add(member.id)
            self.put(replace(member, assignment=assignments.get(member.id, b""), syncing=False))
        self.enter(STABLE)
        self.wake = True
        self.all_synced()

    def all_synced(self) -> None:
        """Nobody's SyncGroup is waited for any more, if so."""
        if not any(member.unsynced for member in self.members.values()):
            self.deadline_ms = None

    def heartbeat(self, event: Heartbeat) -> KafkaError | None:
        if error := self.unknown(event.member_id, event.instance_id):
            return KafkaError(error)
        if event.generation != self.generation:
            return KafkaError(ErrorCode.ILLEGAL_GENERATION)
        self.touched.add(event.member_id)
        return KafkaError(ErrorCode.REBALANCE_IN_PROGRESS) if self.phase == PREPARING else None

    def leave(self, event: LeaveGroup) -> Left:
        errors = tuple(self.leave_one(each) for each in event.leavers)
        if ErrorCode.NONE in errors and self.phase != EMPTY:
            self.rebalance()
        return Left(errors)

    def leave_one(self, leaver: Leave) -> ErrorCode:
        member_id: str | None = leaver.member_id
        if not member_id and leaver.instance_id is not None:
            member_id = self.static_id(leaver.instance_id)
        if member_id in self.pending:
            del self.pending[member_id]
            self.changed = True
            return ErrorCode.NONE
        if not member_id:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if error := self.unknown(member_id, leaver.instance_id):
            return error
        self.remove(member_id)
        return ErrorCode.NONE

    def expire(self, event: Expire) -> None:
        """Members whose sessions are over go; those with a parked request are not silent, but waiting."""
        gone = [each for each in event.member_ids if each in self.members and self.members[each].watched]
        for member_id in gone:
            self.remove(member_id)
        if not gone:
            return
        if self.phase != PREPARING:
            self.prepare()
        elif self.all_joined:
            self.complete()

    def nothing(self, event: Tick) -> None:
        """`tick` has done it."""


HANDLERS: dict[type[Any], Callable[[_Turn, Any], Any]] = {
    JoinGroup: _Turn.join,
    SyncGroup: _Turn.sync,
    Heartbeat: _Turn.heartbeat,
    LeaveGroup: _Turn.leave,
    Expire: _Turn.expire,
    Tick: _Turn.nothing,
}


def rebalance_timeout(event: JoinGroup) -> int:
    """Before v1 a member has no rebalance timeout of its own."""
    return event.rebalance_timeout_ms if event.rebalance_timeout_ms >= 0 else event.session_timeout_ms


def refused(event: JoinGroup, error: ErrorCode) -> Joined:
    """An answer without a group."""
    return Joined(error, event.member_id)


def weight(pairs: Iterable[tuple[str, bytes]]) -> int:
    """Bytes of names and values together."""
    return sum(len(name) + len(value) for name, value in pairs)
