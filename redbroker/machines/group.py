"""What every group machine takes and gives, so that the engine can keep any group without knowing its rules.

    step(group, event, now_ms, settings) -> Step(group, answer, wake, touched)

`group` is an immutable value, None where there is none; the engine stores `to_json()` and commits it by compare and
set. An answer is a dataclass of the machine, a `KafkaError` (as a value), None where an event needs none, or `Park`:
not yet, so step `park.event` again when the group was changed with `wake`, or at `until_ms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Session(NamedTuple):
    """What a heartbeat or a commit must know of a member without loading its group.

    `epoch` is the member epoch (KIP-848), or -1 where the group's generation counts (classic protocol).
    `watched`: False while the member waits for the others, and may be silent for as long as that takes.
    `steady`: False while there is something to tell the member, so that a plain beat is not enough (KIP-848).
    `classic`: the member speaks the classic protocol, so that a wrong epoch is ILLEGAL_GENERATION to it.
    """

    timeout_ms: int
    epoch: int = -1
    instance_id: str | None = None
    watched: bool = True
    steady: bool = True
    classic: bool = False


@dataclass(frozen=True, slots=True)
class Park:
    """No answer yet: step `event` again when woken, at `until_ms` at the latest."""

    until_ms: int
    event: Any


@dataclass(frozen=True, slots=True)
class Step:
    """What an event made of a group.

    `group` is the same object when nothing changed, None when there is no group (any more). `wake`: parked requests
    may have an answer now. `touched` are the members whose session begins anew, besides those whose `Session` changed.
    """

    group: Any
    answer: Any = None
    wake: bool = False
    touched: frozenset[str] = frozenset()


class Group(Protocol):
    """What the engine needs to know of any group value."""

    @property
    def type(self) -> str:
        """`classic` or `consumer`."""

    @property
    def phase(self) -> str:
        """The state's Kafka name: Empty, PreparingRebalance, CompletingRebalance, Stable, Assigning, Reconciling."""

    @property
    def epoch(self) -> int:
        """The generation of a classic group, the group epoch of a consumer group."""

    @property
    def protocol_type(self) -> str:
        """`consumer`, `connect`, …; empty where no member has told it."""

    @property
    def members(self) -> Mapping[str, Any]:
        """The members by member id."""

    def sessions(self) -> Mapping[str, Session]:
        """A session for each member."""

    @property
    def next_deadline_ms(self) -> int | None:
        """The earliest time at which `Tick` would change something."""

    def not_before(self, due_ms: int) -> Group:
        """The group without a deadline before this: nobody is thrown out by one that could not be met."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict that begins with `type`; `from_json` of the machine reads it."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: do what was due. Every other event does this first, too."""


@dataclass(frozen=True, slots=True)
class Expire:
    """These members' sessions are over."""

    member_ids: tuple[str, ...]
