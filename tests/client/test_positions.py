"""Where a consumer is in a partition: what counts as in hand, as lag, and as fetched before a seek."""

from __future__ import annotations

from redbroker.client.positions import EARLIEST, LogTruncated, Position, not_assigned
from redbroker.engine.log import StoredBatch
from redbroker.errors import ErrorCode
from redbroker.types import TopicPartition

FIRST = TopicPartition("orders", 0)


def test_a_new_partition_has_no_place_no_lag_and_nothing_in_hand() -> None:
    of = Position(FIRST, None)
    of.log_end = 10
    assert (of.placed, of.lag, of.in_hand, of.readable) == (False, 0, False, True)


def test_lag_is_what_was_not_handed_out_up_to_the_log_end_as_last_heard_of() -> None:
    of = Position(FIRST, None)
    of.place(4)
    assert of.lag == 0  # the log end is not known yet
    of.log_end = 10
    assert of.lag == 6
    of.position = 12  # what was handed out came after the end was heard of
    assert of.lag == 0


def test_a_seek_forgets_what_was_fetched_in_hand_wished_for_and_refused() -> None:
    of = Position(FIRST, None)
    of.place(0)
    of.take_in([StoredBatch(bytes(100), 0, 3)], 5, 100)
    of.position, of.epoch, of.error, of.wait_until_s = 2, 3, not_assigned(FIRST), 1e9
    before = of.version
    of.unplace(EARLIEST)
    assert (of.placed, of.in_hand, of.wanted_reset, of.buffered_bytes, of.error) == (False, False, EARLIEST, 0, None)
    of.place(7)
    assert (of.position, of.fetch, of.done, of.epoch, of.leader_epoch) == (7, 7, 7, -1, -1)
    assert (of.wanted_reset, of.wait_until_s) == (None, 0.0)
    assert of.version > before


def test_a_buffer_that_is_forgotten_is_fetched_again_from_what_was_not_handed_out() -> None:
    of = Position(FIRST, None)
    of.place(0, 1)
    of.take_in([StoredBatch(bytes(60), 0, 2), StoredBatch(bytes(40), 5, 2)], 9, 100)
    assert (of.fetch, of.buffered_bytes) == (9, 100)
    assert of.next_batch().base_offset == 0
    assert of.buffered_bytes == 40
    of.position, before = 3, of.version
    of.forget_buffer()
    assert (of.fetch, of.buffered_bytes, of.done) == (3, 0, 0)
    assert of.version > before


def test_a_log_that_was_cut_back_says_how_far_and_what_to_do() -> None:
    cut = LogTruncated(FIRST, 9, 4)
    assert (cut.code, cut.partition, cut.end_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, FIRST, 4)
    assert "orders-0: read up to 9, but the log was cut back to 4; seek, or set auto_offset_reset" in str(cut)
