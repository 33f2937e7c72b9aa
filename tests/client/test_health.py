"""Each state of a consumer, from what it knows without asking anybody."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from redbroker.client.consumer_config import ConsumerConfig
from redbroker.client.hand import Hand
from redbroker.client.health import Health, health_of, lag_s
from redbroker.client.positions import Position
from redbroker.engine.log import StoredBatch
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import Record, build_batch

TROUBLE = KafkaError(ErrorCode.NOT_COORDINATOR, "trouble")
STUCK_MS = 60_000


@dataclass
class Member:
    """What health asks a membership."""

    rebalancing: bool = False
    fatal: KafkaError | None = None
    last_error: KafkaError | None = None


def position(*, lag: int = 0, still_s: float = 0.0, number: int = 0) -> Position:
    of = Position(TopicPartition("orders", number), None)
    of.place(5)
    of.log_end, of.moved_s = 5 + lag, time.monotonic() - still_s
    return of


def health(*positions: Position, member: Member | None = None, failed: KafkaError | None = None) -> Health:
    return health_of(positions, Hand(), member, STUCK_MS, failed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("lag", "still_s", "member", "state"), [
    (None, 0, None, "unassigned"),
    (None, 0, Member(rebalancing=True), "rebalancing"),
    (None, 0, Member(), "standby"),
    (9, 0, Member(), "joined"),
    (9, 0, None, "joined"),
    (9, 1e6, Member(rebalancing=True), "stuck"),
    (0, 1e6, Member(), "joined"),
])  # fmt: skip
def test_the_state(lag: int | None, still_s: float, member: Member | None, state: str) -> None:
    positions = [] if lag is None else [position(lag=lag, still_s=still_s)]
    found = health(*positions, member=member)
    assert found.state == state
    assert found.healthy == (state != "stuck")


def test_a_paused_partition_is_not_stuck() -> None:
    of = position(lag=9, still_s=1e6)
    of.paused = True
    assert health(of).state == "joined"


def test_lags_add_up_and_partitions_are_named() -> None:
    found = health(position(lag=2), position(lag=3, number=1))
    assert found.lag_records == 5
    assert found.assignment == {TopicPartition("orders", 0), TopicPartition("orders", 1)}


def test_the_gravest_error_is_told_first() -> None:
    fatal = KafkaError(ErrorCode.FENCED_INSTANCE_ID, "fatal")
    assert health(failed=TROUBLE).last_error is TROUBLE
    assert health(member=Member(), failed=TROUBLE).last_error is TROUBLE
    assert health(member=Member(last_error=TROUBLE)).last_error is TROUBLE
    assert health(member=Member(fatal=fatal, last_error=TROUBLE), failed=TROUBLE).last_error is fatal


def test_the_lag_in_time_is_the_age_of_the_oldest_record_that_waits() -> None:
    of, other, hand = position(), position(number=1), Hand()
    assert lag_s([of, other], hand, 10_000) == 0
    for each, time_ms in ((of, 7_000), (other, 8_000)):
        batch = build_batch([Record(0, time_ms, None, b""), Record(1, 9_500, None, b"")])
        each.take_in([StoredBatch(batch, 5, 1)], 7, len(batch))
    assert lag_s([of, other], hand, 10_000) == 3
    assert hand.load({of.partition: of}, ConsumerConfig(), lambda of, before: None)
    assert lag_s([of, other], hand, 10_000) == 3  # decoded, but not handed out
    hand.take(1)
    assert lag_s([of, other], hand, 10_000) == 2
    assert lag_s([of, other], hand, 1_000) == 0  # a clock that is behind the producers'
