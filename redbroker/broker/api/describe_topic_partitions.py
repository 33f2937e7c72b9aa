"""DescribeTopicPartitions: topics and their partitions, page by page (KIP-966).

* Topics come sorted by name. No topics named means all; a named unknown one answers UNKNOWN_TOPIC_OR_PARTITION, a
  name that can be no topic's INVALID_TOPIC_EXCEPTION.
* At most `response_partition_limit` partitions (and never more than 2,000) are in one answer; `next_cursor` says
  where to go on. A cursor naming a topic that is not asked for, or a negative partition, answers INVALID_REQUEST:
  the body has no place for an error of the whole request, so each asked topic carries it.
* The replicas of a partition are the worker that leads it: copies are kept by Redis, below Kafka's node ids. The
  eligible leader replicas are empty for the same reason. Leader epochs are those that Metadata tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redbroker.broker.admin import TOPIC_OPERATIONS, fresh
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.engine.topics import Topic, check_name
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=75,
    name="DescribeTopicPartitions",
    versions="0",
    flexible="0+",
    request="""
        topics           []
            name         str
        response_partition_limit i32 0+ =2000
        cursor           {}    0+  ?0+ =null
            topic_name   str
            partition_index i32
    """,
    response="""
        throttle_time_ms i32
        topics           []
            error_code   i16
            name         str   0+  ?0+
            topic_id     uuid
            is_internal  bool
            partitions   []
                error_code i16
                partition_index i32
                leader_id i32
                leader_epoch i32 0+ =-1
                replica_nodes []i32
                isr_nodes []i32
                eligible_leader_replicas []i32 0+ ?0+ =null
                last_known_elr []i32 0+ ?0+ =null
                offline_replicas []i32
            topic_authorized_operations i32 0+ =-2147483648
        next_cursor      {}    0+  ?0+ =null
            topic_name   str
            partition_index i32
    """,
)
Response, TopicResult, Cursor = API.Response, API.response.struct("topics"), API.response.struct("next_cursor")
PartitionResult = API.response.struct("topics.partitions")
PARTITIONS_MAX = 2_000
"""Kafka's `max.request.partition.size.limit`."""


@API
async def describe_topic_partitions(request: Any, ctx: Context) -> Any:
    await fresh(ctx)
    cursor = request.cursor
    topics = ctx.engine.topics
    everything = not request.topics
    asked = topics.all() if everything else {topic.name for topic in request.topics}
    if cursor and (cursor.partition_index < 0 or not (everything or cursor.topic_name in asked)):
        raise KafkaError(ErrorCode.INVALID_REQUEST, "The cursor names no partition of the topics asked for.")
    answer = Response()
    left = max(1, min(PARTITIONS_MAX, request.response_partition_limit))
    for name in sorted(name for name in asked if not cursor or name >= cursor.topic_name):
        topic = topics.get(name)
        if topic is None:
            if not everything:
                answer.topics.append(unknown(name))
            continue
        first = cursor.partition_index if cursor and cursor.topic_name == name else 0
        if left == 0:
            answer.next_cursor = Cursor(topic_name=name, partition_index=first)
            break
        wanted = range(first, min(topic.partitions, first + left))
        answer.topics.append(await describe(topic, wanted, ctx))
        left -= len(wanted)
        if first + len(wanted) < topic.partitions:
            answer.next_cursor = Cursor(topic_name=name, partition_index=first + len(wanted))
            break
    return answer


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(topics=[TopicResult(name=topic.name, error_code=error.code) for topic in request.topics])


async def describe(topic: Topic, partitions: Sequence[int], ctx: Context) -> Any:
    """One topic with a range of its partitions."""
    (epochs,) = await ctx.server.leader_epochs.of([topic])
    result = TopicResult(name=topic.name, topic_id=topic.id, topic_authorized_operations=TOPIC_OPERATIONS)
    for partition in partitions:
        leader = ctx.engine.workers.leader(topic.name, partition).node_id
        result.partitions.append(
            PartitionResult(
                partition_index=partition,
                leader_id=leader,
                leader_epoch=epochs[partition],
                replica_nodes=[leader],
                isr_nodes=[leader],
                eligible_leader_replicas=[],
                last_known_elr=[],
            )
        )
    return result


def unknown(name: str) -> Any:
    """The answer for a named topic that does not exist."""
    try:
        check_name(name)
    except KafkaError as error:
        return TopicResult(name=name, error_code=error.code)
    return TopicResult(name=name, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
