"""Groups on their way from one protocol to the other, while they run (KIP-848, migration).

    classic group --- a member of the consumer protocol joins ------------------------> consumer group
    consumer group -- the last of them leaves, members of the classic protocol stay --> classic group

Empty groups become what the first member speaks. In a consumer group, members of the classic protocol are told of each
new assignment by REBALANCE_IN_PROGRESS, as always, and join again; the server assigns, nobody leads. Cooperative
members keep reading meanwhile. Upgrading needs members that are consumers, with metadata that can be read; else
the newcomer is refused with GROUP_ID_NOT_FOUND. group_consumer_migration_policy says which of the two ways is open.

`step` is the machine of consumer groups for the engine: `consumer_group.step`, and here what is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines import classic_group, consumer_group
from redbroker.machines.assignors import NONE, Partitions
from redbroker.machines.classic_group import (
    EMPTY,
    PREPARING,
    ClassicGroup,
    Heartbeat,
    Joined,
    JoinGroup,
    LeaveGroup,
    Left,
    Synced,
    SyncGroup,
    rebalance_timeout,
    weight,
)
from redbroker.machines.classic_group import Member as ClassicMember
from redbroker.machines.consumer_group import ConsumerHeartbeat, Group, Refresh, placed, without
from redbroker.machines.group import Step
from redbroker.machines.reconciliation import UNREVOKED, ClassicClient, Member
from redbroker.machines.subscriptions import Catalogue, resolve

if TYPE_CHECKING:
    from redbroker.config import Settings

PROTOCOL_TYPE = "consumer"
CLASSIC_EVENTS = (JoinGroup, SyncGroup, Heartbeat, LeaveGroup)


def unreadable(*_: Any) -> Any:
    """Where nobody has said how to read members' bytes."""
    raise ValueError("the members' bytes cannot be read here")


@dataclass(frozen=True, slots=True)
class Outside:
    """What machines do not know by themselves: the topics, and how consumers write their bytes (ValueError if not).

    `read_subscription` gives `version`, `topics`, `owned` and `rack`; partitions are (topic name, partition).
    """

    catalogue: Catalogue = field(default_factory=dict)
    read_subscription: Callable[[bytes], Any] = unreadable
    read_assignment: Callable[[bytes], Iterable[tuple[str, int]]] = unreadable
    write_assignment: Callable[[Sequence[tuple[str, int]], int], bytes] = unreadable


NOTHING = Outside()


def step(group: Any, event: Any, now_ms: int, settings: Settings, outside: Outside = NOTHING) -> Step:
    """What an event makes of a consumer group, or of a classic one that a member of the consumer protocol addresses."""
    if isinstance(group, ClassicGroup):
        return from_classic(group, event, now_ms, settings, outside)
    if not isinstance(event, CLASSIC_EVENTS):
        return settled(consumer_group.step(group, event, now_ms, settings), group, now_ms, settings)
    if not group.members:
        return classic_group.step(as_classic(group, now_ms), event, now_ms, settings)
    before, group = group, consumer_group.due(group, now_ms)
    try:
        result = HANDLERS[type(event)](group, event, now_ms, settings, outside)
    except KafkaError as refusal:
        result = Step(group, refusal)
    return settled(result, before, now_ms, settings)


# --- between the two ---------------------------------------------------------------------------------------------


def from_classic(group: ClassicGroup, event: Any, now_ms: int, settings: Settings, outside: Outside) -> Step:
    """A member of the consumer protocol joins a classic group: the group becomes a consumer group, or refuses."""
    if isinstance(event, Refresh):
        return Step(group)
    if event.member_epoch != 0:
        return Step(
            group, KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, f"{event.member_id!r} is not a member of the group.")
        )
    try:
        taken_over = upgraded(group, settings, outside)
    except KafkaError as refusal:
        return Step(group, refusal)
    result = consumer_group.step(taken_over, event, now_ms, settings)
    if isinstance(result.answer, KafkaError):
        return Step(group, result.answer)
    return replace(settled(result, None, now_ms, settings), wake=True)


def upgraded(group: ClassicGroup, settings: Settings, outside: Outside) -> Group:
    """The classic group as a consumer group: each member has what its last assignment gave it, and its generation."""
    if not group.members:
        return Group(epoch=group.generation)
    refused = KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, "The group speaks the classic protocol and cannot be upgraded.")
    if group.protocol_type != PROTOCOL_TYPE or settings.group_consumer_migration_policy in ("downgrade", "disabled"):
        raise refused
    members: dict[str, Member] = {}
    taken: Partitions = NONE
    try:
        for each in group.members.values():
            read = outside.read_subscription(each.metadata(group.protocol) or each.protocols[0][1])
            assigned = ids(outside.read_assignment(each.assignment), outside.catalogue) - taken
            taken |= assigned
            members[each.id] = Member(
                each.id, each.instance_id, read.rack, each.client_id, each.client_host, each.rebalance_timeout_ms,
                topics=tuple(sorted(set(read.topics))), epoch=group.generation, previous_epoch=group.generation,
                assigned=assigned, classic=ClassicClient(each.session_timeout_ms, each.protocols),
            )  # fmt: skip
    except ValueError:
        raise refused from None
    topics, _ = resolve({name for each in members.values() for name in each.topics}, (), outside.catalogue)
    target = {each.id: each.assigned for each in members.values() if each.assigned}
    return Group(
        group.generation, members, target, topics, session_timeout_ms=settings.group_consumer_session_timeout_ms
    )


def settled(result: Step, before: Group | None, now_ms: int, settings: Settings) -> Step:
    """After each event: who waits is woken if there may be something for it; members of the classic protocol that must
    join again have until then; without others, it is their group again."""
    group = result.group
    if tells_others(before, group):
        result = replace(result, wake=True)
    if group is None or group is before or not any(each.classic for each in group.members.values()):
        return result
    back = settings.group_consumer_migration_policy in ("bidirectional", "downgrade")
    if back and all(each.classic for each in group.members.values()):
        return replace(result, group=as_classic(group, now_ms), wake=True)
    members = {each.id: with_rejoin(group, each, now_ms) for each in group.members.values()}
    return result if members == group.members else replace(result, group=replace(group, members=members))


def tells_others(before: Group | None, after: Group | None) -> bool:
    """Whether a change may concern other members: there is a new target, or a partition was let go."""
    if before is None or after is None or before is after:
        return False
    return before.epoch != after.epoch or not held(before) <= held(after)


def held(group: Group) -> Partitions:
    """What some member may be reading."""
    return NONE.union(*(each.held for each in group.members.values()))


def with_rejoin(group: Group, member: Member, now_ms: int) -> Member:
    """The member with a time to join again where it must, and none where it need not."""
    if member.classic is None or group.must_rejoin(member) == (member.classic.rejoin_by_ms is not None):
        return member
    due = now_ms + member.rebalance_timeout_ms if member.classic.rejoin_by_ms is None else None
    return replace(member, classic=replace(member.classic, rejoin_by_ms=due))


def as_classic(group: Group, now_ms: int) -> ClassicGroup:
    """The group's members of the classic protocol as a classic group: empty, or about to join again.

    Its generation is the one they know, so that their heartbeats hear REBALANCE_IN_PROGRESS and not that all is lost.
    """
    members = {
        each.id: ClassicMember(
            each.id, each.instance_id, each.client_id, each.client_host, each.classic.session_timeout_ms,
            each.rebalance_timeout_ms, each.classic.protocols,
        )
        for each in group.members.values() if each.classic
    }  # fmt: skip
    if not members:
        return ClassicGroup(EMPTY, group.epoch, PROTOCOL_TYPE, since_ms=now_ms)
    longest_ms = max(each.rebalance_timeout_ms for each in members.values())
    generation = max(group.members[member_id].epoch for member_id in members)
    return ClassicGroup(
        PREPARING, generation, PROTOCOL_TYPE, None, next(iter(members)), members,
        deadline_ms=now_ms + longest_ms, since_ms=now_ms,
    )  # fmt: skip


# --- members of the classic protocol in a consumer group -----------------------------------------------------------


def join(group: Group, event: JoinGroup, now_ms: int, settings: Settings, outside: Outside) -> Step:
    """JoinGroup: in, or back in; answered at once, with the member epoch as generation and nobody to lead."""
    subscription = fitting(group, event, settings, outside)
    static = group.static(event.instance_id)
    if not event.member_id and event.instance_id is None and event.known_id_required:
        return Step(group, Joined(ErrorCode.MEMBER_ID_REQUIRED, event.new_member_id))
    member_id = event.member_id or event.new_member_id
    if event.member_id and event.instance_id is not None:
        named(group, event.member_id, event.instance_id)
    if static is not None and static.id != member_id:
        group, member = consumer_group.inherit(group, static, member_id)
    else:
        member = group.members.get(member_id) or Member(member_id)
    if member_id not in group.members and static is None and len(group.members) >= settings.group_consumer_max_size:
        return Step(group, Joined(ErrorCode.GROUP_MAX_SIZE_REACHED, ""))
    timeout_ms = rebalance_timeout(event)
    updated = replace(
        member,
        instance_id=event.instance_id or member.instance_id,
        rack_id=subscription.rack or member.rack_id,
        rebalance_timeout_ms=timeout_ms,
        topics=tuple(sorted(set(subscription.topics))),
        pattern="",
        client_id=event.client_id,
        client_host=event.client_host,
        revoke_by_ms=None,
        classic=ClassicClient(event.session_timeout_ms, event.protocols, sync_by_ms=now_ms + timeout_ms),
    )
    owned = ids(subscription.owned, outside.catalogue)
    group, updated = placed(group, member, updated, outside.catalogue, owned, now_ms)
    protocol = event.protocols[0][0]
    answer = Joined(ErrorCode.NONE, updated.id, updated.epoch, PROTOCOL_TYPE, protocol)
    return Step(group, answer, touched=frozenset({updated.id}))


def fitting(group: Group, event: JoinGroup, settings: Settings, outside: Outside) -> Any:
    """The subscription of who wants to join, or the refusal."""
    shortest_ms, longest_ms = settings.group_min_session_timeout_ms, settings.group_max_session_timeout_ms
    if not shortest_ms <= event.session_timeout_ms <= longest_ms:
        raise KafkaError(ErrorCode.INVALID_SESSION_TIMEOUT)
    if weight(event.protocols) > settings.group_member_bytes_max:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "The metadata exceeds group_member_bytes_max.")
    others = [each.classic for each in group.members.values() if each.classic and each.id != event.member_id]
    names = {name for name, _ in event.protocols}
    common = names.intersection(*({name for name, _ in each.protocols} for each in others))
    if event.protocol_type != PROTOCOL_TYPE or not common:
        raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
    try:
        return outside.read_subscription(event.protocols[0][1])
    except ValueError:
        raise KafkaError(
            ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "The metadata is no subscription of a consumer."
        ) from None


def sync(group: Group, event: SyncGroup, now_ms: int, settings: Settings, outside: Outside) -> Step:
    """SyncGroup: the member's partitions, as its own protocol writes them."""
    member, classic = speaking_classic(group, event.member_id, event.instance_id)
    if event.generation != member.epoch:
        raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
    protocol, metadata = classic.protocols[0]
    if event.protocol_type not in (None, PROTOCOL_TYPE) or event.protocol not in (None, protocol):
        raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
    if group.epoch > member.epoch and member.state != UNREVOKED:
        raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
    names = {known.id: name for name, known in group.topics.items()}
    partitions = sorted((names[topic], number) for topic, number in member.assigned if topic in names)
    assignment = outside.write_assignment(partitions, outside.read_subscription(metadata).version)
    synced = replace(member, classic=replace(classic, sync_by_ms=None))
    group = replace(group, members={**group.members, member.id: synced})
    return Step(group, Synced(PROTOCOL_TYPE, protocol, assignment), touched=frozenset({member.id}))


def heartbeat(group: Group, event: Heartbeat, now_ms: int, settings: Settings, outside: Outside) -> Step:
    """Heartbeat: alive, and told to join again when there is more to tell."""
    member, _ = speaking_classic(group, event.member_id, event.instance_id)
    if event.generation != member.epoch:
        raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
    answer = KafkaError(ErrorCode.REBALANCE_IN_PROGRESS) if group.must_rejoin(member) else None
    return Step(group, answer, touched=frozenset({member.id}))


def leave(group: Group, event: LeaveGroup, now_ms: int, settings: Settings, outside: Outside) -> Step:
    """LeaveGroup: members of either protocol go (administrators do that); an instance id alone names a static one."""
    gone: list[str] = []
    errors: list[ErrorCode] = []
    for leaver in event.leavers:
        static = group.static(leaver.instance_id)
        try:
            member_id = leaver.member_id or (static.id if static else "")
            gone.append(named(group, member_id, leaver.instance_id).id)
            errors.append(ErrorCode.NONE)
        except KafkaError as refusal:
            errors.append(refusal.code)
    return Step(without(group, gone), Left(tuple(errors)))


def speaking_classic(group: Group, member_id: str, instance_id: str | None) -> tuple[Member, ClassicClient]:
    """The member, unless it is unknown, fenced, or speaks the consumer protocol."""
    member = named(group, member_id, instance_id)
    if member.classic is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, f"{member_id!r} does not speak the classic protocol.")
    return member, member.classic


def named(group: Group, member_id: str, instance_id: str | None) -> Member:
    """The member of these ids, or the refusal."""
    return consumer_group.named(group, ConsumerHeartbeat(member_id, 0, instance_id))


def ids(partitions: Iterable[tuple[str, int]], catalogue: Catalogue) -> Partitions:
    """(topic name, partition) as (topic id, partition), without topics that do not exist."""
    return frozenset((catalogue[topic].id.hex, number) for topic, number in partitions if topic in catalogue)


HANDLERS: dict[type[Any], Callable[[Group, Any, int, Any, Outside], Step]] = {
    JoinGroup: join,
    SyncGroup: sync,
    Heartbeat: heartbeat,
    LeaveGroup: leave,
}
