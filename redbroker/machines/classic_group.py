"""The classic group protocol (JoinGroup, SyncGroup, LeaveGroup) as a pure state machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redbroker.errors import ErrorCode
from redbroker.machines.group import Expire, Step, Tick

if TYPE_CHECKING:
    from redbroker.config import Settings

Protocols = tuple[tuple[str, bytes], ...]
"""(protocol name, subscription bytes) in the member's order of preference."""


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """A member wants in, or back in. Answers `Joined`, or `Park`.

    `new_member_id` is the random id to give when `member_id` is empty. `known_id_required`: v4 and above.
    `skip_supported`: v9 and above. A rebalance timeout of -1 (v0) is the session timeout.
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
    """LeaveGroup's answer, one error (or NONE) per leaver, in order."""

    errors: tuple[ErrorCode, ...]


Event = JoinGroup | SyncGroup | Heartbeat | LeaveGroup | Tick | Expire


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `joined`: waits for the rebalance to complete; `syncing`: waits for the leader's assignment."""

    id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: Protocols
    assignment: bytes = b""
    joined: bool = False
    syncing: bool = False
    new: bool = False


def step(group: Any, event: Event, now_ms: int, settings: Settings) -> Step:
    """What an event makes of a classic group (None: there is none yet)."""
    raise NotImplementedError
