"""Members of classic groups for tests: what a consumer would send, without a consumer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redbroker.engine.groups import Groups
from redbroker.errors import ErrorCode
from redbroker.machines.classic_group import Joined, JoinGroup, Synced, SyncGroup
from redbroker.types import TopicPartition
from redbroker.wire.consumer_protocol import SUBSCRIPTION, write_assignment
from redbroker.wire.schema import encoder


def subscription(topics: Iterable[str]) -> bytes:
    """The metadata of a consumer that reads these topics (version 0)."""
    parts: list[bytes] = [b"\0\0"]
    encoder(SUBSCRIPTION, 0, False)(SUBSCRIPTION.cls(topics=list(topics)), parts.append)
    return b"".join(parts)


class Member:
    """One consumer: joins with the id it is given, syncs, and deals partitions out when it leads."""

    def __init__(
        self,
        groups: Groups,
        group: str,
        label: str,
        *,
        topics: Iterable[str] = ("orders",),
        partitions: int = 8,
        instance_id: str | None = None,
        session_timeout_ms: int = 10_000,
        rebalance_timeout_ms: int = 10_000,
    ) -> None:
        self.groups, self.group, self.label, self.instance_id = groups, group, label, instance_id
        self.topics, self.partitions = tuple(topics), partitions
        self.session_timeout_ms, self.rebalance_timeout_ms = session_timeout_ms, rebalance_timeout_ms
        self.member_id, self.generation = "", -1
        self.assignment = b""
        self.asked = 0

    def join_event(self, **changes: Any) -> JoinGroup:
        """Its JoinGroup."""
        self.asked += 1
        fields: dict[str, Any] = {
            "member_id": self.member_id,
            "new_member_id": f"{self.label}-{self.asked}",
            "instance_id": self.instance_id,
            "client_id": self.label,
            "client_host": "127.0.0.1",
            "session_timeout_ms": self.session_timeout_ms,
            "rebalance_timeout_ms": self.rebalance_timeout_ms,
            "protocol_type": "consumer",
            "protocols": (("range", subscription(self.topics)),),
        }
        return JoinGroup(**(fields | changes))

    async def join(self, **changes: Any) -> Joined:
        """JoinGroup, again with the member id where one is required."""
        joined: Joined = await self.groups.ask(self.group, self.join_event(**changes))
        if joined.error is ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = joined.member_id
            joined = await self.groups.ask(self.group, self.join_event(**changes))
        if joined.error is ErrorCode.NONE:
            self.member_id, self.generation = joined.member_id, joined.generation
        return joined

    async def sync(self, joined: Joined) -> Synced:
        """SyncGroup, with everybody's assignment when it leads."""
        assignments = []
        if joined.leader == self.member_id:
            ids = [member_id for member_id, _, _ in joined.members]
            for index, member_id in enumerate(ids):
                mine = [
                    TopicPartition(topic, number)
                    for topic in self.topics
                    for number in range(index, self.partitions, len(ids))
                ]
                assignments.append((member_id, write_assignment(mine)))
        event = SyncGroup(self.member_id, self.generation, self.instance_id, assignments=tuple(assignments))
        synced: Synced = await self.groups.ask(self.group, event)
        self.assignment = synced.assignment
        return synced

    async def enter(self) -> Synced:
        """Join and sync until the generation holds."""
        while True:
            joined = await self.join()
            assert joined.error is ErrorCode.NONE, joined
            try:
                return await self.sync(joined)
            except Exception as refused:
                if getattr(refused, "code", None) not in REJOIN:
                    raise

    async def beat(self) -> bool:
        """Heartbeat."""
        return await self.groups.beat(self.group, self.member_id, self.generation, self.instance_id)


REJOIN = {ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.ILLEGAL_GENERATION}
