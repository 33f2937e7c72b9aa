"""The settings of a consumer, by Kafka's names, and what a rebalance listener is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import Field

from redbroker.client.config import ClientConfig
from redbroker.types import TopicPartition

__all__ = ["ConsumerConfig", "RebalanceListener"]


class ConsumerConfig(ClientConfig):
    """Settings of `Consumer`; `group_id` and `"group.id"` are the same."""

    group_id: str | None = Field(None, description="Group to share partitions and committed offsets with; None: none.")
    group_instance_id: str | None = Field(
        None, min_length=1, description="Name of a static member: it may restart within its session."
    )
    group_remote_assignor: Literal["uniform", "range"] | None = Field(None, description="Wish for an assignor.")
    client_rack: str | None = Field(None, min_length=1, description="Rack of this client, told to the group.")
    auto_offset_reset: Literal["earliest", "latest", "none"] = Field(
        "latest", description="Where to start when nothing is committed, or what was is gone; none: an error."
    )
    enable_auto_commit: bool = Field(True, description="Commit what the caller is done with, from time to time.")
    auto_commit_interval_ms: int = Field(5_000, ge=10, description="How often that happens.")
    prefetch_bytes: int = Field(
        16_777_216, ge=1, description="Most bytes fetched ahead, over all partitions; one batch more at most."
    )
    max_partition_fetch_bytes: int = Field(1_048_576, ge=1, description="Most bytes of one partition in one read.")
    batch_bytes_max: int = Field(134_217_728, ge=1, description="Largest batch when decompressed.")
    rebalance_timeout_ms: int = Field(
        60_000, ge=1, description="How long giving up partitions may wait for the caller to be done with their records."
    )
    default_api_timeout_ms: int = Field(60_000, ge=1, description="How long commits and look-ups are tried again.")
    close_timeout_ms: int = Field(5_000, ge=0, description="Longest that closing takes.")
    stuck_after_ms: int = Field(60_000, ge=1, description="A partition with lag and no progress this long is stuck.")
    undecodable: Literal["raise", "skip"] = Field(
        "raise", description="A record or batch that cannot be decoded: raise CORRUPT_MESSAGE, or log it and go on."
    )
    isolation_level: Literal["read_uncommitted", "read_committed"] = Field(
        "read_uncommitted", description="Which records of transactions are handed out; control batches never are."
    )
    key_deserializer: Callable[[bytes], Any] | None = Field(None, description="Makes a key of its bytes.")
    value_deserializer: Callable[[bytes], Any] | None = Field(None, description="Makes a value of its bytes.")


class RebalanceListener:
    """What a consumer tells of its partitions; override what you need. Each is awaited."""

    async def on_revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These go to somebody else: commit now, they are still yours."""

    async def on_assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """These are yours from now on."""

    async def on_lost(self, partitions: Iterable[TopicPartition]) -> None:
        """These were taken away: nothing can be committed for them any more."""
