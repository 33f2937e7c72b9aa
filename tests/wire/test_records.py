"""Record batches: what a broker checks and changes, with aiokafka and kafka-python as oracles."""

from __future__ import annotations

import os
import random
import struct
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch as AioBatch
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AioBuilder
from fastcrc import crc32
from kafka.record.default_records import DefaultRecordBatch as KafkaPythonBatch
from kafka.record.default_records import DefaultRecordBatchBuilder as KafkaPythonBuilder

from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.compression import CODECS
from redbroker.wire.records import (
    COPY_BYTES_MAX,
    HEADER_BYTES,
    Record,
    build_batch,
    check_produced,
    has_null_keys,
    iter_records,
    read_header,
    stamp,
    stamp_append_time,
)

ROOM = 1 << 20
NOW_MS = 1_700_000_000_000
RECORDS = [
    Record(0, NOW_MS, b"key", b"value"),
    Record(1, NOW_MS + 5, None, b"no key"),
    Record(2, NOW_MS - 7, b"no value", None),
    Record(3, NOW_MS + 900_000, None, None, [("trace", b"1"), ("null", None), ("naïve ☃", b"")]),
    Record(4, NOW_MS, b"", b"", [("trace", b"1"), ("trace", b"2")]),
    Record(5, NOW_MS, b"k" * 200, os.urandom(5000)),
]
every_codec = pytest.mark.parametrize("codec", CODECS)
BUILDERS = pytest.mark.parametrize("builder", [AioBuilder, KafkaPythonBuilder], ids=["aiokafka", "kafka-python"])


def theirs(builder: Any, codec: str = "none", records: list[Record] = RECORDS, **options: Any) -> bytes:
    producer = {"producer_id": -1, "producer_epoch": -1, "base_sequence": -1, **options}
    batch = builder(
        magic=2,
        compression_type=CODECS[codec],
        is_transactional=producer.pop("is_transactional", False),
        batch_size=ROOM,
        **producer,
    )
    for r in records:
        batch.append(r.offset, timestamp=r.timestamp, key=r.key, value=r.value, headers=list(r.headers))
    return bytes(batch.build())


def resealed(batch: bytes, form: str, at: int, *values: int) -> bytes:
    """The batch with a header field changed and a checksum that matches again."""
    out = bytearray(batch)
    struct.pack_into(form, out, at, *values)
    struct.pack_into(">I", out, 17, crc32.iscsi(bytes(out[21:])))
    return bytes(out)


def refusal(batch: Any, bytes_max: int = ROOM, **bounds: int) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        check_produced(batch, bytes_max, **bounds)
    return caught.value.code


GOOD = build_batch(RECORDS)

# --- agreement with others ------------------------------------------------------------------------------------


@every_codec
@BUILDERS
def test_batches_of_other_clients_are_accepted_and_opened(builder: Any, codec: str) -> None:
    batch = memoryview(bytearray(theirs(builder, codec, producer_id=7, producer_epoch=3, base_sequence=9)))
    header = check_produced(batch, ROOM)
    assert (header.codec, header.count, header.last_offset_delta) == (CODECS[codec], 6, 5)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 3, 9)
    assert (header.first_timestamp, header.max_timestamp) == (NOW_MS, NOW_MS + 900_000)
    assert (header.nbytes, header.transactional, header.control, header.log_append_time) == (
        len(batch),
        False,
        False,
        False,
    )
    assert list(iter_records(batch)) == RECORDS


@every_codec
@pytest.mark.parametrize("reader", [AioBatch, KafkaPythonBatch], ids=["aiokafka", "kafka-python"])
def test_other_clients_open_what_we_build(reader: Any, codec: str) -> None:
    ours = build_batch(RECORDS, codec, producer_id=5, producer_epoch=1, base_sequence=0, transactional=True)
    batch = reader(b"".join(stamp(ours, 1000, 4)))
    assert batch.validate_crc()
    assert (batch.base_offset, batch.is_transactional, batch.is_control_batch, batch.producer_id) == (
        1000,
        True,
        False,
        5,
    )
    assert [Record(r.offset, r.timestamp, r.key, r.value, list(r.headers) or ()) for r in batch] == [
        r._replace(offset=1000 + r.offset) for r in RECORDS
    ]


@BUILDERS
def test_uncompressed_batches_are_the_same_bytes(builder: Any) -> None:
    expected = bytearray(theirs(builder, producer_id=5, producer_epoch=1, base_sequence=2))
    mine = bytearray(build_batch(RECORDS, producer_id=5, producer_epoch=1, base_sequence=2))
    expected[12:16] = mine[12:16]  # the leader epoch, which aiokafka writes as 0 and nobody reads from a producer
    assert mine == expected


def test_a_batch_may_have_gaps_and_keep_its_last_offset() -> None:
    kept = [RECORDS[1], RECORDS[4]]
    batch = build_batch([r._replace(offset=500 + r.offset) for r in kept], base_offset=500, last_offset_delta=5)
    assert read_header(batch).last_offset == 505
    assert [r.offset for r in iter_records(batch)] == [501, 504]


def test_a_batch_may_be_empty_and_still_hold_its_offsets() -> None:
    batch = build_batch([], base_offset=500, last_offset_delta=5)
    assert (read_header(batch).count, read_header(batch).last_offset, list(iter_records(batch))) == (0, 505, [])


# --- what a broker refuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_every_flipped_byte_of_a_header_is_refused_with_the_right_code(codec: str) -> None:
    batch = build_batch(RECORDS, codec)
    for at in range(HEADER_BYTES):
        for bit in range(8):
            broken = bytearray(batch)
            broken[at] ^= 1 << bit
            if at < 8:  # a producer's offsets count from zero
                expected = ErrorCode.INVALID_RECORD
            elif at < 12:  # a shorter length means that more follows
                (length,) = struct.unpack_from(">i", broken, 8)
                shorter = 49 <= length < len(batch) - 12
                expected = ErrorCode.INVALID_RECORD if shorter else ErrorCode.CORRUPT_MESSAGE
            elif at < 16:  # the leader epoch is the broker's to set
                assert check_produced(broken, ROOM).count == len(RECORDS)
                continue
            elif at == 16 and broken[at] == 0:
                expected = ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT
            else:
                expected = ErrorCode.CORRUPT_MESSAGE
            assert refusal(broken) == expected, (at, bit)


def test_a_flipped_byte_of_the_records_is_corrupt() -> None:
    for at in random.Random(1).sample(range(HEADER_BYTES, len(GOOD)), 200):
        broken = bytearray(GOOD)
        broken[at] ^= 0x10
        assert refusal(broken) == ErrorCode.CORRUPT_MESSAGE


def test_a_batch_cut_anywhere_is_refused() -> None:
    assert refusal(b"") == ErrorCode.INVALID_RECORD
    for stop in range(1, len(GOOD), 7):
        assert refusal(GOOD[:stop]) == ErrorCode.CORRUPT_MESSAGE


def test_more_records_than_its_bytes_can_hold_are_refused() -> None:
    smallest = build_batch([Record(i, 0, None, None) for i in range(9)])
    assert check_produced(smallest, ROOM).count == 9
    for count in (10, 2**31 - 1):
        claiming = resealed(resealed(smallest, ">i", 57, count), ">i", 23, count - 1)
        assert refusal(claiming) == ErrorCode.INVALID_RECORD


def test_two_batches_at_once_are_refused() -> None:
    assert refusal(GOOD + GOOD) == ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("magic", [0, 1])
def test_old_formats_are_unsupported(magic: int) -> None:
    assert refusal(bytes(16) + bytes([magic]) + bytes(20)) == ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT


def test_a_batch_above_the_limit_is_too_large() -> None:
    assert check_produced(GOOD, len(GOOD)).nbytes == len(GOOD)
    assert refusal(GOOD, len(GOOD) - 1) == ErrorCode.MESSAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("form", "at", "value", "code"),
    [
        (">h", 21, 5, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (">h", 21, 7, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (">h", 21, 0x08, ErrorCode.INVALID_TIMESTAMP),
        (">h", 21, 0x20, ErrorCode.INVALID_RECORD),
        (">h", 21, 0x10, ErrorCode.INVALID_RECORD),
        (">i", 23, 6, ErrorCode.INVALID_RECORD),
        (">i", 23, -1, ErrorCode.INVALID_RECORD),
        (">q", 27, -2, ErrorCode.INVALID_TIMESTAMP),
        (">q", 35, -2, ErrorCode.INVALID_TIMESTAMP),
        (">q", 43, 1, ErrorCode.INVALID_RECORD),
        (">q", 43, -2, ErrorCode.INVALID_RECORD),
        (">q", 43, -(2**40), ErrorCode.INVALID_RECORD),
        (">i", 57, 0, ErrorCode.INVALID_RECORD),
        (">i", 57, -6, ErrorCode.INVALID_RECORD),
        (">i", 57, 5, ErrorCode.INVALID_RECORD),
    ],
)
def test_an_inconsistent_header_is_refused(form: str, at: int, value: int, code: ErrorCode) -> None:
    assert refusal(resealed(GOOD, form, at, value)) == code


def test_a_batch_without_records_is_refused() -> None:
    assert refusal(build_batch([], last_offset_delta=-1)) == ErrorCode.INVALID_RECORD


def test_timestamps_are_held_to_their_bounds() -> None:
    newest = NOW_MS + 900_000
    assert check_produced(GOOD, ROOM, earliest_ms=NOW_MS, latest_ms=newest).max_timestamp == newest
    assert refusal(GOOD, earliest_ms=NOW_MS + 1) == ErrorCode.INVALID_TIMESTAMP
    assert refusal(GOOD, latest_ms=newest - 1) == ErrorCode.INVALID_TIMESTAMP
    timeless = build_batch([Record(0, -1, None, b"v")])
    assert check_produced(timeless, ROOM, earliest_ms=NOW_MS, latest_ms=newest).first_timestamp == -1
    without_max = resealed(GOOD, ">q", 35, -1)
    assert refusal(without_max, latest_ms=NOW_MS - 1) == ErrorCode.INVALID_TIMESTAMP


def test_a_transactional_batch_with_a_producer_id_is_accepted() -> None:
    batch = build_batch(RECORDS, producer_id=1, producer_epoch=0, base_sequence=0, transactional=True)
    assert check_produced(batch, ROOM).transactional


def test_a_control_batch_says_so() -> None:
    marker = build_batch(
        [Record(0, NOW_MS, b"\0\0\0\1", b"\0\0\0\0\0\0")], control=True, transactional=True, producer_id=1
    )
    assert read_header(marker).control and read_header(marker).transactional


# --- what a broker changes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, COPY_BYTES_MAX, 100_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_stamped_batch_differs_in_offset_and_epoch_only(size: int, kind: Any) -> None:
    batch = kind(build_batch([Record(0, NOW_MS, None, os.urandom(size))]))
    stamped = b"".join(stamp(batch, 2**40, 77))
    header = read_header(stamped)
    assert (header.base_offset, header.partition_leader_epoch, header.last_offset) == (2**40, 77, 2**40)
    assert stamped[8:12] == batch[8:12] and stamped[16:] == batch[16:]


def test_stamping_a_large_batch_copies_nothing() -> None:
    batch = build_batch([Record(0, NOW_MS, None, bytes(100_000))])
    payload = stamp(batch, 1, 1)[1]
    assert isinstance(payload, memoryview) and payload.obj is batch


def test_append_time_is_every_records_time_and_the_checksum_matches() -> None:
    stamped = stamp_append_time(GOOD, NOW_MS + 5)
    assert AioBatch(stamped).validate_crc()
    assert read_header(stamped).log_append_time
    assert {r.timestamp for r in iter_records(stamped)} == {NOW_MS + 5}
    assert {r.timestamp for r in AioBatch(stamped)} == {NOW_MS + 5}
    assert build_batch(RECORDS) == GOOD


# --- opening --------------------------------------------------------------------------------------------------


def test_records_without_keys_are_found() -> None:
    assert has_null_keys(GOOD)
    assert not has_null_keys(build_batch([RECORDS[0], RECORDS[2]._replace(offset=1)], "lz4"))


@every_codec
def test_records_beyond_the_bound_are_corrupt(codec: str) -> None:
    batch = build_batch([Record(0, NOW_MS, None, bytes(100_000))], codec)
    with pytest.raises(KafkaError) as caught:
        list(iter_records(batch, bytes_max=99_999))
    assert caught.value.code == ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize(
    "batch",
    [b"", GOOD[:60], GOOD[:-1], GOOD[:16] + b"\1" + GOOD[17:], GOOD[:8] + bytes(4) + GOOD[12:]],
    ids=["empty", "half a header", "cut short", "old magic", "no length"],
)
def test_a_broken_batch_does_not_open(batch: bytes) -> None:
    with pytest.raises(KafkaError) as caught:
        list(iter_records(batch))
    assert caught.value.code == ErrorCode.CORRUPT_MESSAGE


def test_random_bytes_behind_a_header_are_corrupt_and_nothing_else() -> None:
    dice = random.Random(2)
    for _ in range(2000):
        broken = bytearray(GOOD[:400])
        struct.pack_into(">i", broken, 8, len(broken) - 12)
        broken[22] = dice.randrange(8)
        for _ in range(5):
            broken[dice.randrange(HEADER_BYTES, len(broken))] = dice.getrandbits(8)
        with pytest.raises(KafkaError):
            list(iter_records(broken, bytes_max=100_000))
