"""From stored batches to records: what a reader gets, and how it learns of what cannot be decoded."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from redbroker.client.consumer_config import ConsumerConfig
from redbroker.client.decoding import decoded
from redbroker.client.types import ConsumerRecord
from redbroker.engine.log import StoredBatch
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import Record, build_batch

FIRST = TopicPartition("orders", 0)
HEADERS = [("a", b"x"), ("b", None)]
RECORDS = [Record(0, 1_000, b"k", b"1", HEADERS), Record(1, 1_001, None, None), Record(2, 7, b"", b"3")]


def stored(*records: Record, base_offset: int = 40, **fields: object) -> StoredBatch:
    return StoredBatch(build_batch(records or RECORDS, **fields), base_offset, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_have_the_offsets_of_the_log_and_all_that_was_written(codec: str) -> None:
    records, end, error = decoded(stored(codec=codec), FIRST, 40, ConsumerConfig(), Counter())
    assert (end, error) == (43, None)
    assert records[0] == ConsumerRecord("orders", 0, 40, 1_000, b"k", b"1", HEADERS, 5)
    assert [(each.offset, each.timestamp_ms, each.key, each.value) for each in records[1:]] == [
        (41, 1_001, None, None), (42, 7, b"", b"3"),
    ]  # fmt: skip


def test_a_position_within_a_batch_begins_there() -> None:
    records, end, error = decoded(stored(), FIRST, 42, ConsumerConfig(), Counter())
    assert ([each.offset for each in records], end, error) == ([42], 43, None)


def test_a_batch_whose_last_records_were_compacted_away_ends_where_it_ended() -> None:
    records, end, _ = decoded(stored(RECORDS[0], last_offset_delta=9), FIRST, 40, ConsumerConfig(), Counter())
    assert ([each.offset for each in records], end) == ([40], 50)


def test_control_batches_are_nobodys_records() -> None:
    marker = stored(Record(0, 1_000, b"\0\0\0\1", b"\0\0\0\0\0\0"), control=True, transactional=True)
    assert decoded(marker, FIRST, 40, ConsumerConfig(), Counter()) == ([], 41, None)


def test_a_batch_that_is_broken_is_named_and_stays_or_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    whole = stored()
    broken = whole._replace(batch=whole.batch[:70] + b"\xff" * (len(whole.batch) - 70))
    records, end, error = decoded(broken, FIRST, 41, ConsumerConfig(), Counter())
    assert (records, end) == ([], 41)
    assert error is not None
    assert error.code is ErrorCode.CORRUPT_MESSAGE
    assert "orders-0, offsets 40 to 42: " in str(error)
    skipped: Counter[str] = Counter()
    assert decoded(broken, FIRST, 41, ConsumerConfig(undecodable="skip"), skipped) == ([], 43, None)
    assert skipped == {"orders": 2}
    assert "Skipped" in caplog.text


def test_a_batch_that_would_be_too_large_when_decompressed_is_refused() -> None:
    bomb = stored(Record(0, 0, None, bytes(1_000_000)), codec="gzip")
    assert len(bomb.batch) < 10_000
    records, end, error = decoded(bomb, FIRST, 40, ConsumerConfig(batch_bytes_max=100_000), Counter())
    assert (records, end) == ([], 40)
    assert isinstance(error, KafkaError)


def test_deserializers_see_bytes_and_never_nulls() -> None:
    config = ConsumerConfig(key_deserializer=bytes.decode, value_deserializer=json.loads)
    records, _, error = decoded(stored(), FIRST, 40, config, Counter())
    assert error is None
    assert [(each.key, each.value) for each in records] == [("k", 1), (None, None), ("", 3)]


def test_what_a_deserializer_cannot_read_ends_the_batch_there_or_is_left_out() -> None:
    batch = stored(Record(0, 0, None, b"1"), Record(1, 0, None, b"x"), Record(2, 0, None, b"3"))
    records, end, error = decoded(batch, FIRST, 40, ConsumerConfig(value_deserializer=int), Counter())
    assert ([each.value for each in records], end) == ([1], 41)
    assert error is not None
    assert "orders-0, offset 41: the deserializer failed with ValueError" in str(error)
    assert isinstance(error.__cause__, ValueError)
    skipping = ConsumerConfig(value_deserializer=int, undecodable="skip")
    skipped: Counter[str] = Counter()
    records, end, error = decoded(batch, FIRST, 40, skipping, skipped)
    assert ([each.value for each in records], end, error) == ([1, 3], 43, None)
    assert skipped == {"orders": 1}
