"""ListConfigResources: the names that configs can be asked of (KIP-1142; v0 is ListClientMetricsResources, KIP-714).

* v0 lists client metrics subscriptions; there are none.
* v1 takes the resource types wanted: topics and brokers are listed, there are no client metrics and group configs,
  and no loggers with changeable levels. No types means all. A type Kafka does not know answers UNSUPPORTED_VERSION.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import fresh
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.resources import ResourceType
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=74,
    name="ListConfigResources",
    versions="0-1",
    flexible="0+",
    request="""
        resource_types   []i8  1+
    """,
    response="""
        throttle_time_ms i32
        error_code       i16
        config_resources []
            resource_name str
            resource_type i8   1+  =16
    """,
)
Response, Resource = API.Response, API.response.struct("config_resources")


@API
async def list_config_resources(request: Any, ctx: Context) -> Any:
    wanted = set(request.resource_types) if ctx.version >= 1 else {ResourceType.CLIENT_METRICS}
    if strange := wanted - set(ResourceType):
        raise KafkaError(ErrorCode.UNSUPPORTED_VERSION, f"{min(strange)} is not a type of config resource.")
    await fresh(ctx)
    answer = Response()
    if not wanted or ResourceType.TOPIC in wanted:
        answer.config_resources += [
            Resource(resource_name=name, resource_type=ResourceType.TOPIC) for name in sorted(ctx.engine.topics.all())
        ]
    if not wanted or ResourceType.BROKER in wanted:
        answer.config_resources += [
            Resource(resource_name=str(worker.node_id), resource_type=ResourceType.BROKER)
            for worker in ctx.engine.workers.live()
        ]
    return answer


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(error_code=error.code)
