"""How a consumer is: what a liveness probe, a dashboard or a log line wants to know, without asking Redis."""

from __future__ import annotations

from typing import NamedTuple

from redbroker.errors import KafkaError
from redbroker.types import TopicPartition

__all__ = ["Health"]


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
