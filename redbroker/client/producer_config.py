"""A producer's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from redbroker.client.config import ClientConfig
from redbroker.client.partitioning import Partitioner

__all__ = ["ProducerConfig"]

ACKS: dict[Any, int] = {"all": -1, "-1": -1, -1: -1, "1": 1, 1: 1, "0": 0, 0: 0}


class ProducerConfig(ClientConfig):
    """A producer's settings; Kafka's spelling (`linger.ms`) is taken too."""

    kafka_names: ClassVar[Mapping[str, str]] = {
        "compression_type": "compression",
        "batch_size": "batch_bytes",
        "buffer_memory": "buffer_bytes",
        "max_in_flight_requests_per_connection": "max_in_flight",
    }

    acks: int = Field(-1, description="all: min.insync.replicas copies have it; 1: the master has; 0: nobody asks.")
    enable_idempotence: bool = Field(
        True, description="Each record is stored once, however often it is sent again; off with acks=0."
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("none", description="Codec of the batches.")
    linger_ms: float = Field(
        0, ge=0, le=60_000, description="How long a batch waits for more; it grows anyway while another is under way."
    )
    batch_bytes: int = Field(
        262_144, ge=0, description="A batch of this size is full; max.message.bytes of the topic bounds it, too."
    )
    buffer_bytes: int = Field(33_554_432, ge=1024, description="Most bytes of records taken and not yet settled.")
    max_in_flight: int = Field(5, ge=1, le=5, description="Batches under way per partition.")
    delivery_timeout_ms: int = Field(120_000, ge=1, description="After this a record is stored or has failed.")
    request_timeout_ms: int = Field(30_000, ge=1, description="How long acks=all waits for the replicas in one try.")
    retry_backoff_ms: int = Field(100, ge=1, description="Pause before a batch is sent again; it doubles.")
    retry_backoff_max_ms: int = Field(1_000, ge=1, description="Longest pause before a batch is sent again.")
    partitioner: Literal["murmur2"] | Partitioner = Field(
        "murmur2", description="murmur2, or a function (topic, key, partitions) -> partition."
    )
    key_serializer: Callable[[Any], bytes | None] | None = Field(None, description="Makes bytes of a key.")
    value_serializer: Callable[[Any], bytes | None] | None = Field(None, description="Makes bytes of a value.")

    @field_validator("acks", mode="before")
    @classmethod
    def _acks(cls, value: Any) -> int:
        if isinstance(value, bool) or value not in ACKS:
            raise ValueError("acks is all, 1 or 0")
        return ACKS[value]
