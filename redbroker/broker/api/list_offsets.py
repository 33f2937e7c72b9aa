"""ListOffsets: the offset of a time, or of one of the special times below.

| timestamp | since | answer |
|---|---|---|
| -1 latest | v1 | the high watermark (read_committed: the last stable offset, which is the same so far) |
| -2 earliest | v1 | the log start |
| -3 maximum | v7 | the record with the largest timestamp itself, not the end of its batch (KIP-734) |
| -4 earliest local | v8 | the log start: nothing is tiered (KIP-405) |
| -5 latest tiered | v9 | -1, nothing is tiered (KIP-1005) |
| -6 earliest pending upload | v11 | -1, nothing is tiered (KIP-1023) |
| >= 0 | v1 | the first record with that timestamp or a later one, looked up inside its batch; none: -1 |

* A special time before its version is UNSUPPORTED_VERSION for that partition; one named twice is INVALID_REQUEST.
* current_leader_epoch (v4+) is checked: FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH. The epoch answered for the log
  start is -1 (unknown), since it may be older than the current one and clients compare it when a log is cut back.
* v2 adds the isolation level, v6 is flexible, v10 adds timeout_ms for remote storage (ignored: there is none).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.leader_epochs import check_claim
from redbroker.broker.lookup import find_topic, outdated
from redbroker.engine.log import Bounds
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=2,
    name="ListOffsets",
    versions="1-11",
    flexible="6+",
    request="""
        replica_id                    i32
        isolation_level               i8   2+
        topics                        []
            name                      str
            partitions                []
                partition_index       i32
                current_leader_epoch  i32  4+  =-1
                timestamp             i64
        timeout_ms                    i32  10+
    """,
    response="""
        throttle_time_ms              i32  2+
        topics                        []
            name                      str
            partitions                []
                partition_index       i32
                error_code            i16
                timestamp             i64  =-1
                offset                i64  =-1
                leader_epoch          i32  4+  =-1
    """,
)
Response = API.Response
TopicResult = API.response.struct("topics")
PartitionResult = API.response.struct("topics.partitions")

LATEST, EARLIEST, MAXIMUM, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6
SINCE = {LATEST: 1, EARLIEST: 1, MAXIMUM: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11}
"""Special timestamp -> first version that may ask for it."""


class Found(NamedTuple):
    """Where a timestamp led: -1 for what is not known."""

    offset: int = -1
    timestamp: int = -1
    leader_epoch: int = -1


class Asked(NamedTuple):
    """One partition to look up, and the result to fill."""

    topic: Topic
    want: Any
    result: Any


@API
async def list_offsets(request: Any, ctx: Context) -> Any:
    """At most three pipelines, side by side: bounds for all, times and maximum times for those that ask."""
    named = Counter((topic.name, want.partition_index) for topic in request.topics for want in topic.partitions)
    topics, asked = [], []
    for wanted in request.topics:
        topic = await find_topic(ctx.engine.topics, wanted.name)
        results = []
        for want in wanted.partitions:
            result = PartitionResult(partition_index=want.partition_index)
            results.append(result)
            if named[wanted.name, want.partition_index] > 1:
                result.error_code = ErrorCode.INVALID_REQUEST
            elif topic is None or not 0 <= want.partition_index < topic.partitions:
                result.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif want.timestamp < 0 and ctx.version < SINCE.get(want.timestamp, ctx.version + 1):
                result.error_code = ErrorCode.UNSUPPORTED_VERSION
            else:
                asked.append(Asked(topic, want, result))
        topics.append(TopicResult(name=wanted.name, partitions=results))
    if asked:
        await look_up(asked, ctx)
    return Response(topics=topics)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every partition gets the error."""
    return Response(
        topics=[
            TopicResult(
                name=topic.name,
                partitions=[
                    PartitionResult(partition_index=want.partition_index, error_code=error.code)
                    for want in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


async def look_up(asked: Sequence[Asked], ctx: Context) -> None:
    """Fills the results in place."""
    log = ctx.engine.log
    timed = [one for one in asked if one.want.timestamp >= 0]
    largest = [one for one in asked if one.want.timestamp == MAXIMUM]
    bounds, times, maxima = await asyncio.gather(
        log.bounds([(topic, want.partition_index) for topic, want, _ in asked]),
        log.find_time([(topic, want.partition_index, want.timestamp) for topic, want, _ in timed]),
        log.find_max_time([(topic, want.partition_index) for topic, want, _ in largest]),
    )
    searched = {id(one.result): found for one, found in zip([*timed, *largest], [*times, *maxima], strict=True)}
    for (topic, want, result), bound in zip(asked, bounds, strict=True):
        if isinstance(bound, KafkaError):
            bound = outdated(bound, ctx.engine.topics)
        else:
            ctx.server.leader_epochs.heard(topic, want.partition_index, bound.leader_epoch)
        found = answer(want, bound, searched.get(id(result)))
        if isinstance(found, ErrorCode):
            result.error_code = found
        else:
            result.offset, result.timestamp, result.leader_epoch = found


def answer(
    want: Any, bound: Bounds | KafkaError, searched: tuple[int, int, int] | KafkaError | None
) -> Found | ErrorCode:
    """The answer for one partition from what was read: its bounds, and what a search by time gave."""
    if isinstance(bound, KafkaError):
        return bound.code
    if isinstance(searched, KafkaError):
        return searched.code
    refused = check_claim(want.current_leader_epoch, bound.leader_epoch)
    if refused:
        return refused
    if want.timestamp == LATEST:
        return Found(bound.next, leader_epoch=bound.leader_epoch)
    if want.timestamp in (EARLIEST, EARLIEST_LOCAL):
        return Found(bound.log_start)
    return Found(*searched) if searched else Found()
