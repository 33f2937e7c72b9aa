"""What is in hand counts as done when the caller comes back for more, and never before."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker.client.consumer_config import ConsumerConfig
from redbroker.client.hand import CHUNK_RECORDS, Hand
from redbroker.client.positions import Position
from redbroker.engine.log import StoredBatch
from redbroker.errors import KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import Record, build_batch

CONFIG = ConsumerConfig()


def position(*counts: int, number: int = 0) -> Position:
    """A partition from offset 0 on, with a batch of so many records each buffered."""
    of = Position(TopicPartition("orders", number), None)
    of.place(0)
    end = 0
    for epoch, count in enumerate(counts, 1):
        batch = build_batch([Record(place, 1_000, None, b"") for place in range(count)])
        of.take_in([StoredBatch(batch, end, epoch)], end + count, len(batch))
        end += count
    return of


def load(hand: Hand, *positions: Position, config: ConsumerConfig = CONFIG, raising: bool = True) -> bool:
    return hand.load({each.partition: each for each in positions}, config, lambda of, before: None, raising=raising)


def take_one(hand: Hand) -> int:
    """As `async for` does."""
    hand.at += 1
    return hand.chunk[hand.at - 1].offset


def test_the_record_in_hand_is_not_done_until_the_caller_comes_back() -> None:
    hand, of = Hand(), position(3)
    assert load(hand, of)
    assert (of.position, of.done, of.in_hand) == (0, 0, False)
    assert take_one(hand) == 0
    hand.settle()
    assert (of.position, of.done, of.in_hand) == (1, 0, True)
    assert take_one(hand) == 1
    hand.settle()
    assert (of.position, of.done) == (2, 1)
    assert not hand.settled.is_set()
    hand.all_done()
    assert (of.position, of.done, of.in_hand) == (2, 2, False)
    assert hand.settled.is_set()
    assert take_one(hand) == 2
    hand.all_done()
    assert (of.position, of.done, len(hand.chunk)) == (3, 3, 0)


def test_many_taken_at_once_are_done_together_and_the_rest_of_the_chunk_stays() -> None:
    hand, of = Hand(), position(2, 3)
    assert load(hand, of)
    assert [each.offset for each in hand.take(3)] == [0, 1, 2]
    assert (of.position, of.done, of.epoch) == (3, 0, 2)
    hand.all_done()
    assert of.done == 3
    assert take_one(hand) == 3  # `async for` goes on where `getmany` ended
    hand.settle()
    assert (of.position, of.done) == (4, 3)
    assert [each.offset for each in hand.take(10)] == [4]
    assert (of.position, of.done) == (5, 3)


def test_what_is_put_back_was_never_handed_out_and_another_partitions_chunk_stays() -> None:
    hand, of, other = Hand(), position(3), position(3, number=1)
    assert load(hand, of)
    assert take_one(hand) == 0
    hand.put_back(other)
    assert len(hand.chunk) == 3
    hand.put_back(of)
    assert (of.position, of.done, of.in_hand, len(hand.chunk)) == (1, 0, True, 0)
    hand.all_done()
    assert (of.position, of.done) == (1, 1)


def test_what_is_let_go_is_done_by_nobody() -> None:
    hand, of = Hand(), position(3)
    assert load(hand, of)
    hand.take(2)
    hand.let_go(of)
    hand.all_done()
    assert (of.position, of.done) == (2, 0)


def test_partitions_take_turns_and_chunks_end_with_a_batch() -> None:
    hand = Hand()
    first, second = position(CHUNK_RECORDS - 1, 7, 7), position(1, number=1)
    positions = {each.partition: each for each in (first, second)}
    heard: list[tuple[int, bool]] = []

    def taken(of: Position, before: int) -> None:
        heard.append((of.partition.partition, before > of.buffered_bytes))

    sizes = []
    while hand.load(positions, CONFIG, taken):
        sizes.append((hand.chunk[0].partition, len(hand.take(10_000))))
    assert sizes == [(0, CHUNK_RECORDS + 6), (1, 1), (0, 7)]
    assert heard == [(0, True), (1, True), (0, True)]


@pytest.mark.parametrize("field", ["paused", "held"])
def test_a_partition_that_may_not_be_read_is_passed_by(field: str) -> None:
    of = position(1)
    setattr(of, field, True)
    assert not load(Hand(), of)
    setattr(of, field, False)
    assert load(Hand(), of)


def test_an_error_is_raised_at_its_turn_and_what_came_before_it_is_handed_out_first() -> None:
    def number(data: bytes) -> Any:
        raise ValueError(data)

    hand, of, other = Hand(), position(2), position(1, number=1)
    config = ConsumerConfig(value_deserializer=number)
    with pytest.raises(KafkaError, match="orders-0, offset 0"):
        load(hand, of, config=config)
    assert (of.position, len(of.batches), of.buffered_bytes) == (0, 0, 0)
    assert load(hand, of, other, raising=False)  # others are not held up by it
    hand.take(1)
    with pytest.raises(KafkaError, match="orders-0, offset 0"):
        load(hand, of)


def test_batches_without_records_move_the_position_on() -> None:
    hand, of = Hand(), Position(TopicPartition("orders", 0), None)
    of.place(0)
    marker = build_batch([Record(0, 1_000, b"\0\0\0\1", b"\0\0\0\0\0\0")], control=True, transactional=True)
    of.take_in([StoredBatch(marker, 0, 1)], 1, len(marker))
    assert not load(hand, of)
    assert (of.position, of.done) == (1, 1)
