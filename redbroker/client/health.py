"""How a consumer is: what a liveness probe, a dashboard or a log line wants to know, without asking Redis."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from redbroker.errors import KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.client.hand import Hand
    from redbroker.client.membership import Membership
    from redbroker.client.positions import Position

__all__ = ["Health", "health_of"]


class Health(NamedTuple):
    """`Consumer.health()`; lags by the log ends as last heard of.

    `state`: `joined` reads partitions; `standby` is a member without partitions, which is healthy; `rebalancing` is
    joining, or getting or giving up partitions; `stuck` has lag and has not gone on for `stuck_after_ms`; `unassigned`
    has neither subscribed nor assigned.
    """

    state: str
    lag_records: int
    lag_s: float
    assignment: frozenset[TopicPartition]
    last_error: KafkaError | None

    @property
    def healthy(self) -> bool:
        """Whether a probe should be content."""
        return self.state != "stuck"


def health_of(
    positions: Collection[Position], hand: Hand, membership: Membership | None, stuck_after_ms: int,
    fetch_error: KafkaError | None,
) -> Health:  # fmt: skip
    """How the consumer is that has these."""
    hand.settle()
    still_s = time.monotonic() - stuck_after_ms / 1000
    if membership is None and not positions:
        state = "unassigned"
    elif any(each.lag and each.readable and each.moved_s < still_s for each in positions):
        state = "stuck"
    elif membership is not None and membership.rebalancing:
        state = "rebalancing"
    else:
        state = "joined" if positions else "standby"
    error = (membership.fatal or membership.last_error) if membership else None
    lag, partitions = sum(each.lag for each in positions), frozenset(each.partition for each in positions)
    return Health(state, lag, lag_s(positions, hand, int(time.time() * 1000)), partitions, error or fetch_error)


def lag_s(positions: Collection[Position], hand: Hand, now_ms: int) -> float:
    """The age of the oldest fetched record that was not handed out yet, in seconds; 0 where all are read."""
    oldest_ms = [
        int.from_bytes(each.batches[0].batch[27:35], "big", signed=True) for each in positions if each.batches
    ]  # firstTimestamp of a batch
    if hand.at < len(hand.chunk):
        oldest_ms.append(hand.chunk[hand.at].timestamp_ms)
    return max(0.0, (now_ms - min(oldest_ms)) / 1000) if oldest_ms else 0.0
