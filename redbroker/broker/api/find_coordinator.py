"""FindCoordinator: which worker a group, a transactional id or a share partition should talk to.

* Any worker can serve any group, because groups live in Redis. The answer only spreads the work: rendezvous hashing
  of the key over the live workers, so it names a node that Metadata lists, and all workers answer the same.
* Key types: 0 group, 1 transactional id (v1+), 2 share partition `group:topic id:partition` (v6+, KIP-932). Another
  type, or a share key of another shape, is INVALID_REQUEST; no live worker is COORDINATOR_NOT_AVAILABLE.
* v1 adds the key type and error messages, v3 is flexible, v4 asks for many keys at once (KIP-699), v5 only adds an
  error code.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import Any
from uuid import UUID

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=10,
    name="FindCoordinator",
    versions="0-6",
    flexible="3+",
    request="""
        key                 str     0-3
        key_type            i8      1+
        coordinator_keys    []str   4+
    """,
    response="""
        throttle_time_ms    i32     1+
        error_code          i16     0-3
        error_message       str     1-3  ?1-3  =null
        node_id             i32     0-3
        host                str     0-3
        port                i32     0-3
        coordinators        []      4+
            key             str     4+
            node_id         i32     4+
            host            str     4+
            port            i32     4+
            error_code      i16     4+
            error_message   str     4+   ?4+   =null
    """,
)
Response = API.Response
Coordinator = API.response.struct("coordinators")

GROUP, TRANSACTION, SHARE = 0, 1, 2
BATCHED_FROM = 4
SHARE_FROM = 6
NOBODY = {"node_id": -1, "host": "", "port": -1}


@API
async def find_coordinator(request: Any, ctx: Context) -> Any:
    """One answer per key, in the order asked; before v4 the one key's answer is the response itself."""
    if ctx.version >= BATCHED_FROM:
        return Response(
            coordinators=[
                Coordinator(key=key, **locate(key, request.key_type, ctx)) for key in request.coordinator_keys
            ]
        )
    return Response(**locate(request.key, request.key_type, ctx))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every key gets the error."""
    wrong = failure(error)
    if version >= BATCHED_FROM:
        return Response(coordinators=[Coordinator(key=key, **wrong) for key in request.coordinator_keys])
    return Response(**wrong)


def locate(key: str, key_type: int, ctx: Context) -> dict[str, Any]:
    """Node id, host and port of the key's worker, or the error fields."""
    try:
        check(key, key_type, ctx.version)
        worker = ctx.engine.workers.coordinator(key)
    except KafkaError as refusal:
        return failure(refusal)
    return {"node_id": worker.node_id, "host": worker.host, "port": worker.port}


def check(key: str, key_type: int, version: int) -> None:
    """Refuses key types that this version does not have, and share keys of the wrong shape."""
    newest = SHARE if version >= SHARE_FROM else TRANSACTION
    if not GROUP <= key_type <= newest:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"{key_type} is not a coordinator key type of version {version}.")
    if key_type == SHARE and not share_partition(key):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"{key!r} is not GROUP:TOPIC_ID:PARTITION.")


def share_partition(key: str) -> bool:
    """True for `group:topic id:partition`; the group itself may hold colons."""
    group, _, rest = key.rpartition(":")[0].rpartition(":")
    index = key.rpartition(":")[2]
    return bool(group) and topic_id(rest) is not None and index.isdecimal()


def topic_id(text: str) -> UUID | None:
    """Kafka writes ids as 22 characters of unpadded URL-safe base64."""
    try:
        return UUID(bytes=urlsafe_b64decode(text + "==")) if len(text) == 22 else None
    except ValueError:
        return None


def failure(error: KafkaError) -> dict[str, Any]:
    """The error fields of one key, naming no node."""
    return {**NOBODY, "error_code": error.code, "error_message": error.message}
