"""DescribeCluster: the workers that are alive, the cluster id and the controller (KIP-700, KIP-919).

* Every worker serves every admin request; the controller named here is only where clients will send theirs.
* v1 adds the endpoint type: workers are brokers (1). Asking for controllers (2) answers MISMATCHED_ENDPOINT_TYPE,
  another number UNSUPPORTED_ENDPOINT_TYPE.
* v2 adds fenced brokers: a worker that is not alive is not listed at all, so none is ever fenced.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import CLUSTER_OPERATIONS, sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=60,
    name="DescribeCluster",
    versions="0-2",
    flexible="0+",
    request="""
        include_cluster_authorized_operations bool
        endpoint_type    i8    1+  =1
        include_fenced_brokers bool 2+
    """,
    response="""
        throttle_time_ms i32
        error_code       i16
        error_message    str   0+  ?0+ =null
        endpoint_type    i8    1+  =1
        cluster_id       str
        controller_id    i32   0+  =-1
        brokers          []
            broker_id    i32
            host         str
            port         i32
            rack         str   0+  ?0+ =null
            is_fenced    bool  2+
        cluster_authorized_operations i32 0+ =-2147483648
    """,
)
Response, Node = API.Response, API.response.struct("brokers")
BROKERS, CONTROLLERS = 1, 2


@API
async def describe_cluster(request: Any, ctx: Context) -> Any:
    if request.endpoint_type == CONTROLLERS:
        raise KafkaError(
            ErrorCode.MISMATCHED_ENDPOINT_TYPE,
            "The request was sent to an endpoint of type BROKER, but an endpoint of type CONTROLLER was wanted.",
        )
    if request.endpoint_type != BROKERS:
        raise KafkaError(ErrorCode.UNSUPPORTED_ENDPOINT_TYPE, f"Unsupported endpoint type {request.endpoint_type}.")
    workers = ctx.engine.workers
    answer = Response(
        cluster_id=ctx.engine.cluster_id,
        controller_id=workers.controller().node_id,
        brokers=[
            Node(broker_id=worker.node_id, host=worker.host, port=worker.port, rack=worker.rack)
            for worker in workers.live()
        ],
    )
    if request.include_cluster_authorized_operations:
        answer.cluster_authorized_operations = CLUSTER_OPERATIONS
    return answer


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    return Response(error_code=error.code, error_message=sentence(error), endpoint_type=request.endpoint_type)
