"""Fetch: batches from many partitions, or a wait until there are enough of them.

* Answers as soon as `min_bytes` are there, an error is to be told, `max_wait_ms` is over or the worker drains. The wait
  is woken by the append itself; at its end the log is read once more. Waits are bounded by the worker's settings.
* A batch is returned whole when the offset falls inside it; the first one even when it exceeds both byte limits. It
  is the bytes the producer sent, with base offset and leader epoch patched (both lie outside the CRC).
* Sessions (v7+, KIP-227) are `broker.sessions`; a refused session is the whole answer (error, session id 0).
* From v13 on topics go by id: an unknown one is UNKNOWN_TOPIC_ID, before that UNKNOWN_TOPIC_OR_PARTITION.
* `current_leader_epoch` (v9+) is checked: FENCED_LEADER_EPOCH (with the current leader told from v12 on, its
  endpoint from v16 on: KIP-951) or UNKNOWN_LEADER_EPOCH. `last_fetched_epoch` (v12+) that was cut back answers its end
  as `diverging_epoch` and no records.
* Errors no client expects of a Fetch (Redis too slow, too few replicas) are told as NOT_LEADER_OR_FOLLOWER.
* A Redis master that does not answer holds up its own partitions only; what they are told comes at the end of the wait.
* OFFSET_OUT_OF_RANGE tells the log's start and high watermark, so that a client need not ask for them.
* With replicas, records end at the high watermark, and a wait for more is woken when it moves (`engine/watermark.py`).
* Without transactions the last stable offset is the high watermark. The aborted list is null for read_uncommitted
  and empty for read_committed; records are empty, never null: Kafka's way in both.
* zstd batches are told only from v10 on: UNSUPPORTED_COMPRESSION_TYPE before. Replica ids and racks are ignored: there
  are no followers to read from, and every worker is as near to the data as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.lookup import find_topic, outdated
from redbroker.broker.sessions import WantedPartition
from redbroker.engine.log import Read, ReadResult
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import read_header, record_count, stamp

API = api(
    key=1,
    name="Fetch",
    versions="4-18",
    flexible="12+",
    parks=True,
    in_turn=True,
    request="""
        cluster_id                      str     12+  ?12+  #0  =null
        replica_id                      i32     0-14  =-1
        replica_state                   {}      15+  #1
            replica_id                  i32     15+  =-1
            replica_epoch               i64     15+  =-1
        max_wait_ms                     i32
        min_bytes                       i32
        max_bytes                       i32     3+   =0x7fffffff
        isolation_level                 i8      4+
        session_id                      i32     7+
        session_epoch                   i32     7+   =-1
        topics                          []
            topic                       str     0-12
            topic_id                    uuid    13+
            partitions                  []
                partition               i32
                current_leader_epoch    i32     9+   =-1
                fetch_offset            i64
                last_fetched_epoch      i32     12+  =-1
                log_start_offset        i64     5+   =-1
                partition_max_bytes     i32
                replica_directory_id    uuid    17+  #0
                high_watermark          i64     18+  #1  =9223372036854775807
        forgotten_topics_data           []      7+
            topic                       str     7-12
            topic_id                    uuid    13+
            partitions                  []i32   7+
        rack_id                         str     11+
    """,
    response="""
        throttle_time_ms                i32     1+
        error_code                      i16     7+
        session_id                      i32     7+
        responses                       []
            topic                       str     0-12
            topic_id                    uuid    13+
            partitions                  []
                partition_index         i32
                error_code              i16
                high_watermark          i64
                last_stable_offset      i64     4+   =-1
                log_start_offset        i64     5+   =-1
                diverging_epoch         {}      12+  #0
                    epoch               i32     12+  =-1
                    end_offset          i64     12+  =-1
                current_leader          {}      12+  #1
                    leader_id           i32     12+  =-1
                    leader_epoch        i32     12+  =-1
                snapshot_id             {}      12+  #2
                    end_offset          i64     0+   =-1
                    epoch               i32     0+   =-1
                aborted_transactions    []      4+   ?4+
                    producer_id         i64     4+
                    first_offset        i64     4+
                preferred_read_replica  i32     11+  =-1
                records                 records
        node_endpoints                  []      16+  #0
            node_id                     i32     16+
            host                        str     16+
            port                        i32     16+
            rack                        str     16+  ?16+  =null
    """,
)
Response = API.Response
TopicAnswer = API.response.struct("responses")
Answer = API.response.struct("responses.partitions")
Diverging = API.response.struct("responses.partitions.diverging_epoch")
Leader = API.response.struct("responses.partitions.current_leader")
Node = API.response.struct("node_endpoints")

IDS_FROM = 13
ZSTD_FROM, ZSTD = 10, 4
READ_COMMITTED = 1

Outcome = ReadResult | KafkaError
Reading = tuple[WantedPartition, Topic, Read]


@API
async def fetch(request: Any, ctx: Context) -> Any:
    """Resolve the session's partitions, read until there is enough, answer what is new to the session."""
    session = ctx.server.fetch_sessions.open(request, ctx.version)
    if session.error:
        ctx.error_code = session.error
        return Response(error_code=session.error)
    answers: dict[WantedPartition, Any] = {}
    readings: list[Reading] = []
    for wanted in session.partitions:
        topic = await locate(wanted, ctx)
        if isinstance(topic, KafkaError):
            answers[wanted] = refused(wanted, topic, request)
            continue
        read = Read(topic, wanted.partition, wanted.fetch_offset, max(1, wanted.max_bytes), wanted.current_leader_epoch)
        readings.append((wanted, topic, read))
    readings = await diverged(readings, answers, request, ctx)
    codes = {answer.error_code for answer in answers.values()}
    at_once = bool(codes - {ErrorCode.NOT_LEADER_OR_FOLLOWER}) or not session.partitions
    outcomes = await read_enough([read for _, _, read in readings], request, ctx, at_once=at_once)
    for (wanted, topic, _), outcome in zip(readings, outcomes, strict=True):
        if isinstance(outcome, KafkaError):
            outcome = outdated(outcome, ctx.engine.topics, ctx.version >= IDS_FROM)
        elif outcome.batches:
            cells = ctx.server.metrics.topic(topic.name)
            cells.bytes_out += outcome.nbytes
            last, first = outcome.batches[-1], outcome.batches[0]
            cells.records_out += last.base_offset + record_count(last.batch) - first.base_offset
        answers[wanted] = told(wanted, outcome, request, ctx.version)
    nodes = await explain(readings, answers, ctx)
    ctx.error_code = next((answer.error_code for answer in answers.values() if answer.error_code), ErrorCode.NONE)
    sent = session.filter([(wanted, answers[wanted]) for wanted in session.partitions])
    return Response(
        error_code=session.error, session_id=session.session_id, responses=by_topic(sent), node_endpoints=nodes
    )


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every named partition gets the error; the session is lost and made anew."""
    if version >= 7:
        return Response(error_code=error.code)
    return Response(
        responses=[
            TopicAnswer(
                topic=topic.topic,
                topic_id=topic.topic_id,
                partitions=[Answer(wanted.partition, error.code, -1, records=b"") for wanted in topic.partitions],
            )
            for topic in request.topics
        ]
    )


async def locate(wanted: WantedPartition, ctx: Context) -> Topic | KafkaError:
    """The topic of a wanted partition, by id from v13 on, or why there is none."""
    try:
        topic = await find_topic(ctx.engine.topics, wanted.topic, wanted.topic_id)
    except KafkaError as away:
        return away
    if topic is None:
        by_id = ctx.version >= IDS_FROM
        return KafkaError(ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    if not 0 <= wanted.partition < topic.partitions:
        return KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    return topic


async def read_enough(reads: Sequence[Read], request: Any, ctx: Context, *, at_once: bool) -> Sequence[Outcome]:
    """The last of as many reads as it takes; `at_once` when something is to be told already.

    That a master does not answer is told at the end of the wait: many clients ask again at once.
    """
    log, settings = ctx.engine.log, ctx.settings
    max_bytes = min(max(1, request.max_bytes), settings.fetch_bytes_max)  # 0 still asks for one batch
    min_bytes = min(request.min_bytes, max_bytes)
    deadline = monotonic() + min(max(0, request.max_wait_ms), settings.fetch_wait_ms_max) / 1000
    outcomes = await log.read(reads, max_bytes=max_bytes, trust=not at_once and monotonic() < deadline)
    while not at_once:
        results = {place: each for place, each in enumerate(outcomes) if not isinstance(each, KafkaError)}
        refusals = [each for each in outcomes if isinstance(each, KafkaError)] if len(results) < len(reads) else ()
        refused = any(refusal.code not in UNANSWERED for refusal in refusals)
        gathered_bytes = sum(result.nbytes for result in results.values())
        left_s = deadline - monotonic()
        if gathered_bytes >= min_bytes or refused or left_s <= 0 or ctx.server.draining.is_set():
            return outcomes
        known = [(reads[place], result) for place, result in results.items()]
        moved = await ctx.server.parked(log.wait(known, min_bytes - gathered_bytes, left_s), ())
        # Those that nothing was appended to give what they gave; at the end of the wait, all are read once more.
        places = list(results)
        again = [places[index] for index in moved] or range(len(reads))
        kept_bytes = gathered_bytes - sum(results[place].nbytes for place in again if place in results)
        fresh = await log.read([reads[place] for place in again], max_bytes=max_bytes - kept_bytes)
        for place, outcome in zip(again, fresh, strict=True):
            outcomes[place] = outcome
    return outcomes


def told(wanted: WantedPartition, result: Outcome, request: Any, version: int) -> Any:
    """The answer of a partition that was to be read."""
    if isinstance(result, KafkaError):
        return refused(wanted, result, request)
    records: list[Any] = []
    for batch, base_offset, leader_epoch in result.batches:
        if version < ZSTD_FROM and read_header(batch).codec == ZSTD:
            return refused(wanted, KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), request)
        records += stamp(batch, base_offset, leader_epoch)
    return Answer(
        wanted.partition, ErrorCode.NONE, result.next, result.next, result.log_start,
        aborted_transactions=() if request.isolation_level == READ_COMMITTED else None,
        records=records or b"",
    )  # fmt: skip


def refused(wanted: WantedPartition, error: KafkaError, request: Any) -> Any:
    """The answer of a partition that could not be read; offsets are unknown (-1)."""
    code = error.code
    if code not in EXPECTED:
        code = ErrorCode.NOT_LEADER_OR_FOLLOWER if error.retriable else ErrorCode.UNKNOWN_SERVER_ERROR
    return Answer(
        wanted.partition, code, -1,
        aborted_transactions=() if request.isolation_level == READ_COMMITTED else None, records=b"",
    )  # fmt: skip


async def diverged(
    readings: list[Reading], answers: dict[WantedPartition, Any], request: Any, ctx: Context
) -> list[Reading]:
    """Answers the partitions whose last fetched epoch ended before the wanted offset; gives those left to read.

    They are read in the leader epoch they were checked in, or the log might be cut back while the client waits.
    """
    claims = [(wanted, topic) for wanted, topic, _ in readings if wanted.last_fetched_epoch >= 0]
    if not claims:
        return readings
    asked = [(topic, one.partition, one.last_fetched_epoch) for one, topic in claims]
    ends = await ctx.engine.log.epoch_end(asked, impatient=True)
    checked_in: dict[WantedPartition, int] = {}
    for (wanted, _), end in zip(claims, ends, strict=True):
        if isinstance(end, KafkaError):
            answers[wanted] = refused(wanted, outdated(end, ctx.engine.topics, ctx.version >= IDS_FROM), request)
        elif end.epoch < 0:
            answers[wanted] = refused(wanted, KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE), request)
        elif end.epoch < wanted.last_fetched_epoch or end.end_offset < wanted.fetch_offset:
            answers[wanted] = refused(wanted, KafkaError(ErrorCode.NONE), request)
            answers[wanted].diverging_epoch = Diverging(epoch=end.epoch, end_offset=end.end_offset)
        elif wanted.current_leader_epoch < 0:
            checked_in[wanted] = end.leader_epoch
    return [
        (wanted, topic, read._replace(leader_epoch=checked_in.get(wanted, read.leader_epoch)))
        for wanted, topic, read in readings
        if wanted not in answers
    ]


async def explain(readings: Sequence[Reading], answers: dict[WantedPartition, Any], ctx: Context) -> list[Any]:
    """Adds to errors what spares the client a request: the log's range, the current leader. Gives their endpoints."""
    wrong = [(answers[wanted], topic) for wanted, topic, _ in readings if answers[wanted].error_code in EXPLAINED]
    if not wrong:
        return []
    nodes = {}
    asked = [(topic, answer.partition_index) for answer, topic in wrong]
    bounds = await ctx.engine.log.bounds(asked, impatient=True)
    for (answer, topic), bound in zip(wrong, bounds, strict=True):
        if isinstance(bound, KafkaError):
            continue
        if answer.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
            answer.high_watermark = answer.last_stable_offset = bound.next
            answer.log_start_offset = bound.log_start
        else:
            leader = ctx.engine.workers.leader(topic.name, answer.partition_index)
            ctx.server.leader_epochs.heard(topic, answer.partition_index, bound.leader_epoch)
            answer.current_leader = Leader(leader_id=leader.node_id, leader_epoch=bound.leader_epoch)
            nodes[leader.node_id] = Node(leader.node_id, leader.host, leader.port, leader.rack)
    return list(nodes.values())


EXPECTED = frozenset(
    {
        ErrorCode.NONE, ErrorCode.OFFSET_OUT_OF_RANGE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, ErrorCode.UNKNOWN_SERVER_ERROR,
    }
)  # fmt: skip
"""What clients expect of a Fetch. Any other code, a time-out among them, throws the Java consumer out of its loop."""
UNANSWERED = frozenset({ErrorCode.REQUEST_TIMED_OUT, ErrorCode.NOT_LEADER_OR_FOLLOWER})
"""The partition's Redis master is silent, away or failing over."""
EXPLAINED = frozenset({ErrorCode.OFFSET_OUT_OF_RANGE, ErrorCode.FENCED_LEADER_EPOCH})


def by_topic(sent: Sequence[tuple[WantedPartition, Any]]) -> list[Any]:
    """Partition answers gathered under their topics, in the order of each topic's first."""
    topics: dict[Any, Any] = {}
    for wanted, answer in sent:
        key = wanted.topic or wanted.topic_id
        topic = topics.get(key)
        if topic is None:
            topic = topics[key] = TopicAnswer(topic=wanted.topic, topic_id=wanted.topic_id, partitions=[])
        topic.partitions.append(answer)
    return list(topics.values())
