"""DescribeConfigs: every config of topics and brokers, with its value and where the value comes from.

* All configs are listed, set or not: AlterConfigs replaces all, so clients read, change and write back.
* `configuration_keys` filters (null or empty: all). A resource asked for twice is answered once, with the keys of both.
* Unknown topics answer UNKNOWN_TOPIC_OR_PARTITION; brokers that are not alive and other resource types
  INVALID_REQUEST with a sentence. The broker "" is the cluster default: only what was set dynamically.
* v1 adds the source and, when asked for, synonyms (the places a value could come from, strongest first); v3 adds the
  type and, when asked for, documentation; v4 is flexible.
"""

from __future__ import annotations

from typing import Any

from anyio.lowlevel import checkpoint

from redbroker.broker.admin import fresh, noted, sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.resources import describe
from redbroker.errors import KafkaError
from redbroker.topic_config import ConfigType, Described

API = api(
    key=32,
    name="DescribeConfigs",
    versions="1-4",
    flexible="4+",
    request="""
        resources        []
            resource_type i8
            resource_name str
            configuration_keys []str 0+ ?0+
        include_synonyms bool  1+
        include_documentation bool 3+
    """,
    response="""
        throttle_time_ms i32
        results          []
            error_code   i16
            error_message str  0+  ?0+
            resource_type i8
            resource_name str
            configs      []
                name     str
                value    str   0+  ?0+
                read_only bool
                config_source i8 1+ =-1
                is_sensitive bool
                synonyms []    1+
                    name str   1+
                    value str  1+  ?0+
                    source i8  1+
                config_type i8 3+
                documentation str 3+ ?0+
    """,
)
Response, Result, Entry = API.Response, API.response.struct("results"), API.response.struct("results.configs")
Synonym = API.response.struct("results.configs.synonyms")


@API
async def describe_configs(request: Any, ctx: Context) -> Any:
    await fresh(ctx)
    wanted: dict[tuple[int, str], set[str] | None] = {}
    for resource in request.resources:
        asked = resource.resource_type, resource.resource_name
        keys = set(resource.configuration_keys) if resource.configuration_keys else None
        before = wanted.get(asked, set())
        wanted[asked] = None if keys is None or before is None else before | keys
    response = Response()
    for (kind, name), keys in wanted.items():
        response.results.append(answer(kind, name, keys, request, ctx))
        await checkpoint()  # thousands of topics take seconds; other requests get their turn
    noted(response.results, ctx)
    return response


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(results=[refused(each.resource_type, each.resource_name, error) for each in request.resources])


def answer(kind: int, name: str, keys: set[str] | None, request: Any, ctx: Context) -> Any:
    """One resource, with the configs named by `keys` (None: all)."""
    try:
        described = describe(kind, name, ctx)
    except KafkaError as error:
        return refused(kind, name, error)
    configs = [entry(each, request) for each in described if keys is None or each.name in keys]
    return Result(error_message=None, resource_type=kind, resource_name=name, configs=configs)


def entry(config: Described, request: Any) -> Any:
    secret = config.type is ConfigType.PASSWORD
    return Entry(
        name=config.name,
        value=None if secret else config.value,
        read_only=config.read_only,
        config_source=config.source,
        is_sensitive=secret,
        synonyms=[Synonym(each.name, None if secret else each.value, each.source) for each in config.synonyms]
        if request.include_synonyms
        else [],
        config_type=config.type,
        documentation=config.documentation if request.include_documentation else None,
    )


def refused(kind: int, name: str, error: KafkaError) -> Any:
    return Result(error_code=error.code, error_message=sentence(error), resource_type=kind, resource_name=name)
