"""AlterConfigs: replace all configs of topics and of the cluster (Kafka's older form; clients prefer key 44).

* What the request does not name falls back to its default. Each resource is changed whole or not at all; the others
  go on. With validate_only everything is checked and nothing is changed.
* A resource or a config named twice, or a null value: INVALID_REQUEST. An unknown config or a wrong value:
  INVALID_CONFIG. Broker configs are those of the whole cluster (`broker.resources`).
* v1 changes nothing in the bodies, v2 is flexible.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import noted, sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.resources import Changes, Current, alter, needed
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=33,
    name="AlterConfigs",
    versions="0-2",
    flexible="2+",
    request="""
        resources        []
            resource_type i8
            resource_name str
            configs      []
                name     str
                value    str   0+  ?0+
        validate_only    bool
    """,
    response="""
        throttle_time_ms i32
        responses        []
            error_code   i16
            error_message str  0+  ?0+
            resource_type i8
            resource_name str
    """,
)
Response, Result = API.Response, API.response.struct("responses")


@API
async def alter_configs(request: Any, ctx: Context) -> Any:
    outcome = await alter(request.resources, replace_all, request.validate_only, ctx)
    results = [result(each, error) for each, error in zip(request.resources, outcome, strict=True)]
    return Response(responses=noted(results, ctx))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(responses=[result(each, error) for each in request.resources])


def replace_all(resource: Any, current: Current) -> Changes:
    """The named configs get their values, all others their defaults.

    A broker's read-only configs are left out when they come back unchanged, so that a client may write what it read.
    """
    named = {entry.name: needed(entry.value, entry.name) for entry in resource.configs}
    kept = {name: value for name, value in named.items() if changes_something(name, value, current)}
    return Changes(kept, [name for name in current.own if name not in kept])


def changes_something(name: str, value: str, current: Current) -> bool:
    config = current.table.get(name)
    return config is None or config.dynamic or value != current.value(name)


def result(resource: Any, error: KafkaError | None) -> Any:
    return Result(
        error_code=error.code if error else ErrorCode.NONE,
        error_message=sentence(error) if error else None,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
    )
