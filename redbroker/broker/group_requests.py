"""What the group APIs share: the check of a group id, and how a refusal is told to clients of a coordinator.

Groups live in Redis, so storage that is away is all that can be wrong with a coordinator. Clients of groups only know
two ways to say "try again": NOT_COORDINATOR and COORDINATOR_NOT_AVAILABLE. Anything else retriable makes some of them
give up (aiokafka and kafka-python raise what they do not know from JoinGroup, SyncGroup and Heartbeat), so it is told
as one of those, the way Kafka's coordinator tells its own log's errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from redbroker.broker.context import Context
from redbroker.broker.lookup import find_topic
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.schema import NULL_UUID

T = TypeVar("T")

GROUP_ID_BYTES_MAX = 32_767
"""The longest string of Kafka's protocol; flexible versions could carry more."""

GROUP_OPERATIONS = sum(1 << operation for operation in (3, 6, 8, 10, 11))
"""What everybody may do with a group: bits numbered by Kafka's AclOperation (KIP-430)."""

AWAY = frozenset(
    {
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
)
"""What storage says when it is away, slow or too few: to a group's client the coordinator is not available."""


def check_group_id(group_id: str) -> None:
    """Refuses with INVALID_GROUP_ID what cannot name a group: nothing, a NUL, or more than a Kafka string holds."""
    if not group_id or "\0" in group_id or len(group_id.encode()) > GROUP_ID_BYTES_MAX:
        raise KafkaError(ErrorCode.INVALID_GROUP_ID, "A group id is 1 to 32,767 bytes of UTF-8 without NUL.")


def invalid_group_id(group_id: str) -> KafkaError | None:
    """The refusal of `check_group_id` as a value, or None."""
    try:
        check_group_id(group_id)
    except KafkaError as refusal:
        return refusal
    return None


def told(error: KafkaError) -> ErrorCode:
    """The code a group's client understands."""
    return ErrorCode.COORDINATOR_NOT_AVAILABLE if error.code in AWAY else error.code


async def answered(wait: Awaitable[T], ctx: Context) -> T:
    """A parked request's answer. When this worker drains, the client is sent to find another: NOT_COORDINATOR.

    It is the one code that all clients take as "ask who it is now, and come back as the same member".
    """
    answer = await ctx.server.parked(_kept(wait), ())
    for kept in answer:
        return kept
    raise KafkaError(ErrorCode.NOT_COORDINATOR, "This worker is stopping; another one goes on with the group.")


async def _kept(wait: Awaitable[T]) -> tuple[T, ...]:
    return (await wait,)


async def topics_of(wanted: Sequence[Any], ctx: Context) -> list[Topic | None]:
    """The topics that items with `name` or `topic_id` name, None where there is none.

    However many ids are unknown, Redis is asked for the topics once: a request may hold a million of them.
    """
    topics = ctx.engine.topics
    if any(each.topic_id != NULL_UUID and topics.by_id(each.topic_id) is None for each in wanted):
        await topics.reload()
    return [
        topics.by_id(each.topic_id) if each.topic_id != NULL_UUID else await find_topic(topics, each.name)
        for each in wanted
    ]
