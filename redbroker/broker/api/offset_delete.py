"""OffsetDelete: forget committed offsets of a group (KIP-496).

* Offsets of a topic that a member of the group reads stay: GROUP_SUBSCRIBED_TO_TOPIC. A partition that does not exist
  is UNKNOWN_TOPIC_OR_PARTITION; one without a commit is deleted already.
* GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP (members that are no consumers) and INVALID_GROUP_ID are the whole answer.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import check_group_id, told
from redbroker.broker.lookup import find_topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

API = api(
    key=47,
    name="OffsetDelete",
    versions="0",
    flexible=None,
    request="""
        group_id             str
        topics               []
            name             str
            partitions       []
                partition_index i32
    """,
    response="""
        error_code           i16
        throttle_time_ms     i32
        topics               []
            name             str
            partitions       []
                partition_index i32
                error_code   i16
    """,
)
Response = API.Response
TopicAnswer = API.response.struct("topics")
Answer = API.response.struct("topics.partitions")


@API
async def offset_delete(request: Any, ctx: Context) -> Any:
    """The partitions that exist go to the engine in one call."""
    check_group_id(request.group_id)
    topics: list[Any] = []
    wanted: list[TopicPartition] = []
    places: list[Any] = []
    for named in request.topics:
        topic = await find_topic(ctx.engine.topics, named.name)
        answers = [Answer(each.partition_index) for each in named.partitions]
        topics.append(TopicAnswer(named.name, answers))
        for answer in answers:
            if topic is not None and 0 <= answer.partition_index < topic.partitions:
                wanted.append(TopicPartition(topic.name, answer.partition_index))
                places.append(answer)
            else:
                answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    for answer, refusal in zip(places, await ctx.engine.offsets.delete(request.group_id, wanted), strict=True):
        answer.error_code = told(refusal) if refusal else 0
    ctx.error_code = next((each.error_code for topic in topics for each in topic.partitions if each.error_code), 0)
    return Response(topics=topics)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """Nothing was deleted."""
    return Response(error_code=told(error))
