"""What the SDK's clients hand out and take: a record read, a record stored, a position committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["ConsumerRecord", "OffsetAndMetadata", "Sent"]


class ConsumerRecord(NamedTuple):
    """One record as a consumer hands it out; key and value are bytes, or what the consumer's deserializers made."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: Any
    value: Any
    headers: Sequence[tuple[str, bytes | None]] = ()
    leader_epoch: int = -1


class Sent(NamedTuple):
    """Where a record was stored; the offset is -1 for a producer with acks=0, which does not ask."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class OffsetAndMetadata(NamedTuple):
    """A position to commit or committed: the offset of the next record to read, and a note of up to 4096 bytes."""

    offset: int
    metadata: str = ""
    leader_epoch: int = -1
