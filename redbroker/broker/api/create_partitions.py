"""CreatePartitions: raise the number of partitions of topics.

* Equal or lower counts answer INVALID_PARTITIONS, unknown topics UNKNOWN_TOPIC_OR_PARTITION, topics named twice
  INVALID_REQUEST; the others go on. With validate_only everything is checked and nothing is changed.
* Assignments must name live workers and are then not needed: every worker serves every partition.
* v2 is flexible; v1 and v3 change nothing in the bodies.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import (
    bad_assignment,
    check_assignments,
    existing_topic,
    for_each,
    fresh,
    noted,
    repeated,
    sentence,
)
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=37,
    name="CreatePartitions",
    versions="0-3",
    flexible="2+",
    request="""
        topics           []
            name         str
            count        i32
            assignments  []    0+  ?0+
                broker_ids []i32
        timeout_ms       i32
        validate_only    bool
    """,
    response="""
        throttle_time_ms i32
        results          []
            name         str
            error_code   i16
            error_message str  0+  ?0+ =null
    """,
)
Response, Result = API.Response, API.response.struct("results")


@API
async def create_partitions(request: Any, ctx: Context) -> Any:
    await fresh(ctx)
    twice = repeated(topic.name for topic in request.topics)

    async def grow(wanted: Any) -> Any:
        try:
            if wanted.name in twice:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            await grow_one(wanted, request.validate_only, ctx)
            return Result(name=wanted.name)
        except KafkaError as error:
            return Result(name=wanted.name, error_code=error.code, error_message=sentence(error))

    distinct = list({topic.name: topic for topic in request.topics}.values())
    return Response(results=noted(await for_each(distinct, grow), ctx))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(
        results=[
            Result(name=topic.name, error_code=error.code, error_message=sentence(error)) for topic in request.topics
        ]
    )


async def grow_one(wanted: Any, validate_only: bool, ctx: Context) -> None:
    """Raises the refusal, else the topic has `count` partitions afterwards."""
    topic = existing_topic(wanted.name, ctx)
    more = wanted.count - topic.partitions
    if more == 0:
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"Topic already has {topic.partitions} partition(s).")
    if more < 0:
        raise KafkaError(
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {topic.name} currently has {topic.partitions} partition(s);"
            f" {wanted.count} would not be an increase.",
        )
    if wanted.assignments is not None:
        if len(wanted.assignments) != more:
            raise bad_assignment(
                f"{more} partition(s) would be added, but {len(wanted.assignments)} assignment(s) were given."
            )
        check_assignments([assignment.broker_ids for assignment in wanted.assignments], ctx.engine.workers)
    await ctx.engine.topics.grow(topic.name, wanted.count, validate_only=validate_only)
