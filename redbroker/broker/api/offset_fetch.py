"""OffsetFetch: how far groups have read.

* Without a commit the offset is -1, the metadata empty and the error none: also for a group nobody has heard of, in
  every version. Null topics (v2+) ask for everything the group has committed.
* v3 adds throttle_time_ms, v5 leader epochs, v6 is flexible, v7 require_stable (KIP-447): there is nothing pending, as
  there are no transactions, so every offset is stable. v8 asks for many groups at once (KIP-709), v9 adds the member
  id and epoch, checked as Kafka does (UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH), v10 names topics by id: an unknown
  one is UNKNOWN_TOPIC_ID, and where everything is asked for, topics that are gone are left out.
* A group's error is told at the top (v2-7), in its own place (v8+), or in each partition (v1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from redbroker.broker.admin import for_each
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import check_group_id, told, topics_of
from redbroker.broker.lookup import find_topic
from redbroker.engine.offsets import NOTHING, Committed
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

API = api(
    key=9,
    name="OffsetFetch",
    versions="1-10",
    flexible="6+",
    request="""
        group_id                            str     0-7
        topics                              []      0-7  ?2-7
            name                            str     0-7
            partition_indexes               []i32   0-7
        groups                              []      8+
            group_id                        str     8+
            member_id                       str     9+   ?9+  =null
            member_epoch                    i32     9+   =-1
            topics                          []      8+   ?8+
                name                        str     8-9
                topic_id                    uuid    10+
                partition_indexes           []i32   8+
        require_stable                      bool    7+
    """,
    response="""
        throttle_time_ms                    i32     3+
        topics                              []      0-7
            name                            str     0-7
            partitions                      []      0-7
                partition_index             i32     0-7
                committed_offset            i64     0-7
                committed_leader_epoch      i32     5-7  =-1
                metadata                    str     0-7  ?0-7
                error_code                  i16     0-7
        error_code                          i16     2-7
        groups                              []      8+
            group_id                        str     8+
            topics                          []      8+
                name                        str     8-9
                topic_id                    uuid    10+
                partitions                  []      8+
                    partition_index         i32     8+
                    committed_offset        i64     8+
                    committed_leader_epoch  i32     8+   =-1
                    metadata                str     8+   ?8+
                    error_code              i16     8+
            error_code                      i16     8+
    """,
)
Response = API.Response
OneTopic, OnePartition = API.response.struct("topics"), API.response.struct("topics.partitions")
GroupAnswer = API.response.struct("groups")
TopicAnswer, Answer = API.response.struct("groups.topics"), API.response.struct("groups.topics.partitions")
GroupRequest = API.request.struct("groups")
TopicRequest = API.request.struct("groups.topics")

TOP_ERROR_FROM = 2
MANY_FROM = 8
IDS_FROM = 10


@API
async def offset_fetch(request: Any, ctx: Context) -> Any:
    """Every version is answered through the form of v8: a list of groups."""

    async def fetch(group: Any) -> Any:
        try:
            return GroupAnswer(group.group_id, await committed_by(group, ctx))
        except KafkaError as refusal:
            return GroupAnswer(group.group_id, error_code=told(refusal))

    answers = await for_each(wants(request, ctx.version), fetch)
    ctx.error_code = next((answer.error_code for answer in answers if answer.error_code), 0)
    return Response(groups=answers) if ctx.version >= MANY_FROM else alone(answers[0], request, ctx.version)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every group gets the error."""
    answers = [GroupAnswer(group.group_id, error_code=told(error)) for group in wants(request, version)]
    return Response(groups=answers) if version >= MANY_FROM else alone(answers[0], request, version)


def wants(request: Any, version: int) -> list[Any]:
    """The groups asked for, in the form of v8."""
    if version >= MANY_FROM:
        return list(request.groups)
    topics = request.topics
    if topics is not None:
        topics = [TopicRequest(name=topic.name, partition_indexes=topic.partition_indexes) for topic in topics]
    return [GroupRequest(request.group_id, topics=topics)]


def alone(group: Any, request: Any, version: int) -> Any:
    """The answer of the one group that versions before 8 ask for."""
    if group.error_code and version < TOP_ERROR_FROM:
        return Response(
            topics=[
                OneTopic(topic.name, [OnePartition(each, -1, -1, "", group.error_code) for each in indexes])
                for topic, indexes in ((topic, topic.partition_indexes) for topic in request.topics)
            ]
        )
    return Response(
        error_code=group.error_code,
        topics=[
            OneTopic(
                topic.name,
                [
                    OnePartition(
                        each.partition_index, each.committed_offset, each.committed_leader_epoch, each.metadata
                    )
                    for each in topic.partitions
                ],
            )
            for topic in group.topics
        ],
    )


async def committed_by(group: Any, ctx: Context) -> list[Any]:
    """What one group has committed in the partitions it asks for; raises the group's refusal."""
    check_group_id(group.group_id)
    member = {"member_id": group.member_id, "epoch": group.member_epoch}
    if group.topics is None:
        found = await ctx.engine.offsets.fetch(group.group_id, None, **member)
        return await everything(found, ctx)
    names = await names_of(group.topics, ctx)
    wanted = [
        TopicPartition(name, index)
        for name, topic in zip(names, group.topics, strict=True)
        if name is not None
        for index in topic.partition_indexes
    ]
    found = await ctx.engine.offsets.fetch(group.group_id, wanted, **member)
    return [
        TopicAnswer(topic.name, topic.topic_id, answers(name, topic.partition_indexes, found))
        for name, topic in zip(names, group.topics, strict=True)
    ]


async def names_of(wanted: Sequence[Any], ctx: Context) -> list[str | None]:
    """The names under which topics' offsets are kept; None for an id nobody has.

    A name is taken as it is: offsets of a topic that is gone are still the group's.
    """
    if ctx.version < IDS_FROM:
        return [each.name for each in wanted]
    return [topic.name if topic else None for topic in await topics_of(wanted, ctx)]


def answers(name: str | None, indexes: Sequence[int], found: Mapping[TopicPartition, Committed]) -> list[Any]:
    """One answer per partition asked for."""
    if name is None:
        return [Answer(index, -1, -1, "", ErrorCode.UNKNOWN_TOPIC_ID) for index in indexes]
    return [answer(index, found.get(TopicPartition(name, index), NOTHING)) for index in indexes]


def answer(index: int, committed: Committed) -> Any:
    """The answer for one partition."""
    return Answer(index, committed.offset, committed.leader_epoch, committed.metadata)


async def everything(found: Mapping[TopicPartition, Committed], ctx: Context) -> list[Any]:
    """All of a group's offsets by topic, sorted."""
    by_name: dict[str, list[Any]] = {}
    for partition in sorted(found):
        if found[partition].offset >= 0:
            by_name.setdefault(partition.topic, []).append(answer(partition.partition, found[partition]))
    if ctx.version < IDS_FROM:
        return [TopicAnswer(name, partitions=partitions) for name, partitions in by_name.items()]
    ids: dict[str, UUID] = {}
    for name in by_name:
        topic = await find_topic(ctx.engine.topics, name)
        if topic is not None:
            ids[name] = topic.id
    return [TopicAnswer("", ids[name], partitions) for name, partitions in by_name.items() if name in ids]
