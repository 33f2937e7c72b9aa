"""Slices of a batch: the same records as the other reader sees, and a smaller batch every reader understands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.compression import decompress
from redbroker.wire.records import (
    HEADER_BYTES,
    Record,
    build_batch,
    iter_records,
    read_header,
    stamp_append_time,
)
from redbroker.wire.slices import keep_slices, slices

RECORDS = st.lists(
    st.tuples(
        st.integers(0, 2**41),
        st.none() | st.binary(max_size=200),
        st.none() | st.binary(max_size=200),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


@given(RECORDS, st.sampled_from(["none", "gzip", "snappy", "lz4", "zstd"]), st.integers(0, 255), st.booleans())
def test_a_smaller_batch_has_exactly_the_kept_records(rows: list[tuple], codec: str, mask: int, stamped: bool) -> None:
    batch = build_batch([Record(i, *row) for i, row in enumerate(rows)], codec, producer_id=5, producer_epoch=1,
                        base_sequence=9)  # fmt: skip
    if stamped:
        batch = stamp_append_time(batch, 77)
    header = read_header(batch)
    payload = decompress(header.codec, batch[HEADER_BYTES:], 1 << 20)
    found = list(slices(payload, header.count))
    records = list(iter_records(batch))
    assert [(each.key, each.delta, each.tombstone) for each in found] == [
        (record.key, record.offset, record.value is None) for record in records
    ]
    kept = [each for each in found if mask >> each.delta & 1] or found[:1]
    smaller = keep_slices(header, payload, kept)
    assert list(iter_records(smaller)) == [records[each.delta] for each in kept]
    after = read_header(smaller)
    assert after.last_offset_delta == header.last_offset_delta
    assert after[9:12] == header[9:12]
    assert after.attributes == header.attributes
    assert after.max_timestamp == max(records[each.delta].timestamp for each in kept)


@given(st.binary(max_size=60), st.integers(0, 5))
def test_broken_payloads_are_told_from_whole_ones(data: bytes, count: int) -> None:
    try:
        list(slices(data, count))
    except KafkaError as broken:
        assert broken.code is ErrorCode.CORRUPT_MESSAGE


def test_a_payload_with_more_than_it_states_is_corrupt() -> None:
    batch = build_batch([Record(0, 1, b"k", b"v", []), Record(1, 1, b"k", b"v", [])])
    with pytest.raises(KafkaError):
        list(slices(batch[HEADER_BYTES:], 1))
