"""What the SDK's clients raise beside `KafkaError` itself: each carries the record it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redbroker.errors import ErrorCode, KafkaError

__all__ = ["BufferFullError", "DeliveryError", "DeserializationError", "ProducerRecord", "SerializationError"]


class ProducerRecord(NamedTuple):
    """One record on its way: `partition` is None until it is chosen, `timestamp_ms` until it is taken."""

    topic: str
    value: Any = None
    key: Any = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class DeliveryError(KafkaError):
    """A record that was not stored, or not for certain: `.record` is the `ProducerRecord`, `.code` tells why.

    REQUEST_TIMED_OUT and NOT_ENOUGH_REPLICAS_AFTER_APPEND mean that it may have been stored all the same.
    """

    def __init__(self, code: ErrorCode, message: str, record: ProducerRecord) -> None:
        super().__init__(code, message)
        self.record = record


class SerializationError(DeliveryError):
    """A key, value or header that could not be made bytes; nothing was sent."""


class DeserializationError(KafkaError):
    """Bytes of a record that could not be made a key or a value; `.record` tells topic, partition and offset."""

    def __init__(self, message: str, record: Any) -> None:
        super().__init__(ErrorCode.INVALID_RECORD, message)
        self.record = record


class BufferFullError(KafkaError):
    """`send_nowait` found `buffer_bytes` used up: `await producer.ready()`, then try again. Nothing was taken."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.REQUEST_TIMED_OUT, message)
