"""OffsetForLeaderEpoch: where an epoch ends, so that a reader finds out that a log was cut back (KIP-101, KIP-320).

* For each partition: the largest epoch at or below the asked one, and its end offset (the next epoch's first offset, or
  the log end). An epoch newer than any known answers -1 and -1 without
  an error; one older than all (trimmed away) ended where the first known one begins, as in Kafka.
* A current_leader_epoch older than ours is FENCED_LEADER_EPOCH, a newer one UNKNOWN_LEADER_EPOCH; -1 is not checked.
* v2 is served because librdkafka asks for exactly v2; v3 adds the replica id (ignored: we have no followers), v4 is
  flexible. The response's `partition` field stands behind the error code; in the request it comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.leader_epochs import check_claim
from redbroker.broker.lookup import find_topic, outdated
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=23,
    name="OffsetForLeaderEpoch",
    versions="2-4",
    flexible="4+",
    request="""
        replica_id                  i32  3+  =-2
        topics                      []
            topic                   str
            partitions              []
                partition           i32
                current_leader_epoch  i32  =-1
                leader_epoch        i32
    """,
    response="""
        throttle_time_ms            i32
        topics                      []
            topic                   str
            partitions              []
                error_code          i16
                partition           i32
                leader_epoch        i32  =-1
                end_offset          i64  =-1
    """,
)
Response = API.Response
TopicResult = API.response.struct("topics")
PartitionResult = API.response.struct("topics.partitions")


@API
async def offset_for_leader_epoch(request: Any, ctx: Context) -> Any:
    """One pipeline for all partitions: each answer holds the epoch's end and the current epoch to check claims with."""
    topics, asked = [], []
    for wanted in request.topics:
        topic = await find_topic(ctx.engine.topics, wanted.topic)
        results = []
        for want in wanted.partitions:
            result = PartitionResult(partition=want.partition)
            results.append(result)
            if topic is None or not 0 <= want.partition < topic.partitions:
                result.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            else:
                asked.append((topic, want, result))
        topics.append(TopicResult(topic=wanted.topic, partitions=results))
    await look_up(asked, ctx)
    return Response(topics=topics)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every partition gets the error."""
    return Response(
        topics=[
            TopicResult(
                topic=topic.topic,
                partitions=[
                    PartitionResult(partition=want.partition, error_code=error.code) for want in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


async def look_up(asked: Sequence[tuple[Topic, Any, Any]], ctx: Context) -> None:
    """Fills the results in place."""
    if not asked:
        return
    ends = await ctx.engine.log.epoch_end([(topic, want.partition, want.leader_epoch) for topic, want, _ in asked])
    for (topic, want, result), end in zip(asked, ends, strict=True):
        if isinstance(end, KafkaError):
            result.error_code = outdated(end, ctx.engine.topics).code
            continue
        ctx.server.leader_epochs.heard(topic, want.partition, end.leader_epoch)
        result.error_code = check_claim(want.current_leader_epoch, end.leader_epoch)
        if result.error_code == ErrorCode.NONE:
            result.leader_epoch, result.end_offset = end.epoch, end.end_offset
