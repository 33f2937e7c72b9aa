"""Members of groups for the tests of the group APIs, through the doors of workers.

member = await joined(door, "group")                  one member, through JoinGroup and SyncGroup
first, second = await all_joined([door, door], "group")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redbroker.broker.api import Api, heartbeat, join_group, leave_group, sync_group
from redbroker.errors import ErrorCode
from redbroker.wire import schema
from tests.support.door import Door
from tests.support.raw import framed


@dataclass
class Membership:
    """A member as its client knows it."""

    door: Door
    group: str
    id: str = ""
    generation: int = -1
    instance: str | None = None
    version: int = 9
    metadata: bytes = b"subscription"
    protocols: Sequence[str] = ("range",)
    join_answer: Any = None
    sync_answer: Any = None
    fields: dict[str, Any] = field(default_factory=dict)
    assignment: Callable[[str], bytes] = str.encode

    def to_join(self) -> dict[str, Any]:
        """The fields of a JoinGroup."""
        return dict(
            group_id=self.group, member_id=self.id, group_instance_id=self.instance, protocol_type="consumer",
            protocols=[
                join_group.API.request.struct("protocols")(name=name, metadata=self.metadata) for name in self.protocols
            ],
            **{"session_timeout_ms": 10_000, "rebalance_timeout_ms": 10_000, **self.fields},
        )  # fmt: skip

    async def ask_to_join(self) -> Any:
        """One JoinGroup, as it is answered."""
        return await self.door.ask(join_group.API, self.version, **self.to_join())

    def frame_to_join(self, correlation_id: int) -> bytes:
        """One JoinGroup for a raw connection."""
        return frame(join_group.API, self.version, correlation_id, **self.to_join())

    def frame_to_leave(self, correlation_id: int) -> bytes:
        """One LeaveGroup for a raw connection."""
        return frame(leave_group.API, 5, correlation_id, group_id=self.group, members=[self.leaver])

    @property
    def leaver(self) -> Any:
        """The member as LeaveGroup names it."""
        return leave_group.API.request.struct("members")(self.id, self.instance, "enough")

    async def ask_to_join_with(self, metadata: bytes) -> Any:
        """JoinGroup with another subscription: the group rebalances."""
        self.metadata = metadata
        return await self.ask_to_join()

    async def join(self) -> Any:
        """JoinGroup as clients do it: again with the id where one is required."""
        answer = await self.ask_to_join()
        if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            self.id = answer.member_id
            answer = await self.ask_to_join()
        if not answer.error_code:
            self.id, self.generation = answer.member_id, answer.generation_id
        self.join_answer = answer
        return answer

    async def sync(self, *, version: int = 5) -> Any:
        """SyncGroup; the leader gives everyone what `assignment` makes of a member id: the id itself by default."""
        assignments = [
            sync_group.API.request.struct("assignments")(each.member_id, self.assignment(each.member_id))
            for each in (self.join_answer.members if self.join_answer else ())
        ]
        self.sync_answer = await self.door.ask(
            sync_group.API, version, group_id=self.group, generation_id=self.generation, member_id=self.id,
            group_instance_id=self.instance, assignments=assignments,
        )  # fmt: skip
        return self.sync_answer

    async def settle(self) -> Membership:
        """JoinGroup and SyncGroup, again while the group goes on rebalancing."""
        while True:
            answer = await self.join()
            assert answer.error_code in (ErrorCode.NONE, ErrorCode.REBALANCE_IN_PROGRESS), ErrorCode(answer.error_code)
            answer = await self.sync()
            if answer.error_code == ErrorCode.NONE:
                return self
            assert answer.error_code == ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode(answer.error_code)

    async def beat(self, *, version: int = 4, **fields: Any) -> ErrorCode:
        """One Heartbeat's error."""
        answer = await self.door.ask(
            heartbeat.API, version,
            **{"group_id": self.group, "generation_id": self.generation, "member_id": self.id,
               "group_instance_id": self.instance, **fields},
        )  # fmt: skip
        return ErrorCode(answer.error_code)

    async def heard(self, error: ErrorCode, within_s: float = 2) -> None:
        """Beat until the answer is this error."""
        async with asyncio.timeout(within_s):
            while await self.beat() != error:  # noqa: ASYNC110 - only a beat tells
                await asyncio.sleep(0.01)

    async def leave(self) -> Any:
        """LeaveGroup in its newest form."""
        return await self.door.ask(leave_group.API, 5, group_id=self.group, members=[self.leaver])


def frame(api: Api, version: int, correlation_id: int, **fields: Any) -> bytes:
    """A request of a flexible version as it goes over the wire."""
    assert version >= api.flexible
    head = api.key.to_bytes(2, "big") + version.to_bytes(2, "big") + correlation_id.to_bytes(4, "big")
    parts = [head, b"\0\4test\0"]
    schema.encoder(api.request, version, True)(api.Request(**fields), parts.append)
    return framed(b"".join(parts))


async def joined(door: Door, group: str = "group", **fields: Any) -> Membership:
    """A settled member, alone in its group."""
    return await Membership(door, group, **fields).settle()


async def all_joined(doors: Sequence[Door], group: str = "group", **fields: Any) -> list[Membership]:
    """Settled members of one generation, one per door given, that came at about the same time."""
    members = [Membership(door, group, **fields) for door in doors]

    async def keep(member: Membership) -> None:
        await member.settle()
        while {each.generation for each in members} != {member.generation}:
            if await member.beat() == ErrorCode.REBALANCE_IN_PROGRESS:
                await member.settle()
            await asyncio.sleep(0.01)

    await asyncio.gather(*map(keep, members))
    return members
