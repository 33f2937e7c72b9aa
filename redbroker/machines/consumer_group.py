"""The consumer group protocol of KIP-848 as a pure state machine: who is in, who shall read what, who reads it now.

    step(group, event, now_ms, settings) -> Step

A change of membership, subscriptions or topics bumps the group epoch and computes the target assignment at once; each
member is brought there by its own heartbeats (`reconciliation`). The group is

    Empty          without members
    Reconciling    while a member has not reached the target of the group's epoch
    Stable         when all have

so Kafka's Assigning never shows. A heartbeat's `member_epoch` is 0 to join, -1 to leave, -2 to leave for a while
(static members), else the epoch the member was told last. The one before is taken, too, if the member owns nothing it
was not given: the answer that told it the newer one may have been lost. Refused with UNKNOWN_MEMBER_ID,
FENCED_MEMBER_EPOCH, FENCED_INSTANCE_ID, UNRELEASED_INSTANCE_ID, GROUP_MAX_SIZE_REACHED, INVALID_REGULAR_EXPRESSION,
and GROUP_ID_NOT_FOUND where members of the classic protocol are in and cannot be taken over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.assignors import ASSIGNORS, DEFAULT_ASSIGNOR, NONE, Partitions, Subscriber, preferred
from redbroker.machines.group import Expire, Session, Step, Tick
from redbroker.machines.reconciliation import (
    LEAVE_STATIC,
    STABLE,
    UNRELEASED,
    UNREVOKED,
    Member,
    advance,
    member_from_json,
    member_to_json,
    partitions_from_json,
    partitions_to_json,
    unsubscribe,
)
from redbroker.machines.subscriptions import Catalogue, Known, matcher, resolve

if TYPE_CHECKING:
    from redbroker.config import Settings


OVERDUE_MS = 5_000
"""A deadline missed by more than this was watched by nobody, because Redis or all workers were away: it begins anew."""


@dataclass(frozen=True, slots=True)
class ConsumerHeartbeat:
    """A member's heartbeat, already checked for its shape; None and -1 mean unchanged. Answers `Heard`.

    `pattern`: an empty one is no pattern. `owned` is what the member reads now. `catalogue` are all topics.
    """

    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    topics: tuple[str, ...] | None = None
    pattern: str | None = None
    assignor: str | None = None
    owned: Partitions | None = None
    client_id: str = ""
    client_host: str = ""
    catalogue: Catalogue = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Tells nothing but that the member is alive."""
        told = (self.rack_id, self.topics, self.pattern, self.assignor, self.owned)
        return self.rebalance_timeout_ms == -1 and all(each is None for each in told)

    @property
    def full(self) -> bool:
        """Joins, or tells everything again because an answer was lost: it must be told its assignment."""
        told = self.rebalance_timeout_ms != -1 and (self.topics is not None or self.pattern is not None)
        return self.member_epoch == 0 or (told and self.owned is not None)


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer to a heartbeat. `assigned` is None when the member already knows; `settled`: nothing is to come."""

    member_id: str
    member_epoch: int
    assigned: Partitions | None = None
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Refresh:
    """Topics were created, deleted or grown. Answers None."""

    catalogue: Catalogue


Event = ConsumerHeartbeat | Refresh | Expire | Tick


@dataclass(frozen=True, slots=True)
class Group:
    """One group. `epoch` is the target's, too. `topics` are those read, as last seen; `matches` what patterns name."""

    epoch: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    target: Mapping[str, Partitions] = field(default_factory=dict)
    topics: Mapping[str, Known] = field(default_factory=dict)
    matches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assignor: str = DEFAULT_ASSIGNOR
    session_timeout_ms: int = 45_000

    @property
    def type(self) -> str:
        return "consumer"

    @property
    def protocol_type(self) -> str:
        return "consumer"

    @property
    def phase(self) -> str:
        """Kafka's name of the group's state."""
        if not self.members:
            return "Empty"
        return "Stable" if all(each.settled(self.epoch) for each in self.members.values()) else "Reconciling"

    def sessions(self) -> dict[str, Session]:
        """A member that is not settled must be stepped at each heartbeat: others may have freed what it waits for."""
        return {
            each.id: Session(
                each.classic.session_timeout_ms if each.classic else self.session_timeout_ms,
                each.epoch,
                each.instance_id,
                steady=not self.must_rejoin(each) if each.classic else each.settled(self.epoch),
                classic=each.classic is not None,
            )
            for each in self.members.values()
        }

    def must_rejoin(self, member: Member) -> bool:
        """Whether a member of the classic protocol has to join again to learn more: only then is it told anything."""
        if member.epoch != self.epoch or member.state == UNREVOKED:
            return True
        wanted = self.target.get(member.id, NONE) - member.assigned
        return member.state == UNRELEASED and not wanted & held_by_others(self, member.id)

    def owners(self) -> dict[str, str]:
        """Who may read which partition now, for people and tools."""
        names = {known.id: name for name, known in self.topics.items()}
        return {
            f"{names.get(topic, topic)}:{number}": f"{each.id} {each.epoch} {each.client_id} {each.client_host}"
            for each in self.members.values()
            for topic, number in sorted(each.held)
        }

    def names_of(self, member: Member) -> set[str]:
        """The topics a member reads, whether they exist or not."""
        return {*member.topics, *self.matches.get(member.pattern, ())}

    def ids_of(self, member: Member) -> frozenset[str]:
        """The ids of the existing topics a member reads."""
        return frozenset(self.topics[name].id for name in self.names_of(member) if name in self.topics)

    def subscribed(self, topic: str) -> bool:
        """Whether a member reads this topic."""
        return any(topic in self.names_of(member) for member in self.members.values())

    def static(self, instance_id: str | None) -> Member | None:
        """The member with this group.instance.id."""
        if instance_id is None:
            return None
        return next((each for each in self.members.values() if each.instance_id == instance_id), None)

    @property
    def next_deadline_ms(self) -> int | None:
        """When the first member is out because it does not do what it was told."""
        return min((due for each in self.members.values() for due in each.deadlines), default=None)

    def not_before(self, due_ms: int) -> Group:
        """The group without a deadline before this; the same object where there is none."""
        next_ms = self.next_deadline_ms
        if next_ms is None or next_ms >= due_ms:
            return self
        return replace(self, members={name: each.not_before(due_ms) for name, each in self.members.items()})

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return {
            "type": self.type,
            "epoch": self.epoch,
            "assignor": self.assignor,
            "session_timeout_ms": self.session_timeout_ms,
            "topics": {name: [known.id, known.partitions] for name, known in self.topics.items()},
            "matches": {pattern: list(names) for pattern, names in self.matches.items()},
            "members": {each.id: member_to_json(each) for each in self.members.values()},
            "target": {member: partitions_to_json(each) for member, each in self.target.items() if each},
        }


def from_json(value: Mapping[str, Any]) -> Group:
    """Reads `to_json`; what newer workers add is skipped."""
    return Group(
        epoch=value["epoch"],
        assignor=value["assignor"],
        session_timeout_ms=value["session_timeout_ms"],
        topics={name: Known(*known) for name, known in value["topics"].items()},
        matches={pattern: tuple(names) for pattern, names in value["matches"].items()},
        members={member_id: member_from_json(member_id, each) for member_id, each in value["members"].items()},
        target={member_id: partitions_from_json(each) for member_id, each in value["target"].items()},
    )


# --- events -----------------------------------------------------------------------------------------------------


def step(group: Any, event: Event, now_ms: int, settings: Settings) -> Step:
    """What an event makes of a consumer group (None: there is none yet); what was due by now is done first."""
    if group is not None:
        group = due(group, now_ms)
    try:
        match event:
            case ConsumerHeartbeat(member_epoch=0):
                return join(group or Group(), event, now_ms, settings)
            case ConsumerHeartbeat(member_epoch=epoch) if epoch < 0:
                return leave(group or Group(), event)
            case ConsumerHeartbeat():
                return hear(group or Group(), known_member(group or Group(), event), event, now_ms, settings)
            case Refresh() if group is not None:
                return Step(refreshed(group, event.catalogue))
            case Expire() if group is not None:
                return Step(without(group, event.member_ids))
    except KafkaError as refusal:
        return Step(group, refusal)
    return Step(group)


def join(group: Group, event: ConsumerHeartbeat, now_ms: int, settings: Settings) -> Step:
    """A new member, one that begins anew, or a static one that is back or takes over."""
    static = group.static(event.instance_id)
    if static is None or static.id == event.member_id:
        member = static or group.members.get(event.member_id)
        if member is None:
            if len(group.members) >= settings.group_consumer_max_size:
                raise KafkaError(
                    ErrorCode.GROUP_MAX_SIZE_REACHED, f"The group has {settings.group_consumer_max_size} members."
                )
            member = Member(event.member_id)
        elif member.away:
            member = replace(member, epoch=0, previous_epoch=0)
        return hear(group, member, event, now_ms, settings)
    if not (static.away or static.classic):
        raise KafkaError(
            ErrorCode.UNRELEASED_INSTANCE_ID, f"{event.instance_id!r} is still used by member {static.id}."
        )
    group, member = inherit(group, static, event.member_id)
    return hear(group, member, event, now_ms, settings)


def inherit(group: Group, static: Member, member_id: str) -> tuple[Group, Member]:
    """A static member's place under another member id: (the group without the old one, the new one)."""
    heir = {member_id: group.target[static.id]} if static.id in group.target else {}
    group = replace(
        group,
        members={each.id: each for each in group.members.values() if each is not static},
        target={each: has for each, has in group.target.items() if each != static.id} | heir,
    )
    return group, replace(static, id=member_id, epoch=0, previous_epoch=0)


def known_member(group: Group, event: ConsumerHeartbeat) -> Member:
    """The member that a heartbeat comes from, unless it is somebody else's or of an epoch gone by."""
    member = named(group, event)
    if event.member_epoch == member.epoch:
        return member
    lost_answer = event.member_epoch == member.previous_epoch and event.member_epoch < member.epoch
    if lost_answer and event.owned is not None and event.owned <= member.assigned:
        return member
    raise KafkaError(
        ErrorCode.FENCED_MEMBER_EPOCH,
        f"Member {member.id} is at epoch {member.epoch}, not {event.member_epoch}: it must give up all and rejoin.",
    )


def named(group: Group, event: ConsumerHeartbeat) -> Member:
    """The member by its group.instance.id, if the event has one, else by its id."""
    if event.instance_id is None:
        if member := group.members.get(event.member_id):
            return member
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, f"{event.member_id!r} is not a member of the group.")
    static = group.static(event.instance_id)
    if static is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, f"{event.instance_id!r} is not a static member of the group.")
    if static.id != event.member_id:
        raise KafkaError(ErrorCode.FENCED_INSTANCE_ID, f"{event.instance_id!r} belongs to member {static.id} by now.")
    return static


def hear(group: Group, member: Member, event: ConsumerHeartbeat, now_ms: int, settings: Settings) -> Step:
    """Take in what the member tells, bump the epoch if that changes who reads what, and move the member on."""
    changed = replace(group, session_timeout_ms=settings.group_consumer_session_timeout_ms)
    changed, updated = placed(changed, member, told(member, event), event.catalogue, event.owned, now_ms)
    tell = event.full or updated.assigned != member.assigned
    answer = Heard(updated.id, updated.epoch, updated.assigned if tell else None, updated.settled(changed.epoch))
    anew = event.member_epoch != member.epoch or event.member_epoch == 0
    return Step(group if changed == group else changed, answer, touched=frozenset({updated.id} if anew else ()))


def placed(
    group: Group, member: Member, updated: Member, catalogue: Catalogue, owned: Partitions | None, now_ms: int
) -> tuple[Group, Member]:
    """The group with `updated` where `member` was, if it was in, and that member one step nearer to its target."""
    resubscribed = (updated.topics, updated.pattern) != (member.topics, member.pattern)
    if resubscribed or not group.epoch:
        group = refreshed(replace(group, members={**group.members, updated.id: updated}), catalogue, bump=True)
        updated = unsubscribe(updated, group.ids_of(updated), now_ms)
    if not updated.settled(group.epoch):
        target = group.target.get(updated.id, NONE)
        updated = advance(updated, target, group.epoch, held_by_others(group, updated.id), owned, now_ms)
    return replace(group, members={**group.members, updated.id: updated}), updated


def told(member: Member, event: ConsumerHeartbeat) -> Member:
    """The member with what its heartbeat brought; refuses assignors and patterns that there are not."""
    if event.assignor is not None and event.assignor not in ASSIGNORS:
        raise KafkaError(
            ErrorCode.UNSUPPORTED_ASSIGNOR,
            f"{event.assignor[:100]!r} is not an assignor; there are {', '.join(ASSIGNORS)}.",
        )
    if event.pattern:
        matcher(event.pattern)
    return replace(
        member,
        instance_id=event.instance_id or member.instance_id,
        rack_id=event.rack_id or member.rack_id,
        rebalance_timeout_ms=member.rebalance_timeout_ms
        if event.rebalance_timeout_ms == -1
        else event.rebalance_timeout_ms,
        assignor=event.assignor or member.assignor,
        topics=member.topics if event.topics is None else tuple(sorted(set(event.topics))),
        pattern=member.pattern if event.pattern is None else event.pattern,
        client_id=event.client_id,
        client_host=event.client_host,
        classic=None,
    )


def leave(group: Group, event: ConsumerHeartbeat) -> Step:
    """Out of the group; a static member that will be back keeps its place and its partitions for its session's time."""
    member = named(group, event)
    answer = Heard(member.id, event.member_epoch)
    if event.member_epoch == LEAVE_STATIC and member.instance_id is not None:
        away = replace(member, epoch=LEAVE_STATIC, revoking=NONE, revoke_by_ms=None, state=STABLE)
        return Step(replace(group, members={**group.members, member.id: away}), answer)
    return Step(without(group, (member.id,)), answer)


# --- what events share ------------------------------------------------------------------------------------------


def due(group: Group, now_ms: int) -> Group:
    """Members that had to do something by now, and did not, are out. Time when nobody looked does not count."""
    late = {each.id: now_ms - min(each.deadlines) for each in group.members.values() if each.deadlines}
    unwatched = [group.members[member_id] for member_id, late_ms in late.items() if late_ms > OVERDUE_MS]
    if unwatched:
        again = {each.id: each.not_before(now_ms + each.rebalance_timeout_ms) for each in unwatched}
        group = replace(group, members={**group.members, **again})
    return without(group, {member_id for member_id, late_ms in late.items() if 0 <= late_ms <= OVERDUE_MS})


def without(group: Group, member_ids: Iterable[str]) -> Group:
    """The group after these have gone; the same object if none of them was in."""
    members = {member_id: each for member_id, each in group.members.items() if member_id not in set(member_ids)}
    if len(members) == len(group.members):
        return group
    left = replace(group, members=members)
    read = set().union(*map(left.names_of, members.values()))
    patterns = {each.pattern for each in members.values()}
    return retargeted(
        replace(
            left,
            epoch=group.epoch + 1,
            topics={name: known for name, known in group.topics.items() if name in read},
            matches={pattern: names for pattern, names in group.matches.items() if pattern in patterns},
        )
    )


def refreshed(group: Group, catalogue: Catalogue, *, bump: bool = False) -> Group:
    """The group with today's topics; the same object when they are as they were, unless its epoch is bumped anyway."""
    members = group.members.values()
    names = {name for each in members for name in each.topics}
    topics, matches = resolve(names, (each.pattern for each in members), catalogue)
    if not bump and topics == group.topics and matches == group.matches:
        return group
    return retargeted(replace(group, epoch=group.epoch + 1, topics=topics, matches=matches))


def retargeted(group: Group) -> Group:
    """The group with the target that its members' favourite assignor gives for its members and topics."""
    assignor = preferred(each.assignor for each in group.members.values())
    subscribers = {each.id: Subscriber(group.ids_of(each), each.instance_id) for each in group.members.values()}
    partitions = {known.id: known.partitions for known in group.topics.values()}
    target = ASSIGNORS[assignor](subscribers, partitions, group.target)
    return replace(group, assignor=assignor, target={member: each for member, each in target.items() if each})


def held_by_others(group: Group, member_id: str) -> Partitions:
    """What no other member may be given yet."""
    return NONE.union(*(each.held for each in group.members.values() if each.id != member_id))
