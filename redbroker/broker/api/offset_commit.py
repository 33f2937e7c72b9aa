"""OffsetCommit: a group remembers how far it has read, with metadata, leader epoch and the time of the commit.

* One script checks the member and writes, as durably as acks=all. Generation and member checks are Kafka's:
  UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID, REBALANCE_IN_PROGRESS, STALE_MEMBER_EPOCH (KIP-848),
  GROUP_ID_NOT_FOUND (v9+; ILLEGAL_GENERATION before). They hold for every partition of the request. A generation
  of -1 is a consumer without a group membership: allowed while the group has no members.
* A partition that does not exist is UNKNOWN_TOPIC_OR_PARTITION, an unknown topic id UNKNOWN_TOPIC_ID, metadata above
  the setting OFFSET_METADATA_TOO_LARGE; the other partitions go on. Null metadata is kept as an empty string.
* v3 adds throttle_time_ms, v6 the leader epoch, v7 group.instance.id, v8 is flexible, v9 member epochs, v10 topic ids
  (KIP-848) in place of names. The retention time of v2-4 is not applied: offsets.retention.minutes is (KIP-211).
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import check_group_id, told, topics_of
from redbroker.engine.offsets import Commit
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=8,
    name="OffsetCommit",
    versions="2-10",
    flexible="8+",
    request="""
        group_id                       str
        generation_id_or_member_epoch  i32   1+   =-1
        member_id                      str   1+
        group_instance_id              str   7+   ?7+  =null
        retention_time_ms              i64   2-4  =-1
        topics                         []
            name                       str   0-9
            topic_id                   uuid  10+
            partitions                 []
                partition_index        i32
                committed_offset       i64
                committed_leader_epoch i32   6+   =-1
                committed_metadata     str   0+   ?0+
    """,
    response="""
        throttle_time_ms               i32   3+
        topics                         []
            name                       str   0-9
            topic_id                   uuid  10+
            partitions                 []
                partition_index        i32
                error_code             i16
    """,
)
Response = API.Response
TopicAnswer = API.response.struct("topics")
Answer = API.response.struct("topics.partitions")

IDS_FROM = 10


@API
async def offset_commit(request: Any, ctx: Context) -> Any:
    """What can be committed goes to the engine in one call; the answers follow the request's order."""
    check_group_id(request.group_id)
    topics: list[Any] = []
    commits: list[Commit] = []
    places: list[Any] = []
    missing = ErrorCode.UNKNOWN_TOPIC_ID if ctx.version >= IDS_FROM else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    for wanted, topic in zip(request.topics, await topics_of(request.topics, ctx), strict=True):
        answers = []
        for each in wanted.partitions:
            answer = Answer(each.partition_index)
            answers.append(answer)
            if topic is None:
                answer.error_code = missing
            elif not 0 <= each.partition_index < topic.partitions:
                answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            else:
                commits.append(
                    Commit(
                        topic.name, each.partition_index, each.committed_offset, each.committed_leader_epoch,
                        each.committed_metadata or "",
                    )
                )  # fmt: skip
                places.append(answer)
        topics.append(TopicAnswer(wanted.name, wanted.topic_id, answers))
    for answer, code in zip(places, await commit(request, commits, ctx) if commits else (), strict=True):
        answer.error_code = code
    ctx.error_code = next((each.error_code for topic in topics for each in topic.partitions if each.error_code), 0)
    return Response(topics=topics)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """Nothing was committed: every partition gets the error."""
    return Response(
        topics=[
            TopicAnswer(
                topic.name, topic.topic_id, [Answer(each.partition_index, told(error)) for each in topic.partitions]
            )
            for topic in request.topics
        ]
    )


async def commit(request: Any, commits: list[Commit], ctx: Context) -> list[int]:
    """An error code for each commit; what is wrong with the group is wrong with all of them."""
    try:
        refusals = await ctx.engine.offsets.commit(
            request.group_id, commits, member_id=request.member_id, epoch=request.generation_id_or_member_epoch,
            instance_id=request.group_instance_id, version=ctx.version,
        )  # fmt: skip
    except KafkaError as refusal:
        return [told(refusal)] * len(commits)
    return [told(refusal) if refusal else 0 for refusal in refusals]
