"""Groups: every consumer group lives in Redis, and any worker goes on with any of them.

    Groups.ask -> change -> (group cached by version) -> machine.step -> swap_group.lua -> wake-up
    Groups.beat -> beat_group.lua                                      no load, no step

The rules are the pure machines'; here is how their values are kept. A change is stepped on a copy under one local turn
per group and committed by compare and set, so two workers that coordinate the same group are slow, never wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from redbroker.errors import KafkaError
from redbroker.machines.group import Group


class Listed(NamedTuple):
    """One group of `Groups.list`. `type`: classic or consumer; `phase`: Kafka's state name, as Stable."""

    name: str
    type: str
    protocol_type: str
    phase: str


class Groups:
    """The groups of one key space: `engine.groups`."""

    async def ask(self, name: str, event: Any) -> Any:
        """The machine's answer to an event, however long it takes: parked requests wait here, woken by pub/sub.

        Gives what the machine answers (a dataclass, None) or raises the KafkaError it refuses with. May be cancelled at
        any time: the event has been taken in, and the client's next request finds it so. Handlers of JoinGroup
        and SyncGroup call `await ctx.server.parked(groups.ask(…), None)`.
        """
        raise NotImplementedError

    async def change(self, name: str, event: Any) -> Any:
        """As `ask`, but gives `Park` where the answer is not there yet."""
        raise NotImplementedError

    async def beat(self, name: str, member_id: str, epoch: int, instance_id: str | None = None) -> bool:
        """A member is alive: its session begins anew. One small script; `epoch` is the generation or the member epoch.

        True: nothing to tell the member. False: there is (KIP-848), `ask` the machine. Refusals are raised:
        UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_MEMBER_EPOCH, FENCED_INSTANCE_ID, REBALANCE_IN_PROGRESS.
        """
        raise NotImplementedError

    async def get(self, name: str) -> Group | None:
        """The group's value as Redis has it now, or None."""
        raise NotImplementedError

    async def describe(self, names: Iterable[str]) -> list[Group | KafkaError | None]:
        """`get` for many at once; a group whose Redis node is away is its error."""
        raise NotImplementedError

    async def list(self, types: Collection[str] = (), phases: Collection[str] = ()) -> list[Listed]:
        """Every group, also those that only have offsets (Empty, no protocol type); filters as in ListGroups v5."""
        raise NotImplementedError

    async def delete(self, names: Sequence[str]) -> list[KafkaError | None]:
        """Delete empty groups with their offsets: NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND, or None per group."""
        raise NotImplementedError
