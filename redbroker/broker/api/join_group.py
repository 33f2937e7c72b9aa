"""JoinGroup: a member asks to be in a group, and waits until the group's new generation begins.

* The wait ends by the event it waits for: the last member joined, the initial rebalance delay or the rebalance timeout
  is over, or the member left. It blocks only the later answers of its own connection: requests behind it are worked
  on (a LeaveGroup of the same member ends the wait). A worker that drains ends it with NOT_COORDINATOR, and the client
  goes on elsewhere as the same member.
* From v4 on a member without an id gets one with MEMBER_ID_REQUIRED and comes back (KIP-394), so that a client which
  dies in between leaves nothing behind. Older clients never hear of that error: they join at once, and when such a
  client is lost before it was told its id, the member nobody can be is removed.
* v1 adds the rebalance timeout (v0: the session timeout), v2 throttle_time_ms, v5 group.instance.id (KIP-345), v6 is
  flexible, v7 adds the protocol type and allows a null protocol name, v8 a reason (KIP-800), v9 skip_assignment
  (KIP-814). Member metadata is opaque here: whatever the bytes are, only the group's leader reads them.
* Refused: INVALID_GROUP_ID, INVALID_SESSION_TIMEOUT, INCONSISTENT_GROUP_PROTOCOL, UNKNOWN_MEMBER_ID,
  FENCED_INSTANCE_ID, GROUP_MAX_SIZE_REACHED; protocol name and leader are then empty (v7+: a null name), as Kafka's.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from uuid import uuid4

import anyio

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import answered, check_group_id, told
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.classic_group import Joined, JoinGroup, Leave, LeaveGroup

API = api(
    key=11,
    name="JoinGroup",
    versions="0-9",
    flexible="6+",
    parks=True,
    request="""
        group_id               str
        session_timeout_ms     i32
        rebalance_timeout_ms   i32    1+  =-1
        member_id              str
        group_instance_id      str    5+  ?5+  =null
        protocol_type          str
        protocols              []
            name               str
            metadata           bytes
        reason                 str    8+  ?8+  =null
    """,
    response="""
        throttle_time_ms       i32    2+
        error_code             i16
        generation_id          i32    =-1
        protocol_type          str    7+  ?7+  =null
        protocol_name          str    0+  ?7+
        leader                 str
        skip_assignment        bool   9+
        member_id              str
        members                []
            member_id          str
            group_instance_id  str    5+  ?5+  =null
            metadata           bytes
    """,
)
Response = API.Response
Member = API.response.struct("members")

KNOWN_ID_FROM = 4
NULL_NAME_FROM = 7
SKIP_FROM = 9
NAME_CHARACTERS_MAX = 200
"""Of a client id or instance id, in the member id made from it."""
FORGET_S = 5.0


@API
async def join_group(request: Any, ctx: Context) -> Any:
    """One event for the group's machine, and its answer, however long that takes."""
    check_group_id(request.group_id)
    event = event_of(request, ctx)
    unknown_to_client = not request.member_id and ctx.version < KNOWN_ID_FROM and not event.instance_id
    try:
        joined: Joined = await answered(ctx.engine.groups.ask(request.group_id, event), ctx)
    except (asyncio.CancelledError, KafkaError) as ended:
        if unknown_to_client and (not isinstance(ended, KafkaError) or ended.code == ErrorCode.NOT_COORDINATOR):
            await forget(request.group_id, event.new_member_id, ctx)
        raise
    return Response(
        error_code=joined.error,
        generation_id=joined.generation,
        protocol_type=joined.protocol_type,
        protocol_name=name_of(joined.protocol, ctx.version),
        leader=joined.leader,
        skip_assignment=joined.skip_assignment,
        member_id=joined.member_id,
        members=[Member(*member) for member in joined.members],
    )


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """No generation, no leader; the member keeps the id it has."""
    return Response(error_code=told(error), protocol_name=name_of(None, version), member_id=request.member_id)


def event_of(request: Any, ctx: Context) -> JoinGroup:
    """The request as the machine wants it. Byte fields are copied: they outlive the request's frame."""
    stem = (request.group_instance_id or ctx.client_id or "member")[:NAME_CHARACTERS_MAX]
    return JoinGroup(
        member_id=request.member_id,
        new_member_id=f"{stem}-{uuid4()}",
        instance_id=request.group_instance_id,
        client_id=ctx.client_id or "",
        client_host=ctx.client_host,
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        protocol_type=request.protocol_type,
        protocols=tuple((each.name, bytes(each.metadata)) for each in request.protocols),
        known_id_required=ctx.version >= KNOWN_ID_FROM,
        skip_supported=ctx.version >= SKIP_FROM,
        reason=request.reason or "",
    )


async def forget(group_id: str, member_id: str, ctx: Context) -> None:
    """Remove a member whose client never learnt its id: it could only be waited for in vain."""
    # Where it cannot be removed, its session ends by itself.
    with anyio.move_on_after(FORGET_S, shield=True), contextlib.suppress(KafkaError):
        await ctx.engine.groups.change(group_id, LeaveGroup((Leave(member_id),)))


def name_of(protocol: str | None, version: int) -> str | None:
    """A missing protocol name is null from v7 on and empty before."""
    return protocol if protocol is not None or version >= NULL_NAME_FROM else ""
