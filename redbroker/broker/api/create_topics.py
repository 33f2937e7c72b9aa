"""CreateTopics: make topics, each with its partitions, configs and id.

* Topics succeed and fail one by one, each with a sentence. A name given twice answers INVALID_REQUEST, an existing
  one TOPIC_ALREADY_EXISTS. With validate_only everything is checked and nothing is made.
* Partitions: -1 means `num.partitions`; 0 and other negative counts answer INVALID_PARTITIONS.
* Replication factor: -1, or 1 up to the largest of 3, the copies storage keeps, and the live workers; others answer
  INVALID_REPLICATION_FACTOR. It is not a request to storage: the answer tells the copies there truly are
  (docs/decisions/0003-replication-factor.md).
* A manual assignment must be one Kafka would take (live nodes, partitions 0..n-1, both counts -1); it gives the
  number of partitions and is then not needed, since every worker serves every partition.
* v5 is flexible and answers the configs, partitions and copies of the new topic; v7 its id. The request's timeout is
  not applied: each storage call has its own bound (`storage_timeout_ms`).
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import bad_assignment, check_assignments, for_each, fresh, noted, repeated, sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.resources import topic_configs
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=19,
    name="CreateTopics",
    versions="2-7",
    flexible="5+",
    request="""
        topics           []
            name         str
            num_partitions i32
            replication_factor i16
            assignments  []
                partition_index i32
                broker_ids []i32
            configs      []
                name     str
                value    str   0+  ?0+
        timeout_ms       i32   0+  =60000
        validate_only    bool  1+
    """,
    response="""
        throttle_time_ms i32   2+
        topics           []
            name         str
            topic_id     uuid  7+
            error_code   i16
            error_message str  1+  ?0+
            topic_config_error_code i16 5+ #0
            num_partitions i32 5+  =-1
            replication_factor i16 5+ =-1
            configs      []    5+  ?5+
                name     str   5+
                value    str   5+  ?5+
                read_only bool 5+
                config_source i8 5+ =-1
                is_sensitive bool 5+
    """,
)
Response, Result = API.Response, API.response.struct("topics")
Entry = API.response.struct("topics.configs")
DEFAULT = -1
FACTOR_OF_HABIT = 3
"""The replication factor that tools and tutorials send by themselves; it is always accepted."""


@API
async def create_topics(request: Any, ctx: Context) -> Any:
    await fresh(ctx)
    twice = repeated(topic.name for topic in request.topics)

    async def create(wanted: Any) -> Any:
        try:
            if wanted.name in twice:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            return created(await create_one(wanted, request.validate_only, ctx), ctx)
        except KafkaError as error:
            return refused(wanted, error)

    distinct = list({topic.name: topic for topic in request.topics}.values())
    return Response(topics=noted(await for_each(distinct, create), ctx))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(topics=[refused(topic, error) for topic in request.topics])


async def create_one(wanted: Any, validate_only: bool, ctx: Context) -> Topic:
    """Makes one topic; raises the refusal."""
    topics = ctx.engine.topics
    if topics.get(wanted.name):
        raise KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{wanted.name}' already exists.")
    configs = {entry.name: entry.value for entry in wanted.configs}
    if unset := [name for name, value in configs.items() if value is None]:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {unset[0][:249]}")
    count = assigned(wanted, ctx) if wanted.assignments else counted(wanted, ctx)
    return await topics.create(wanted.name, count, configs, validate_only=validate_only)


def assigned(wanted: Any, ctx: Context) -> int:
    """The number of partitions of a manual assignment."""
    if wanted.replication_factor != DEFAULT or wanted.num_partitions != DEFAULT:
        raise KafkaError(
            ErrorCode.INVALID_REQUEST,
            "With a manual partition assignment, the replication factor and the number of partitions must be -1.",
        )
    if {each.partition_index for each in wanted.assignments} != set(range(len(wanted.assignments))):
        raise bad_assignment("The assigned partitions must be 0, 1, 2 and so on, each of them once.")
    check_assignments([each.broker_ids for each in wanted.assignments], ctx.engine.workers)
    return len(wanted.assignments)


def counted(wanted: Any, ctx: Context) -> int | None:
    """The number of partitions asked for; None means the default."""
    factor = wanted.replication_factor
    if factor < DEFAULT or factor == 0:
        raise KafkaError(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    if wanted.num_partitions < DEFAULT or wanted.num_partitions == 0:
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value.")
    copies = ctx.engine.durability.replication_factor
    most = max(FACTOR_OF_HABIT, copies, len(ctx.engine.workers.live()))
    if factor > most:
        raise KafkaError(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"Replication factor {factor} cannot be reached: storage keeps {copies} copies; up to {most} is accepted.",
        )
    return None if wanted.num_partitions == DEFAULT else int(wanted.num_partitions)


def created(topic: Topic, ctx: Context) -> Any:
    return Result(
        name=topic.name,
        topic_id=topic.id,
        error_message=None,
        num_partitions=topic.partitions,
        replication_factor=ctx.engine.durability.replication_factor,
        configs=[
            Entry(name=each.name, value=each.value, read_only=each.read_only, config_source=each.source)
            for each in topic_configs(topic.configs, ctx)
        ],
    )


def refused(wanted: Any, error: KafkaError) -> Any:
    return Result(name=wanted.name, error_code=error.code, error_message=sentence(error))
