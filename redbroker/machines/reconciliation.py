"""How one member of a KIP-848 group gets from the partitions it has to those it shall have.

    state                 the member                                          leaves it when
    stable                has all it shall have, at its epoch                 the group's epoch moves on
    unrevoked_partitions  was told to give partitions up, at its old epoch    its owned partitions no longer name them
    unreleased_partitions is at the group's epoch, waits for partitions that  they are free
                          others still hold

A partition is taken from its owner first, and given away only when that one has let go of it: nobody reads it twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from redbroker.machines.assignors import NONE, Partitions

STABLE = "stable"
UNREVOKED = "unrevoked_partitions"
UNRELEASED = "unreleased_partitions"

LEAVE = -1
LEAVE_STATIC = -2
"""Member epochs of KIP-848 that say: leaves for good; leaves, but will be back."""


@dataclass(frozen=True, slots=True)
class ClassicClient:
    """What the group knows of a member that still speaks the classic protocol.

    `rejoin_by_ms`: it was told to join again and must have done so by then; `sync_by_ms`: it must have synced by then.
    """

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    rejoin_by_ms: int | None = None
    sync_by_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `assigned` it may read; `revoking` it was told to stop reading, and has not yet said that it did."""

    id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    assignor: str | None = None
    topics: tuple[str, ...] = ()
    pattern: str = ""
    epoch: int = 0
    previous_epoch: int = 0
    state: str = STABLE
    assigned: Partitions = NONE
    revoking: Partitions = NONE
    revoke_by_ms: int | None = None
    classic: ClassicClient | None = None

    @property
    def held(self) -> Partitions:
        """Everything nobody else may have yet."""
        return self.assigned | self.revoking

    @property
    def away(self) -> bool:
        """A static member that has left for a while: its partitions wait for it."""
        return self.epoch == LEAVE_STATIC

    @property
    def deadlines(self) -> list[int]:
        """When it must have given up partitions, joined again, or synced, as far as it was told to."""
        times = [self.revoke_by_ms]
        if self.classic:
            times = [self.classic.rejoin_by_ms, self.classic.sync_by_ms]
        return [due for due in times if due is not None]

    def not_before(self, due_ms: int) -> Member:
        """The same member, without a deadline before this."""

        def later(time_ms: int | None) -> int | None:
            return None if time_ms is None else max(time_ms, due_ms)

        if self.classic is None:
            return replace(self, revoke_by_ms=later(self.revoke_by_ms))
        classic = self.classic
        return replace(
            self,
            classic=replace(classic, rejoin_by_ms=later(classic.rejoin_by_ms), sync_by_ms=later(classic.sync_by_ms)),
        )

    def settled(self, epoch: int) -> bool:
        """True when nothing is left to be told to the member."""
        return self.state == STABLE and self.epoch == epoch


def advance(
    member: Member, target: Partitions, epoch: int, taken: Partitions, owned: Partitions | None, now_ms: int
) -> Member:
    """The member after a heartbeat, which is the only time it can be told anything.

    `target` belongs to the group's `epoch`; `taken` is held by others; `owned` is what the member says it has, None
    when it does not say. Gives the same object when nothing changes.
    """
    if member.settled(epoch):
        return member
    if member.state == UNREVOKED:
        if still_owned(member.revoking, owned):
            return member
        return toward(member, member.epoch + 1, target, epoch, taken, owned, now_ms)
    return toward(member, member.epoch, target, epoch, taken, owned, now_ms)


def toward(
    member: Member, at: int, target: Partitions, epoch: int, taken: Partitions, owned: Partitions | None, now_ms: int
) -> Member:
    """One step from epoch `at`: give up first; then take what is free; then wait for the rest."""
    keep = member.assigned & target
    revoke = member.assigned - target
    if revoke and still_owned(revoke, owned):
        return replace(
            member,
            state=UNREVOKED,
            epoch=at,
            previous_epoch=member.previous_epoch if at == member.epoch else member.epoch,
            assigned=keep,
            revoking=revoke,
            revoke_by_ms=now_ms + member.rebalance_timeout_ms,
        )
    moved = replace(
        member,
        state=UNRELEASED if (target - keep) & taken else STABLE,
        epoch=epoch,
        previous_epoch=member.previous_epoch if epoch == member.epoch else member.epoch,
        assigned=target - (taken - keep),
        revoking=NONE,
        revoke_by_ms=None,
    )
    return member if moved == member else moved


def unsubscribe(member: Member, topics: frozenset[str], now_ms: int) -> Member:
    """While a member still revokes, topics it no longer reads are revoked with the others, not handed out meanwhile."""
    gone = frozenset(each for each in member.assigned if each[0] not in topics)
    if member.state != UNREVOKED or not gone:
        return member
    return replace(
        member,
        assigned=member.assigned - gone,
        revoking=member.revoking | gone,
        revoke_by_ms=now_ms + member.rebalance_timeout_ms,
    )


def still_owned(revoked: Partitions, owned: Partitions | None) -> bool:
    """A member that does not say what it owns may still own it all."""
    return bool(revoked) if owned is None else bool(revoked & owned)


def partitions_to_json(partitions: Partitions) -> dict[str, list[int]]:
    """`{topic id: [partition, …]}`, in order."""
    by_topic: dict[str, list[int]] = {}
    for topic, number in sorted(partitions):
        by_topic.setdefault(topic, []).append(number)
    return by_topic


def partitions_from_json(value: dict[str, list[int]]) -> Partitions:
    """Reads `partitions_to_json`."""
    return frozenset((topic, number) for topic, numbers in value.items() for number in numbers)


def member_to_json(member: Member) -> dict[str, Any]:
    """Every field that differs from its default; bytes as Latin-1 text."""
    value: dict[str, Any] = {}
    for name in Member.__slots__:
        given = getattr(member, name)
        if name == "id" or given == DEFAULTS[name]:
            continue
        if isinstance(given, frozenset):
            given = partitions_to_json(given)
        elif isinstance(given, ClassicClient):
            given = {
                "session_timeout_ms": given.session_timeout_ms,
                "protocols": [[name, data.decode("latin-1")] for name, data in given.protocols],
                "rejoin_by_ms": given.rejoin_by_ms,
                "sync_by_ms": given.sync_by_ms,
            }
        value[name] = given
    return value


def member_from_json(member_id: str, value: dict[str, Any]) -> Member:
    """Reads `member_to_json`; fields of newer workers are skipped."""
    known = {name: given for name, given in value.items() if name in DEFAULTS}
    for name in ("assigned", "revoking"):
        if name in known:
            known[name] = partitions_from_json(known[name])
    if "topics" in known:
        known["topics"] = tuple(known["topics"])
    if known.get("classic"):
        classic = known["classic"]
        protocols = tuple((name, data.encode("latin-1")) for name, data in classic["protocols"])
        known["classic"] = ClassicClient(
            classic["session_timeout_ms"], protocols, classic.get("rejoin_by_ms"), classic.get("sync_by_ms")
        )
    return Member(member_id, **known)


DEFAULTS: dict[str, Any] = {name: getattr(Member(""), name) for name in Member.__slots__}
