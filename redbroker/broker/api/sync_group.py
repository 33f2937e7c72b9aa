"""SyncGroup: the leader brings everybody's assignment, the others wait for theirs.

* The wait is woken by the leader's SyncGroup, never by a timer, and ends with REBALANCE_IN_PROGRESS when the group
  changes meanwhile. It blocks only the later answers of its own connection; a worker that drains ends it with
  NOT_COORDINATOR.
* A member that asks again in a stable generation gets its assignment again: also from another worker than before.
* v1 adds throttle_time_ms, v3 group.instance.id (KIP-345), v4 is flexible, v5 the protocol type and name, which must
  be the group's when they are told (INCONSISTENT_GROUP_PROTOCOL).
* Refused: INVALID_GROUP_ID, UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID, REBALANCE_IN_PROGRESS.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import answered, check_group_id, told
from redbroker.errors import KafkaError
from redbroker.machines.classic_group import Synced, SyncGroup

API = api(
    key=14,
    name="SyncGroup",
    versions="0-5",
    flexible="4+",
    parks=True,
    request="""
        group_id           str
        generation_id      i32
        member_id          str
        group_instance_id  str    3+  ?3+  =null
        protocol_type      str    5+  ?5+  =null
        protocol_name      str    5+  ?5+  =null
        assignments        []
            member_id      str
            assignment     bytes
    """,
    response="""
        throttle_time_ms   i32    1+
        error_code         i16
        protocol_type      str    5+  ?5+  =null
        protocol_name      str    5+  ?5+  =null
        assignment         bytes
    """,
)
Response = API.Response


@API
async def sync_group(request: Any, ctx: Context) -> Any:
    """One event for the group's machine, and its answer, however long that takes."""
    check_group_id(request.group_id)
    event = SyncGroup(
        member_id=request.member_id,
        generation=request.generation_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol=request.protocol_name,
        assignments=tuple((each.member_id, bytes(each.assignment)) for each in request.assignments),
    )
    synced: Synced = await answered(ctx.engine.groups.ask(request.group_id, event), ctx)
    return Response(protocol_type=synced.protocol_type, protocol_name=synced.protocol, assignment=synced.assignment)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """No assignment."""
    return Response(error_code=told(error))
