"""Which records a producer takes: made bytes of, measured, and held against the rules of their topic.

What a log would refuse is refused here, before anything is sent, for one record and not for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redbroker.client.errors import DeliveryError, ProducerRecord, SerializationError
from redbroker.errors import ErrorCode
from redbroker.wire.record_set import join_records
from redbroker.wire.records import HEADER_BYTES, Record

if TYPE_CHECKING:
    from redbroker.engine.topics import Topic

__all__ = ["RECORD_BYTES", "Headers", "Pairs", "Serializer", "check", "headers_nbytes", "serialized", "to_bytes"]

RECORD_BYTES = 33
"""Most that a record takes beside its key, value and headers: see `wire.record_set`."""

HEADER_OVERHEAD_BYTES = 10
TIMESTAMP_MAX = (1 << 63) - 1

Pairs = tuple[tuple[str, bytes | None], ...]
Headers = Sequence[tuple[str, bytes | str | None]] | Mapping[str, bytes | str | None]
Serializer = Callable[[Any], bytes | None]


def serialized(
    topic: str,
    key: Any,
    value: Any,
    headers: Any,
    key_with: Serializer | None,
    value_with: Serializer | None,
) -> tuple[bytes | None, bytes | None, Pairs, int]:
    """Key and value as bytes or None, headers as pairs, and the most bytes that they take in a batch.

    `SerializationError` names the part that cannot be made bytes.
    """
    part = "key"
    try:
        made_key = to_bytes(key, key_with)
        part = "value"
        made_value = to_bytes(value, value_with)
        part = "headers"
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        made_headers = tuple((name + "", to_bytes(header, None)) for name, header in pairs)
        nbytes = RECORD_BYTES + len(made_value or b"") + len(made_key or b"") + headers_nbytes(made_headers)
    except Exception as fault:
        record = ProducerRecord(topic, value, key, headers)
        why = fault if part != "headers" or isinstance(fault, UnicodeError) else "each is a str with bytes, str or None"
        raise SerializationError(
            ErrorCode.INVALID_RECORD, f"The {part} of a record for {topic} cannot be made bytes: {why}", record
        ) from fault
    return made_key, made_value, made_headers, nbytes


def headers_nbytes(headers: Pairs) -> int:
    """Most bytes that headers take in a batch."""
    return sum(HEADER_OVERHEAD_BYTES + len(name.encode()) + len(header or b"") for name, header in headers)


def to_bytes(value: Any, serializer: Serializer | None) -> bytes | None:
    """Bytes of a key or value: by its serializer, else bytes as they are and text as UTF-8."""
    made = value if serializer is None else serializer(value)
    if made is None or type(made) is bytes:
        return made
    if isinstance(made, str):
        return made.encode()
    if isinstance(made, (bytes, bytearray, memoryview)):
        return bytes(made)
    advice = "give bytes or str, or set key_serializer and value_serializer" if serializer is None else "not bytes"
    raise TypeError(f"{type(made).__name__}: {advice}.")


def check(topic: Topic, record: ProducerRecord, nbytes: int, now_ms: int) -> int:
    """The timestamp of a record that its topic takes; DeliveryError for one it would refuse.

    `nbytes` is the most it may take in a batch; only where that is too much it is measured.
    """

    def refused(code: ErrorCode, why: str) -> DeliveryError:
        return DeliveryError(code, why, record)

    timestamp_ms = now_ms if record.timestamp_ms is None else record.timestamp_ms
    nbytes += HEADER_BYTES
    if nbytes > topic.max_message_bytes:
        one = Record(0, now_ms, record.key, record.value, record.headers)
        nbytes = HEADER_BYTES + len(join_records([one], 0)[0])
    if nbytes > topic.max_message_bytes:
        raise refused(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"A record of {nbytes} bytes exceeds max.message.bytes of {topic.name}, {topic.max_message_bytes}.",
        )
    if topic.compacted and record.key is None:
        raise refused(ErrorCode.INVALID_RECORD, f"{topic.name} is compacted: it takes no record without a key.")
    if record.timestamp_ms is None or topic.log_append_time:
        return now_ms
    if not isinstance(timestamp_ms, int) or timestamp_ms > TIMESTAMP_MAX:
        raise refused(ErrorCode.INVALID_TIMESTAMP, f"Timestamp {timestamp_ms!r} is no whole number of 64 bits.")
    if timestamp_ms < 0:
        raise refused(ErrorCode.INVALID_TIMESTAMP, f"Timestamp {timestamp_ms} is before 1970.")
    if timestamp_ms < now_ms - topic.timestamp_before_max_ms:
        raise refused(
            ErrorCode.INVALID_TIMESTAMP,
            f"Timestamp {timestamp_ms} is older than message.timestamp.before.max.ms of {topic.name} allows.",
        )
    if timestamp_ms > now_ms + topic.timestamp_after_max_ms:
        raise refused(
            ErrorCode.INVALID_TIMESTAMP,
            f"Timestamp {timestamp_ms} is later than message.timestamp.after.max.ms of {topic.name} allows.",
        )
    return timestamp_ms
