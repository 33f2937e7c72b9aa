"""DeleteTopics: forget topics and everything in them.

* An unknown name answers UNKNOWN_TOPIC_OR_PARTITION, an unknown id UNKNOWN_TOPIC_ID; the others go on.
* A topic named twice (also once by name and once by id) answers INVALID_REQUEST and is kept.
* v1 adds throttle_time_ms, v4 is flexible, v5 adds error_message, v6 names topics by name or id (KIP-516).
* The request's timeout is not applied: each storage call has its own bound (`storage_timeout_ms`).
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import existing_topic, for_each, fresh, noted, repeated, sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.schema import NULL_UUID

API = api(
    key=20,
    name="DeleteTopics",
    versions="1-6",
    flexible="4+",
    request="""
        topics           []    6+
            name         str   6+  ?6+ =null
            topic_id     uuid  6+
        topic_names      []str 0-5
        timeout_ms       i32
    """,
    response="""
        throttle_time_ms i32   1+
        responses        []
            name         str   0+  ?6+
            topic_id     uuid  6+
            error_code   i16
            error_message str  5+  ?5+ =null
    """,
)
Response, Result, Wanted = API.Response, API.response.struct("responses"), API.request.struct("topics")


@API
async def delete_topics(request: Any, ctx: Context) -> Any:
    await fresh(ctx)
    wanted = wants(request, ctx.version)
    twice = repeated(identity(topic, ctx) for topic in wanted)

    async def delete(topic: Any) -> Any:
        try:
            return await delete_one(topic, identity(topic, ctx) in twice, ctx)
        except KafkaError as error:
            return refused(topic, error)

    return Response(responses=noted(await for_each(wanted, delete), ctx))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(responses=[refused(topic, error) for topic in wants(request, version)])


def wants(request: Any, version: int) -> list[Any]:
    """The topics asked for, in the form of v6."""
    return list(request.topics) if version >= 6 else [Wanted(name=name) for name in request.topic_names]


def identity(wanted: Any, ctx: Context) -> object:
    """Equal for two ways of naming the same topic."""
    topic = ctx.engine.topics.get(wanted.name) if wanted.name is not None else ctx.engine.topics.by_id(wanted.topic_id)
    return topic.id if topic else (wanted.name, wanted.topic_id)


async def delete_one(wanted: Any, twice: bool, ctx: Context) -> Any:
    """Deletes one topic; raises the refusal."""
    if wanted.name is None and wanted.topic_id == NULL_UUID:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
    if wanted.name is not None and wanted.topic_id != NULL_UUID:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "You may not specify both topic name and topic id.")
    if twice:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "The same topic was named more than once.")
    by_id = ctx.engine.topics.by_id
    topic = by_id(wanted.topic_id) if wanted.name is None else existing_topic(wanted.name, ctx)
    if topic is None:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID, f"There is no topic with the id {wanted.topic_id}.")
    await ctx.engine.topics.delete(topic.name)
    return Result(name=topic.name, topic_id=topic.id)


def refused(wanted: Any, error: KafkaError) -> Any:
    return Result(name=wanted.name, topic_id=wanted.topic_id, error_code=error.code, error_message=sentence(error))
