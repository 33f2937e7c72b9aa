"""Produce: append record batches, one per partition, each on its own fate.

* acks: 0 (no answer; on an error the connection is closed, as Kafka does), 1, -1 (all). Another value answers
  INVALID_REQUIRED_ACKS and writes nothing.
* A batch is stored as it was sent, checked first (`wire.records.check_produced`): size against the topic's
  max.message.bytes, magic, CRC, counts. Then the topic's own rules: timestamps outside
  message.timestamp.before/after.max.ms are INVALID_TIMESTAMP, a null key on a compacted topic INVALID_RECORD (each such
  record is named from v8 on), LogAppendTime topics are stamped here.
* One wrong partition never harms the others: errors are values, and what is right is written.
* Unknown topics are not created here (Metadata does that): UNKNOWN_TOPIC_OR_PARTITION, from v13 on UNKNOWN_TOPIC_ID.
* zstd needs v7: UNSUPPORTED_COMPRESSION_TYPE before. Transactional batches are INVALID_TXN_STATE: transactions are not
  offered yet, so none can be open.
* While a Redis master is nearly full the answer carries throttle_time_ms and the connection is muted for that long
  (KIP-219); fuller still, batches are refused with KAFKA_STORAGE_ERROR, which clients try again (`engine/pressure.py`).
* v0-2 are advertised but not served: librdkafka turns compression off when they are missing (KAFKA-18659).
* v5 adds the log start, v8 record errors and a message, v9 is flexible, v10 adds hints at a new leader (KIP-951; never
  given: an error here means that Redis is away, and no other worker could do better), v13 names topics by id.
"""

from __future__ import annotations

from time import time
from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.dispatch import Refused
from redbroker.broker.lookup import find_topic, outdated
from redbroker.engine.keys import PartitionKeys
from redbroker.engine.log import Append
from redbroker.engine.topics import Topic, Topics
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import (
    check_produced,
    has_null_keys,
    iter_records,
    read_header,
    stamp_append_time,
)

API = api(
    key=0,
    name="Produce",
    versions="3-13",
    advertised="0-13",
    flexible="9+",
    request="""
        transactional_id                str    3+    ?3+  =null
        acks                            i16
        timeout_ms                      i32
        topic_data                      []
            name                        str    0-12
            topic_id                    uuid   13+
            partition_data              []
                index                   i32
                records                 records
    """,
    response="""
        responses                       []
            name                        str    0-12
            topic_id                    uuid   13+
            partition_responses         []
                index                   i32
                error_code              i16
                base_offset             i64
                log_append_time_ms      i64    2+    =-1
                log_start_offset        i64    5+    =-1
                record_errors           []     8+
                    batch_index         i32    8+
                    batch_index_error_message  str  8+  ?8+  =null
                error_message           str    8+    ?8+  =null
                current_leader          {}     10+   #0
                    leader_id           i32    10+   =-1
                    leader_epoch        i32    10+   =-1
        throttle_time_ms                i32    1+
        node_endpoints                  []     10+   #0
            node_id                     i32    10+
            host                        str    10+
            port                        i32    10+
            rack                        str    10+   ?10+ =null
    """,
)
Response = API.Response
TopicResult = API.response.struct("responses")
PartitionResult = API.response.struct("responses.partition_responses")
RecordError = API.response.struct("responses.partition_responses.record_errors")

ACKS = frozenset({-1, 0, 1})
IDS_FROM = 13
ZSTD_FROM, ZSTD = 7, 4
UNKNOWN_OFFSET = -1


class InvalidRecords(KafkaError):
    """A batch refused for some of its records: `.indices` are their places in the batch."""

    def __init__(self, code: ErrorCode, message: str, indices: list[int]) -> None:
        super().__init__(code, message)
        self.indices = indices


@API
async def produce(request: Any, ctx: Context) -> Any:
    """Checks every batch, appends the good ones in one call, answers in the order asked.

    Requests of one connection run side by side, and their batches must reach the log in the order they came: nothing is
    awaited before the append of known topics, and whoever must wait makes those behind it wait too.
    """
    now_ms = int(time() * 1000)
    topics = ctx.engine.topics
    find, by = (topics.by_id, "topic_id") if ctx.version >= IDS_FROM else (topics.get, "name")
    responses, entries, pending = [], [], []
    ticket = ctx.turnstile.ticket() if ctx.turnstile.busy else None
    try:
        for data in request.topic_data:
            topic = find(getattr(data, by))
            if topic is None:
                ticket = ticket or ctx.turnstile.ticket()
                topic = await unheard(data, topics)
            results = []
            for part in data.partition_data:
                result = PartitionResult(part.index)
                results.append(result)
                try:
                    entries.append(admit(topic, part, request, ctx.version, now_ms))
                    pending.append(result)
                except KafkaError as refusal:
                    ctx.error_code = fail(result, refusal)
            responses.append(TopicResult(data.name, data.topic_id, results))
        if ticket is not None:
            await ticket
        appending = ctx.engine.log.submit(entries, acks=request.acks, timeout_ms=max(0, request.timeout_ms))
    finally:
        if ticket is not None:
            ctx.turnstile.give_back(ticket)
    if entries:
        outcomes = [await each for each in appending]
        metrics = ctx.server.metrics
        counted = metrics.topics
        for entry, result, outcome in zip(entries, pending, outcomes, strict=True):
            if isinstance(outcome, KafkaError):
                ctx.error_code = fail(result, outdated(outcome, topics, ctx.version >= IDS_FROM))
                continue
            if not outcome.duplicate:
                name = entry.topic.name
                cells = counted[name] if name in counted else metrics.topic(name)
                cells.batches_in += 1
                cells.records_in += entry.header.count
                cells.bytes_in += len(entry.batch)
            result.base_offset = outcome.base_offset
            result.log_start_offset = outcome.log_start
            if entry.topic.log_append_time:
                result.log_append_time_ms = now_ms
    pause_ms = 0 if ctx.engine.pressure.calm else throttle_ms(ctx, entries)
    if not ctx.error_code:
        # Not after a refusal: what was sent behind it must be refused too, not wait until records are taken again.
        ctx.throttle_ms = pause_ms
    if request.acks == 0:
        return silence(responses)
    return Response(responses, pause_ms)


def throttle_ms(ctx: Context, entries: list[Append]) -> int:
    """How long the client should pause (KIP-219): what the fullest of the masters it wrote to asks for."""
    keys = {
        PartitionKeys(ctx.settings.key_prefix, TopicPartition(each.topic.name, each.partition)).log for each in entries
    }
    return max(map(ctx.engine.pressure.throttle_ms, keys), default=0)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every partition gets the error; with acks=0 the connection is closed."""
    if request.acks == 0:
        raise Refused("acks_0", f"a produce request that wants no answer failed: {error}")
    responses = []
    for data in request.topic_data:
        results = [PartitionResult(part.index) for part in data.partition_data]
        for result in results:
            fail(result, error)
        responses.append(TopicResult(data.name, data.topic_id, results))
    return Response(responses)


async def unheard(data: Any, topics: Topics) -> Topic | None:
    """A topic that this worker does not know yet, as Redis knows it; None also where Redis is away."""
    try:
        return await find_topic(topics, data.name, data.topic_id)
    except KafkaError:
        return None


def admit(topic: Topic | None, part: Any, request: Any, version: int, now_ms: int) -> Append:
    """One batch that may be written, or the KafkaError that refuses it."""
    if request.acks not in ACKS:
        raise KafkaError(ErrorCode.INVALID_REQUIRED_ACKS, f"acks must be 0, 1 or -1, not {request.acks}.")
    if topic is None:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID if version >= IDS_FROM else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    if not 0 <= part.index < topic.partitions:
        raise KafkaError(
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{topic.name} has {topic.partitions} partitions, not {part.index}."
        )
    batch = part.records
    if batch is None:
        raise KafkaError(ErrorCode.INVALID_RECORD, "A produce request must carry exactly one batch per partition.")
    latest_ms = None if topic.log_append_time else now_ms + topic.timestamp_after_max_ms
    header = check_produced(batch, topic.max_message_bytes, latest_ms=latest_ms)
    # Most batches of small requests have no attributes at all; the properties are looked at only where some are set.
    special = header.attributes or request.transactional_id is not None
    if special and (header.transactional or request.transactional_id is not None):
        raise KafkaError(ErrorCode.INVALID_TXN_STATE, "Transactions are not offered yet, so none is open.")
    if special and header.codec == ZSTD and version < ZSTD_FROM:
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"zstd needs Produce {ZSTD_FROM}, not {version}.")
    if topic.compacted and has_null_keys(batch):
        raise unkeyed(batch)
    if topic.log_append_time:
        batch = stamp_append_time(batch, now_ms)
        header = read_header(batch)
    elif topic.timestamp_before_max_ms < now_ms and (refusal := too_old(topic, batch, now_ms)):
        raise refusal
    return Append(topic, part.index, batch, header)


def too_old(topic: Topic, batch: Any, now_ms: int) -> InvalidRecords | None:
    """The refusal of a batch with records older than message.timestamp.before.max.ms; without a timestamp (-1) is fine.

    The header does not tell the smallest timestamp, so such topics (they are rare) have their records looked at.
    """
    earliest_ms = now_ms - topic.timestamp_before_max_ms
    wrong = [index for index, record in enumerate(iter_records(batch)) if -1 != record.timestamp < earliest_ms]
    message = f"A timestamp before {earliest_ms} is older than message.timestamp.before.max.ms allows."
    return InvalidRecords(ErrorCode.INVALID_TIMESTAMP, message, wrong) if wrong else None


def unkeyed(batch: Any) -> InvalidRecords:
    """The refusal of a batch for a compacted topic, naming the records without a key."""
    wrong = [index for index, record in enumerate(iter_records(batch)) if record.key is None]
    return InvalidRecords(ErrorCode.INVALID_RECORD, "A compacted topic takes no record without a key.", wrong)


def fail(result: Any, error: KafkaError) -> ErrorCode:
    """Writes an error into one partition's result, and gives its code."""
    result.error_code = error.code
    result.error_message = error.message
    result.base_offset = UNKNOWN_OFFSET
    if isinstance(error, InvalidRecords):
        result.record_errors = [RecordError(index, error.message) for index in error.indices]
    return error.code


def silence(responses: list[Any]) -> None:
    """acks=0 wants no answer. An error is raised, and `refuse` closes the connection: that is how a client is told."""
    for topic in responses:
        for result in topic.partition_responses:
            if result.error_code:
                raise KafkaError(result.error_code, result.error_message)
