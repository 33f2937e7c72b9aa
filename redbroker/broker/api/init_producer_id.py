"""InitProducerId: a producer id for an idempotent producer (KIP-98).

* A null transactional id always gets a new id with epoch 0, whatever id and epoch the request carries (v3+): an
  idempotent producer has nothing to resume, and this is what Kafka does too. Ids need no round trip to Redis.
* An empty transactional id is INVALID_REQUEST.
* Transactions are not offered yet: a transactional id is refused with UNSUPPORTED_VERSION. Every client then says so
  in its own words: Java and kafka-python fail the producer for good, aiokafka raises UnsupportedVersionError,
  librdkafka returns it from init_transactions when its time-out ends. The authorization errors would name a
  cause that is not there, and a retriable error would hang the client.
* v2 is flexible; v3 adds the producer id and epoch of the request; v4 and v5 only add error codes.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=22,
    name="InitProducerId",
    versions="0-5",
    flexible="2+",
    request="""
        transactional_id         str  ?0+
        transaction_timeout_ms   i32
        producer_id              i64  3+  =-1
        producer_epoch           i16  3+  =-1
    """,
    response="""
        throttle_time_ms         i32
        error_code               i16
        producer_id              i64  =-1
        producer_epoch           i16
    """,
)
Response = API.Response

NO_EPOCH = -1


@API
async def init_producer_id(request: Any, ctx: Context) -> Any:
    """A fresh producer id, or the refusal of a transactional one."""
    if request.transactional_id is None:
        return Response(producer_id=ctx.engine.new_producer_id(), producer_epoch=0)
    refused = ErrorCode.UNSUPPORTED_VERSION if request.transactional_id else ErrorCode.INVALID_REQUEST
    return Response(error_code=refused, producer_epoch=NO_EPOCH)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: no id is given."""
    return Response(error_code=error.code, producer_epoch=NO_EPOCH)
