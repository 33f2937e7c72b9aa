"""Committed offsets of groups: one hash per group, written as durably as acks=all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redbroker.errors import KafkaError
from redbroker.types import TopicPartition


class Commit(NamedTuple):
    """One offset to commit; `leader_epoch` -1 where the client does not know it."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


class Committed(NamedTuple):
    """One committed offset; offset -1 where there is none. `commit_ms` is the server's time."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_ms: int = -1


NOTHING = Committed(-1)


class Offsets:
    """The committed offsets of one key space: `engine.offsets`."""

    async def commit(
        self,
        name: str,
        commits: Sequence[Commit],
        *,
        member_id: str = "",
        epoch: int = -1,
        instance_id: str | None = None,
        version: int = 9,
        admin: bool = False,
    ) -> list[KafkaError | None]:
        """Store offsets: one KafkaError or None each (OFFSET_METADATA_TOO_LARGE).

        `epoch` is the generation or member epoch; -1 for simple consumers. Raised for the whole group, Kafka's way:
        UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID, REBALANCE_IN_PROGRESS, STALE_MEMBER_EPOCH,
        GROUP_ID_NOT_FOUND (`version`, of OffsetCommit, 9 and above), INVALID_GROUP_ID.
        """
        raise NotImplementedError

    async def fetch(
        self,
        name: str,
        partitions: Sequence[TopicPartition] | None = None,
        *,
        member_id: str | None = None,
        epoch: int = -1,
    ) -> dict[TopicPartition, Committed]:
        """What is committed; `partitions` None: everything. Unknown partitions are `NOTHING`, and no error.

        With `member_id` and `epoch` >= 0 (OffsetFetch v9) the member is checked: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH.
        """
        raise NotImplementedError

    async def delete(self, name: str, partitions: Sequence[TopicPartition]) -> list[KafkaError | None]:
        """Forget offsets: GROUP_SUBSCRIBED_TO_TOPIC or None each.

        Raised: GROUP_ID_NOT_FOUND; NON_EMPTY_GROUP when the group's members are no consumers.
        """
        raise NotImplementedError
