"""IncrementalAlterConfigs: set, unset or edit single configs of topics and of the cluster (KIP-339).

* SET (0), DELETE (1: back to the default; deleting what is not set does nothing), APPEND (2) and SUBTRACT (3) for
  list configs only, on the value in force; on others INVALID_CONFIG. Appending what is there changes nothing.
* Each resource is changed whole or not at all; the others go on. With validate_only nothing is changed.
* A resource or a config named twice, an unknown operation, a null value other than for DELETE: INVALID_REQUEST. An
  unknown config or a wrong value: INVALID_CONFIG. Broker configs are those of the whole cluster (`broker.resources`).
* v1 is flexible.
"""

from __future__ import annotations

import enum
from typing import Any

from redbroker.broker.admin import noted, sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.resources import Changes, Current, alter, invalid, needed
from redbroker.errors import ErrorCode, KafkaError
from redbroker.topic_config import ConfigType

API = api(
    key=44,
    name="IncrementalAlterConfigs",
    versions="0-1",
    flexible="1+",
    request="""
        resources        []
            resource_type i8
            resource_name str
            configs      []
                name     str
                config_operation i8
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


class Operation(enum.IntEnum):
    """What to do with one config."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


@API
async def incremental_alter_configs(request: Any, ctx: Context) -> Any:
    outcome = await alter(request.resources, edit, request.validate_only, ctx)
    results = [result(each, error) for each, error in zip(request.resources, outcome, strict=True)]
    return Response(responses=noted(results, ctx))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(responses=[result(each, error) for each in request.resources])


def edit(resource: Any, current: Current) -> Changes:
    """The operations of one resource, worked out against its current configs."""
    changes = Changes({}, [])
    for entry in resource.configs:
        if entry.config_operation not in set(Operation):
            raise invalid(f"Unknown operation type {entry.config_operation}.")
        if entry.config_operation == Operation.DELETE:
            if entry.name in current.own:
                changes.unset.append(entry.name)
            continue
        value = needed(entry.value, entry.name)
        if entry.config_operation != Operation.SET:
            value = edit_list(entry.name, Operation(entry.config_operation), value, current)
        changes.set[entry.name] = value
    return changes


def edit_list(name: str, operation: Operation, value: str, current: Current) -> str:
    """The list in force with the items of `value` appended or taken away."""
    config = current.table.get(name)
    if config is None or config.type is not ConfigType.LIST:
        raise KafkaError(
            ErrorCode.INVALID_CONFIG, f"Can't {operation.name} to key {name[:249]} because its type is not LIST."
        )
    items, given = ([each.strip() for each in text.split(",") if each.strip()] for text in (current.value(name), value))
    if operation is Operation.APPEND:
        return ",".join(dict.fromkeys([*items, *given]))
    return ",".join(item for item in items if item not in set(given))


def result(resource: Any, error: KafkaError | None) -> Any:
    return Result(
        error_code=error.code if error else ErrorCode.NONE,
        error_message=sentence(error) if error else None,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
    )
