"""Offsets of logs, looked up for a consumer's caller: where they start and end, and what they held at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.log import Bounds
    from redbroker.engine.topics import Topic

__all__ = ["bounds", "offsets_for_times"]

T = TypeVar("T")


async def bounds(engine: Engine, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Bounds]:
    """Where logs start and end."""
    named = list(partitions)
    found = await engine.log.bounds([(await _topic(engine, each), each.partition) for each in named])
    return {each: _raised(bound) for each, bound in zip(named, found, strict=True)}


async def offsets_for_times(engine: Engine, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
    """The offset of the first record at or after a time each; None where none is that young."""
    wants = [(await _topic(engine, each), each.partition, time_ms) for each, time_ms in times.items()]
    found = await engine.log.find_time(wants)
    return {each: hit if hit is None else _raised(hit)[0] for each, hit in zip(times, found, strict=True)}


async def _topic(engine: Engine, partition: TopicPartition) -> Topic:
    topic = await engine.topics.find(partition.topic)
    if topic is None or not 0 <= partition.partition < topic.partitions:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{partition} does not exist.")
    return topic


def _raised(found: T | KafkaError) -> T:
    """The value, unless it is an error."""
    if isinstance(found, KafkaError):
        raise found
    return found
