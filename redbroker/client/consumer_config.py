"""The settings of a consumer, by Kafka's names, and what a rebalance listener is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from redbroker.client.config import ClientConfig
from redbroker.engine.topics import check_name
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

__all__ = ["ConsumerConfig", "RebalanceListener", "checked_topics"]

DURATION = TypeAdapter(timedelta)


class ConsumerConfig(ClientConfig):
    """Settings of `Consumer`; `group_id` and `"group.id"` are the same."""

    group_id: str | None = Field(None, description="Group to share partitions and committed offsets with; None: none.")
    group_instance_id: str | None = Field(
        None, min_length=1, description="Name of a static member: it may restart within its session."
    )
    group_remote_assignor: Literal["uniform", "range"] | None = Field(None, description="Wish for an assignor.")
    client_rack: str | None = Field(None, min_length=1, description="Rack of this client, told to the group.")
    auto_offset_reset: str = Field(
        "latest",
        description="Where to start when nothing is committed, or what was is gone: earliest, latest, by_duration:PT1H"
        " (with what is no older than that; ISO 8601), none (an error).",
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

    @field_validator("auto_offset_reset")
    @classmethod
    def _is_a_reset(cls, policy: str) -> str:
        if policy not in ("earliest", "latest", "none") and _duration_ms(policy) is None:
            raise PydanticCustomError("reset", "it is earliest, latest, none, or a duration as in by_duration:PT1H")
        return policy

    @property
    def reset_duration_ms(self) -> int | None:
        """How old records may be that `auto_offset_reset` starts with; None where it is no duration."""
        return _duration_ms(self.auto_offset_reset)


def _duration_ms(policy: str) -> int | None:
    """The milliseconds of `by_duration:P…` (KIP-1106); None of anything else, negative ones included."""
    kind, _, duration = policy.partition(":")
    if kind != "by_duration" or not duration.startswith("P"):
        return None
    try:
        ago = DURATION.validate_python(duration)
    except ValidationError:
        return None
    return ago // timedelta(milliseconds=1) if ago >= timedelta() else None


def checked_topics(topics: Collection[str]) -> tuple[str, ...]:
    """Each topic once; INVALID_TOPIC_EXCEPTION for what can be none."""
    if isinstance(topics, str):
        raise TypeError(f"Topics are a list: subscribe([{topics!r}]).")
    for name in topics:
        if not isinstance(name, str):
            raise TypeError(f"A topic is a name, not {name!r}; a connection or URL is given as storage=….")
        if "://" in name:
            why = "A URL is no topic: name it as storage, as in Consumer('orders', storage='redis://localhost:6379')."
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, why)
        check_name(name)
    return tuple(dict.fromkeys(topics))


class RebalanceListener:
    """What a consumer tells of its partitions; override what you need. Each is awaited."""

    async def on_revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """These go to somebody else: commit now, they are still yours."""

    async def on_assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """These are yours from now on."""

    async def on_lost(self, partitions: Iterable[TopicPartition]) -> None:
        """These were taken away: nothing can be committed for them any more."""
