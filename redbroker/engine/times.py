"""Times inside a batch: the record itself, not the end of its batch, is what ListOffsets names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from redbroker.wire.records import iter_records, read_header

if TYPE_CHECKING:
    from redbroker.engine.partitions import StoredBatch


def first_at_or_after(stored: StoredBatch, timestamp: int, log_start: int) -> tuple[int, int, int] | None:
    """(offset, timestamp, leader epoch) of the first live record at or after a time, in ms."""
    shift = stored.base_offset - read_header(stored.batch).base_offset
    for record in iter_records(stored.batch):
        offset = record.offset + shift
        if record.timestamp >= timestamp and offset >= log_start:
            return offset, record.timestamp, stored.leader_epoch
    return None


def latest_record(batches: Iterable[StoredBatch], log_start: int) -> tuple[int, int, int] | None:
    """(offset, timestamp, leader epoch) of the live record with the largest timestamp; the first of equals."""
    best: tuple[int, int, int] | None = None
    for stored in batches:
        header = read_header(stored.batch)
        if best is not None and header.max_timestamp <= best[1]:
            continue
        shift = stored.base_offset - header.base_offset
        for record in iter_records(stored.batch):
            offset = record.offset + shift
            if offset >= log_start and (best is None or record.timestamp > best[1]):
                best = offset, record.timestamp, stored.leader_epoch
    return best
