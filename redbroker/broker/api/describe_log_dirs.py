"""DescribeLogDirs: how large partitions are, and how much room storage has left.

* A worker has one log directory, named after the storage URL (without its password). It answers for the partitions
  it leads, so that the sum over all brokers, which is what tools build, counts every partition once.
* Sizes are the bytes of the batches in a partition's stream. Null topics means all; unknown ones are left out.
* v2 is flexible, v3 adds a top-level error, v4 total and usable bytes: the masters' `maxmemory` and what is left of
  it, or -1 (unknown) when a master has no limit. The directory carries KAFKA_STORAGE_ERROR when a size cannot be read.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from redbroker.broker.admin import chunks, fresh
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.resources import log_dir
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=35,
    name="DescribeLogDirs",
    versions="1-4",
    flexible="2+",
    request="""
        topics           []    0+  ?0+
            topic        str
            partitions   []i32
    """,
    response="""
        throttle_time_ms i32
        error_code       i16   3+
        results          []
            error_code   i16
            log_dir      str
            topics       []
                name     str
                partitions []
                    partition_index i32
                    partition_size i64
                    offset_lag i64
                    is_future_key bool
            total_bytes  i64   4+  =-1
            usable_bytes i64   4+  =-1
    """,
)
Response, Result, TopicResult = API.Response, API.response.struct("results"), API.response.struct("results.topics")
PartitionResult = API.response.struct("results.topics.partitions")
JUST_DELETED = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID)
UNKNOWN = -1


@API
async def describe_log_dirs(request: Any, ctx: Context) -> Any:
    await fresh(ctx)
    sizes: dict[str, list[Any]] = defaultdict(list)
    result = Result(log_dir=log_dir(ctx.settings))
    for part in chunks(led_here(request, ctx)):
        for (topic, partition), bounds in zip(part, await ctx.engine.log.bounds(part), strict=True):
            if not isinstance(bounds, KafkaError):
                sizes[topic.name].append(PartitionResult(partition_index=partition, partition_size=bounds.nbytes))
            elif bounds.code not in JUST_DELETED:
                result.error_code = ErrorCode.KAFKA_STORAGE_ERROR
    result.topics = [TopicResult(name=name, partitions=partitions) for name, partitions in sizes.items()]
    if ctx.version >= 4:
        result.total_bytes, result.usable_bytes = await room(ctx)
    return Response(results=[result])


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(error_code=error.code)


def led_here(request: Any, ctx: Context) -> list[tuple[Topic, int]]:
    """The existing partitions asked for that this worker leads, each once."""
    topics = ctx.engine.topics
    if request.topics is None:
        asked = ((topic, range(topic.partitions)) for topic in topics.all().values())
    else:
        asked = ((topic, wanted.partitions) for wanted in request.topics if (topic := topics.get(wanted.topic)))
    here, leader = ctx.server.node_id, ctx.engine.workers.leader
    distinct = {
        (topic.name, partition): (topic, partition)
        for topic, partitions in asked
        for partition in partitions
        if 0 <= partition < topic.partitions
    }
    return [each for (name, partition), each in distinct.items() if leader(name, partition).node_id == here]


async def room(ctx: Context) -> tuple[int, int]:
    """Total and usable bytes over all masters, `UNKNOWN` when one has no limit or cannot be asked."""
    try:
        replies = await ctx.engine.storage.on_masters("INFO", "memory")
    except KafkaError:
        return UNKNOWN, UNKNOWN
    masters = [memory_info(reply) for _, reply in replies]
    if not masters or not all(limit for _, limit in masters):
        return UNKNOWN, UNKNOWN
    return sum(limit for _, limit in masters), sum(max(0, limit - used) for used, limit in masters)


def memory_info(reply: Any) -> tuple[int, int]:
    """`used_memory` and `maxmemory` of an INFO answer, in bytes; 0 where it does not say."""
    lines = dict(line.split(b":", 1) for line in bytes(reply).splitlines() if b":" in line)
    return int(lines.get(b"used_memory", 0)), int(lines.get(b"maxmemory", 0))
