"""The nouns of the classic group protocol: its events, its answers, and the group itself as a value.

`classic_group` has the rules. Bytes (`protocols`, `assignment`) are the clients' own; nothing here looks inside.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redbroker.errors import ErrorCode
from redbroker.machines.group import Session

EMPTY, PREPARING, COMPLETING, STABLE = "Empty", "PreparingRebalance", "CompletingRebalance", "Stable"

NEW_MEMBER_JOIN_MS = 300_000
"""A new member cannot beat before it knows its id, but its JoinGroup may not be parked for ever either (Kafka's)."""

Protocols = tuple[tuple[str, bytes], ...]
"""(protocol name, subscription bytes) in the member's order of preference."""

# --- events and answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """A member wants in, or back in. Answers `Joined`, or `Park`.

    `new_member_id` is the random id to give when `member_id` is empty. `known_id_required`: v4 and above.
    `skip_supported`: v9 and above. A rebalance timeout of -1 (v0) is the session timeout. `parked`: not a new request,
    but one that has waited.
    """

    member_id: str
    new_member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: Protocols
    known_id_required: bool = True
    skip_supported: bool = False
    reason: str = ""
    parked: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """JoinGroup's answer; `members` are (member id, instance id, metadata), for the leader only."""

    error: ErrorCode
    member_id: str
    generation: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[tuple[str, str | None, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class SyncGroup:
    """A member asks for its assignment, the leader brings everybody's. Answers `Synced`, `Park` or a KafkaError.

    `protocol_type` and `protocol` are None before v5.
    """

    member_id: str
    generation: int
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol: str | None = None
    assignments: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Synced:
    """SyncGroup's answer."""

    protocol_type: str
    protocol: str
    assignment: bytes


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A member is alive. Answers None or a KafkaError. `Groups.beat` does the same without loading the group."""

    member_id: str
    generation: int
    instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """One who leaves: a static member is named by its instance id, its member id may be empty (admin removal)."""

    member_id: str
    instance_id: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LeaveGroup:
    """Members leave, at once. Answers `Left`."""

    leavers: tuple[Leave, ...]


@dataclass(frozen=True, slots=True)
class Left:
    """LeaveGroup's answer: one error (or NONE) per leaver, in order."""

    errors: tuple[ErrorCode, ...]


# --- the group ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One member.

    `joined`: its JoinGroup is parked; `new`: and it is its first. `unsynced`: it has not sent SyncGroup in this
    generation; `syncing`: it has, and is parked until the leader's.
    """

    id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: Protocols
    assignment: bytes = b""
    joined: bool = False
    new: bool = False
    unsynced: bool = False
    syncing: bool = False

    @property
    def watched(self) -> bool:
        """Whether silence ends its session: not while one of its requests is parked."""
        return self.new or not (self.joined or self.syncing)

    @property
    def session(self) -> Session:
        """What heartbeats and commits need of it."""
        timeout_ms = NEW_MEMBER_JOIN_MS if self.new else self.session_timeout_ms
        return Session(timeout_ms, instance_id=self.instance_id, watched=self.watched, classic=True)

    def metadata(self, protocol: str | None) -> bytes:
        """Its subscription for one protocol."""
        return next((data for name, data in self.protocols if name == protocol), b"")

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able dict; bytes in base64, flags only when set."""
        value: dict[str, Any] = {
            "instance_id": self.instance_id,
            "client_id": self.client_id,
            "client_host": self.client_host,
            "session_timeout_ms": self.session_timeout_ms,
            "rebalance_timeout_ms": self.rebalance_timeout_ms,
            "protocols": [[name, b64encode(data).decode()] for name, data in self.protocols],
            "assignment": b64encode(self.assignment).decode(),
        }
        return value | {flag: True for flag in FLAGS if getattr(self, flag)}

    @classmethod
    def from_json(cls, member_id: str, value: Mapping[str, Any]) -> Member:
        """What `to_json` gave."""
        return cls(
            member_id,
            value["instance_id"],
            value["client_id"],
            value["client_host"],
            value["session_timeout_ms"],
            value["rebalance_timeout_ms"],
            tuple((name, b64decode(data)) for name, data in value["protocols"]),
            b64decode(value["assignment"]),
            **{flag: True for flag in FLAGS if value.get(flag)},
        )


FLAGS = ("joined", "new", "unsynced", "syncing")


@dataclass(frozen=True, slots=True)
class ClassicGroup:
    """A classic group.

    `pending`: ids given out by MEMBER_ID_REQUIRED -> when they lapse. `deadline_ms`: in PreparingRebalance the end of
    the join phase, later the end of the time to send SyncGroup. `remaining_ms`: how much longer the initial delay may
    grow, None outside of it; `grown`: somebody joined since it last did. `since_ms`: when the phase began.
    `nbytes`: the size of all members' protocols.
    """

    phase: str = EMPTY
    generation: int = 0
    protocol_type: str = ""
    protocol: str | None = None
    leader: str | None = None
    members: Mapping[str, Member] = field(default_factory=dict)
    pending: Mapping[str, int] = field(default_factory=dict)
    deadline_ms: int | None = None
    remaining_ms: int | None = None
    grown: bool = False
    since_ms: int = 0
    nbytes: int = 0

    @property
    def type(self) -> str:
        """Always `classic`."""
        return "classic"

    @property
    def epoch(self) -> int:
        """The generation."""
        return self.generation

    @property
    def next_deadline_ms(self) -> int | None:
        """The earliest time at which `Tick` would change something."""
        times = [*self.pending.values()]
        if self.deadline_ms is not None:
            times.append(self.deadline_ms)
        return min(times, default=None)

    def not_before(self, due_ms: int) -> ClassicGroup:
        """The group without a deadline before this, but for the initial delay: that throws nobody out."""
        next_ms = self.next_deadline_ms
        if next_ms is None or next_ms >= due_ms:
            return self
        deadline_ms = self.deadline_ms
        if deadline_ms is not None and self.remaining_ms is None:
            deadline_ms = max(deadline_ms, due_ms)
        pending = {member_id: max(until_ms, due_ms) for member_id, until_ms in self.pending.items()}
        return replace(self, deadline_ms=deadline_ms, pending=pending)

    def sessions(self) -> Mapping[str, Session]:
        """A session for each member."""
        return {member_id: member.session for member_id, member in self.members.items()}

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able dict, what people look for first."""
        return {
            "type": self.type,
            "phase": self.phase,
            "generation": self.generation,
            "protocol_type": self.protocol_type,
            "protocol": self.protocol,
            "leader": self.leader,
            "since_ms": self.since_ms,
            "deadline_ms": self.deadline_ms,
            "remaining_ms": self.remaining_ms,
            "grown": self.grown,
            "nbytes": self.nbytes,
            "pending": dict(self.pending),
            "members": {member_id: member.to_json() for member_id, member in self.members.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassicGroup:
        """What `to_json` gave."""
        members = {member_id: Member.from_json(member_id, each) for member_id, each in value["members"].items()}
        fields = {name: value[name] for name in value.keys() - {"type", "members"}}
        return cls(members=members, **fields)
