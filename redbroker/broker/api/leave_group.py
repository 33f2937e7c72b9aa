"""LeaveGroup: members leave at once, so that the others need not wait for the end of their sessions.

* A member's parked JoinGroup or SyncGroup ends with UNKNOWN_MEMBER_ID, also one on the same connection.
* v0-2 name one member, and its error is the answer's. v3 names many, by member id or by group.instance.id with an empty
  member id (an operator removes a static member, KIP-345); each has its own error: UNKNOWN_MEMBER_ID,
  FENCED_INSTANCE_ID. Members of the consumer protocol can be removed like this, too.
* v1 adds throttle_time_ms, v4 is flexible, v5 adds a reason (KIP-800).
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import check_group_id, told
from redbroker.errors import KafkaError
from redbroker.machines.classic_group import Leave, LeaveGroup, Left

API = api(
    key=13,
    name="LeaveGroup",
    versions="0-5",
    flexible="4+",
    request="""
        group_id               str
        member_id              str  0-2
        members                []   3+
            member_id          str  3+
            group_instance_id  str  3+  ?3+  =null
            reason             str  5+  ?5+  =null
    """,
    response="""
        throttle_time_ms       i32  1+
        error_code             i16
        members                []   3+
            member_id          str  3+
            group_instance_id  str  3+  ?3+  =null
            error_code         i16  3+
    """,
)
Response = API.Response
Member = API.response.struct("members")

MANY_FROM = 3


@API
async def leave_group(request: Any, ctx: Context) -> Any:
    """All leave in one change of the group."""
    check_group_id(request.group_id)
    if ctx.version < MANY_FROM:
        leavers: tuple[Leave, ...] = (Leave(request.member_id),)
    else:
        leavers = tuple(Leave(each.member_id, each.group_instance_id, each.reason or "") for each in request.members)
    left: Left = await ctx.engine.groups.ask(request.group_id, LeaveGroup(leavers))
    if ctx.version < MANY_FROM:
        return Response(error_code=left.errors[0])
    ctx.error_code = next((error for error in left.errors if error), 0)
    return Response(
        members=[
            Member(leaver.member_id, leaver.instance_id, error)
            for leaver, error in zip(leavers, left.errors, strict=True)
        ]
    )


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """Nobody left; the error of all is the answer's."""
    return Response(error_code=told(error))
