"""DeleteRecords: move the log start forward, so that records before an offset are gone.

* Offset -1 means the high watermark: everything. An offset beyond it answers OFFSET_OUT_OF_RANGE; one before the
  log start changes nothing. The answer's low watermark is the log start afterwards, or -1 with an error.
* A topic that is compacted and not also deleted (`cleanup.policy`) answers POLICY_VIOLATION, as in Kafka.
* A partition named twice answers INVALID_REQUEST: which offset is meant would be a guess.
* v1 changes nothing in the bodies, v2 is flexible.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import chunks, fresh, repeated
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=21,
    name="DeleteRecords",
    versions="0-2",
    flexible="2+",
    request="""
        topics           []
            name         str
            partitions   []
                partition_index i32
                offset   i64
        timeout_ms       i32
    """,
    response="""
        throttle_time_ms i32
        topics           []
            name         str
            partitions   []
                partition_index i32
                low_watermark i64
                error_code i16
    """,
)
Response, TopicResult = API.Response, API.response.struct("topics")
PartitionResult = API.response.struct("topics.partitions")


@API
async def delete_records(request: Any, ctx: Context) -> Any:
    await fresh(ctx)
    twice = repeated((topic.name, cut.partition_index) for topic in request.topics for cut in topic.partitions)
    answer = Response()
    wants: list[tuple[Topic, int, int]] = []
    waiting: list[Any] = []  # the partition results that `wants` will fill, in the same order
    answer.topics = [TopicResult(name=wanted.name) for wanted in request.topics]
    for wanted, result in zip(request.topics, answer.topics, strict=True):
        topic = ctx.engine.topics.get(wanted.name)
        result.partitions = [PartitionResult(partition_index=cut.partition_index) for cut in wanted.partitions]
        for cut, slot in zip(wanted.partitions, result.partitions, strict=True):
            if (wanted.name, cut.partition_index) in twice:
                fail(slot, ErrorCode.INVALID_REQUEST)
            elif topic is None or not 0 <= cut.partition_index < topic.partitions:
                fail(slot, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            elif topic.compacted and not topic.deleting:
                fail(slot, ErrorCode.POLICY_VIOLATION)
            elif cut.offset < -1:
                fail(slot, ErrorCode.OFFSET_OUT_OF_RANGE)
            else:
                wants.append((topic, cut.partition_index, cut.offset))
                waiting.append(slot)
    for part, slots in zip(chunks(wants), chunks(waiting), strict=True):
        for slot, trimmed in zip(slots, await ctx.engine.log.trim(part), strict=True):
            if isinstance(trimmed, KafkaError):
                fail(slot, trimmed.code)
            else:
                slot.low_watermark = trimmed
    return answer


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    answer = Response(topics=[TopicResult(name=wanted.name) for wanted in request.topics])
    for wanted, result in zip(request.topics, answer.topics, strict=True):
        result.partitions = [
            PartitionResult(partition_index=cut.partition_index, low_watermark=-1, error_code=error.code)
            for cut in wanted.partitions
        ]
    return answer


def fail(slot: Any, code: ErrorCode) -> None:
    slot.low_watermark = -1
    slot.error_code = code
