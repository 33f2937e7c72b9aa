"""Heartbeat: a member says it is alive, and hears whether its group is rebalancing.

* One small script on the group's heartbeats: the group's value is neither loaded nor changed, so any worker answers,
  and a dead coordinator's members go on at another worker with the same generation.
* Checked as Kafka checks: UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID (another member has taken over the
  group.instance.id), REBALANCE_IN_PROGRESS while members are to join again.
* v1 adds throttle_time_ms, v3 the group.instance.id (KIP-345), v4 is flexible.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import check_group_id, told
from redbroker.errors import KafkaError
from redbroker.machines.classic_group import Heartbeat as HeartbeatEvent

API = api(
    key=12,
    name="Heartbeat",
    versions="0-4",
    flexible="4+",
    request="""
        group_id           str
        generation_id      i32
        member_id          str
        group_instance_id  str  3+  ?3+  =null
    """,
    response="""
        throttle_time_ms   i32  1+
        error_code         i16
    """,
)
Response = API.Response


@API
async def heartbeat(request: Any, ctx: Context) -> Any:
    """Alive, or told why not by `refuse`."""
    check_group_id(request.group_id)
    group, member = request.group_id, (request.member_id, request.generation_id, request.group_instance_id)
    if not await ctx.engine.groups.beat(group, *member):  # in a consumer group: its machine tells what there is to tell
        await ctx.engine.groups.ask(group, HeartbeatEvent(*member))
    return Response()


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """Every error is the whole answer."""
    return Response(error_code=told(error))
