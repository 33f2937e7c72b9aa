"""Kafka's record batch, version 2: read its header, check it, stamp it, and (seldom) open or build it.

    baseOffset i64           0   | set by the log: outside the checksum
    batchLength i32          8   | counts what follows it
    partitionLeaderEpoch i32 12  | set by the log: outside the checksum
    magic i8 = 2             16
    crc u32                  17    CRC-32C of all that follows
    attributes i16           21    bits 0-2 codec, 3 LogAppendTime, 4 transactional, 5 control
    lastOffsetDelta i32      23
    firstTimestamp i64       27    milliseconds
    maxTimestamp i64         35
    producerId i64           43
    producerEpoch i16        51
    baseSequence i32         53
    count i32                57
    records                  61    compressed as one piece, see `record_set`

A broker's whole work on a batch is `check_produced` when it comes and `stamp` when it leaves. What a broker
refuses, and by which error, follows Kafka's LogValidator and UnifiedLog.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from fastcrc import crc32

from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.compression import CODECS, ZSTD, compress, decompress
from redbroker.wire.record_set import RECORD_BYTES_MIN, Record, Shape, decode_records, join_records, split_records

__all__ = [
    "HEADER_BYTES", "BatchHeader", "Record", "build_batch", "check_produced", "decode_batch", "has_null_keys",
    "iter_records", "read_header", "record_count", "seal_batch", "stamp", "stamp_append_time",
]  # fmt: skip

Buffer = bytes | bytearray | memoryview

HEADER_BYTES = 61
crc32c = crc32.iscsi
new_tuple = tuple.__new__  # a named tuple of a tuple, at half the price of `_make`

LENGTH_END = 12  # bytes not counted by batchLength
EPOCH_END = 16
CRC_AT, CRC_END = 17, 21
RECORDS_BYTES_MAX = 128 * 1024 * 1024

HEADER = struct.Struct(">qiibIhiqqqhii")
PLACE = struct.Struct(">qii")  # baseOffset, batchLength, partitionLeaderEpoch
BEFORE_CRC = struct.Struct(">qiibI")
AFTER_CRC = struct.Struct(">hiqqqhii")
APPEND_TIME_AT, MAX_TIMESTAMP_AT = 21, 35

CODEC_BITS = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
NO_TIMESTAMP = -1
NO_PRODUCER = -1

COUNT_AT = 57
COUNT = struct.Struct(">i").unpack_from
COPY_BYTES_MAX = 4096
"""Up to here one copied segment is cheaper than two that are not."""


class BatchHeader(NamedTuple):
    """The fixed fields of a batch, by Kafka's names."""

    base_offset: int
    length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody misses here

    @property
    def codec(self) -> int:
        """The compression codec's number: `compression.CODECS`."""
        return self.attributes & CODEC_BITS

    @property
    def log_append_time(self) -> bool:
        """True where every record's timestamp is `max_timestamp`, set by the broker."""
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def control(self) -> bool:
        """True for transaction markers, which consumers read but never hand on."""
        return bool(self.attributes & CONTROL)

    @property
    def nbytes(self) -> int:
        """The whole batch, header included."""
        return LENGTH_END + self.length

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta


def read_header(buf: Buffer) -> BatchHeader:
    """The header of the batch a buffer begins with; CORRUPT_MESSAGE when it is cut short or not of magic 2."""
    try:
        header = new_tuple(BatchHeader, HEADER.unpack_from(buf))
    except struct.error as error:
        raise _corrupt(f"{len(buf)} bytes are too few for a record batch") from error
    if header.magic != 2:
        raise _corrupt(f"a record batch of magic {header.magic}")
    if header.length < HEADER_BYTES - LENGTH_END:
        raise _corrupt(f"a record batch that states {header.length} bytes")
    return header


def check_produced(
    batch: Buffer, bytes_max: int, *, earliest_ms: int | None = None, latest_ms: int | None = None
) -> BatchHeader:
    """All that Kafka demands of a batch from a producer, short of opening it; its header, or the KafkaError it earned.

    `earliest_ms` and `latest_ms` bound its timestamps (topics with message.timestamp.before.max.ms and after.max.ms;
    None: no bound). One unpack and one checksum: this runs for every batch.
    """
    nbytes = len(batch)
    if nbytes < HEADER_BYTES:
        raise _misshapen(batch)
    fields = HEADER.unpack_from(batch)
    base, length, _, magic, crc, attributes, last_delta, first_ms, max_ms, producer_id, epoch, sequence, count = fields
    if magic != 2:
        raise _misshapen(batch)
    if length + LENGTH_END != nbytes:
        raise _wrong_length(length + LENGTH_END, nbytes)
    if nbytes > bytes_max:
        raise KafkaError(
            ErrorCode.MESSAGE_TOO_LARGE, f"A record batch of {nbytes} bytes exceeds max.message.bytes, {bytes_max}."
        )
    if crc32c(memoryview(batch)[CRC_END:]) != crc:
        raise _corrupt("a record batch whose checksum does not match")
    if attributes & (CONTROL | LOG_APPEND_TIME) or attributes & CODEC_BITS > ZSTD:
        raise _wrong_attributes(attributes)
    if base != 0 or count < 1 or last_delta != count - 1:
        raise _invalid(f"base offset {base}, {count} records, last offset delta {last_delta}")
    if producer_id >= 0:
        if sequence < 0 or epoch < 0:
            raise _invalid(f"producer id {producer_id} with epoch {epoch} and sequence {sequence}")
    elif producer_id != NO_PRODUCER:
        raise _invalid(f"producer id {producer_id}")
    elif attributes & TRANSACTIONAL:
        raise _invalid("a transactional batch without a producer id")
    if count * RECORD_BYTES_MIN > nbytes - HEADER_BYTES and not attributes & CODEC_BITS:
        raise _invalid(f"{count} records in {nbytes - HEADER_BYTES} bytes")
    if first_ms < NO_TIMESTAMP or max_ms < NO_TIMESTAMP:
        raise KafkaError(ErrorCode.INVALID_TIMESTAMP, f"Timestamps {first_ms} to {max_ms} are before 1970.")
    if earliest_ms is not None or latest_ms is not None:
        _check_times(first_ms, max_ms, earliest_ms, latest_ms)
    return new_tuple(BatchHeader, fields)


def _check_times(first_ms: int, max_ms: int, earliest_ms: int | None, latest_ms: int | None) -> None:
    if earliest_ms is not None and NO_TIMESTAMP < first_ms < earliest_ms:
        raise KafkaError(
            ErrorCode.INVALID_TIMESTAMP, f"Timestamp {first_ms} is older than message.timestamp.before.max.ms allows."
        )
    newest_ms = max(first_ms, max_ms)  # some clients leave maxTimestamp out
    if latest_ms is not None and newest_ms > latest_ms:
        raise KafkaError(
            ErrorCode.INVALID_TIMESTAMP, f"Timestamp {newest_ms} is later than message.timestamp.after.max.ms allows."
        )


def _corrupt(what: str) -> KafkaError:
    return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"Received {what}.")


def _invalid(what: str) -> KafkaError:
    return KafkaError(ErrorCode.INVALID_RECORD, f"A record batch is inconsistent: {what}.")


def _misshapen(batch: Buffer) -> KafkaError:
    """Empty, cut short, or of an old format: magic 0 and 1 keep it at the same place."""
    if len(batch) == 0:
        return _invalid("there is none")
    if len(batch) > 16 and batch[16] in (0, 1):
        return KafkaError(
            ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, f"Only record batches of magic 2 are served, not {batch[16]}."
        )
    if len(batch) < HEADER_BYTES:
        return _corrupt(f"{len(batch)} bytes, too few for a record batch")
    return _corrupt(f"a record batch of magic {batch[16]}")


def _wrong_length(stated: int, nbytes: int) -> KafkaError:
    if HEADER_BYTES <= stated < nbytes:
        return _invalid("more than one came for a partition")
    return _corrupt(f"a record batch that states {stated} bytes in {nbytes}")


def _wrong_attributes(attributes: int) -> KafkaError:
    if attributes & CONTROL:
        return _invalid("only brokers write control batches")
    if attributes & LOG_APPEND_TIME:
        return KafkaError(ErrorCode.INVALID_TIMESTAMP, "Producers must not set the timestamp type LogAppendTime.")
    return KafkaError(
        ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"There is no compression codec {attributes & CODEC_BITS}."
    )


def record_count(batch: Buffer) -> int:
    """How many records a batch holds, by its header."""
    return int(COUNT(batch, COUNT_AT)[0])


def stamp(batch: Buffer, base_offset: int, leader_epoch: int) -> list[Buffer]:
    """The batch as the log gives it out: with its offset and epoch, in segments that share its payload."""
    place = PLACE.pack(base_offset, len(batch) - LENGTH_END, leader_epoch)
    if len(batch) <= COPY_BYTES_MAX:
        return [place + batch[EPOCH_END:]]
    return [place, memoryview(batch)[EPOCH_END:]]


def stamp_append_time(batch: Buffer, now_ms: int) -> bytes:
    """A copy of the batch for a LogAppendTime topic: every record's time is now."""
    copy = bytearray(batch)
    (attributes,) = struct.unpack_from(">h", copy, APPEND_TIME_AT)
    struct.pack_into(">h", copy, APPEND_TIME_AT, attributes | LOG_APPEND_TIME)
    struct.pack_into(">q", copy, MAX_TIMESTAMP_AT, now_ms)
    struct.pack_into(">I", copy, CRC_AT, crc32c(memoryview(copy)[CRC_END:]))
    return bytes(copy)


def iter_records(batch: Buffer, *, bytes_max: int = RECORDS_BYTES_MAX) -> Iterator[Record]:
    """The records of one batch, in order; CORRUPT_MESSAGE when they are broken or exceed `bytes_max` decompressed.

    The checksum is not looked at: the log took the batch only because it matched.
    """
    header = read_header(batch)
    payload, append_time_ms = _opened(batch, header, bytes_max)
    yield from split_records(payload, header.count, header.base_offset, header.first_timestamp, append_time_ms)


def decode_batch(
    batch: Buffer, header: BatchHeader, base_offset: int, shape: Shape, *, bytes_max: int = RECORDS_BYTES_MAX
) -> list[Any]:
    """All records of a batch that the log holds at `base_offset`, as `record_set.decode_records` shapes them."""
    payload, append_time_ms = _opened(batch, header, bytes_max)
    return decode_records(payload, header.count, base_offset, header.first_timestamp, append_time_ms, shape)


def _opened(batch: Buffer, header: BatchHeader, bytes_max: int) -> tuple[Buffer, int | None]:
    """The records' bytes, a view where they are not compressed; and the time all of them have, if the broker set it."""
    if header.nbytes > len(batch):
        raise _corrupt(f"{len(batch)} bytes of a record batch of {header.nbytes}")
    payload: Buffer = memoryview(batch)[HEADER_BYTES : header.nbytes]
    if header.codec or len(payload) > bytes_max:  # which is refused
        payload = decompress(header.codec, payload, bytes_max)
    return payload, header.max_timestamp if header.log_append_time else None


def has_null_keys(batch: Buffer, *, bytes_max: int = RECORDS_BYTES_MAX) -> bool:
    """True when a record has no key, which compacted topics refuse; KafkaError as in `iter_records`."""
    return any(record.key is None for record in iter_records(batch, bytes_max=bytes_max))


def build_batch(
    records: Iterable[Record], codec: str = "none", *, base_offset: int = 0, leader_epoch: int = -1,
    last_offset_delta: int | None = None, producer_id: int = -1, producer_epoch: int = -1, base_sequence: int = -1,
    transactional: bool = False, control: bool = False,
) -> bytes:  # fmt: skip
    """A batch of records (or bare tuples of the same five fields) whose offsets rise from `base_offset`.

    A producer numbers its records from zero. Compaction may leave gaps, and passes the `last_offset_delta` the batch
    had before. `codec` is a name of `compression.CODECS`.
    """
    payload, count, last_delta, first_ms, max_ms = join_records(records, base_offset)
    if last_offset_delta is not None:
        last_delta = last_offset_delta
    return seal_batch(
        payload, count, last_delta, first_ms, max_ms, codec, base_offset=base_offset, leader_epoch=leader_epoch,
        producer_id=producer_id, producer_epoch=producer_epoch, base_sequence=base_sequence,
        flags=TRANSACTIONAL * transactional | CONTROL * control,
    )  # fmt: skip


def seal_batch(
    payload: Buffer, count: int, last_delta: int, first_ms: int, max_ms: int, codec: str = "none", *,
    base_offset: int = 0, leader_epoch: int = -1, producer_id: int = -1, producer_epoch: int = -1,
    base_sequence: int = -1, flags: int = 0,
) -> bytes:  # fmt: skip
    """A batch of records that are bytes already, uncompressed (`record_set.add_record`)."""
    number = CODECS[codec]
    if number:
        payload = compress(number, bytes(payload))
    head = AFTER_CRC.pack(
        number | flags, last_delta, first_ms, max_ms, producer_id, producer_epoch, base_sequence, count
    )  # fmt: skip
    crc = crc32c(payload, crc32c(head))
    length = HEADER_BYTES - LENGTH_END + len(payload)
    return b"".join((BEFORE_CRC.pack(base_offset, length, leader_epoch, 2, crc), head, payload))
