"""DeleteGroups: forget groups without members, and their offsets.

* Each group has its own error: GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP (it has members), INVALID_GROUP_ID. A group named
  twice is answered once.
* v1 changes nothing, v2 is flexible.
"""

from __future__ import annotations

from typing import Any

from redbroker.broker.admin import noted
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import invalid_group_id, told
from redbroker.errors import KafkaError

API = api(
    key=42,
    name="DeleteGroups",
    versions="0-2",
    flexible="2+",
    request="""
        groups_names      []str
    """,
    response="""
        throttle_time_ms  i32
        results           []
            group_id      str
            error_code    i16
    """,
)
Response = API.Response
Result = API.response.struct("results")


@API
async def delete_groups(request: Any, ctx: Context) -> Any:
    """The groups with a possible name go to the engine in one call."""
    names = list(dict.fromkeys(request.groups_names))
    refusals = {name: invalid_group_id(name) for name in names}
    asked = [name for name in names if refusals[name] is None]
    refusals |= zip(asked, await ctx.engine.groups.delete(asked), strict=True)
    return Response(results=noted([Result(name, told(error) if error else 0) for name, error in refusals.items()], ctx))


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every group gets the error."""
    return Response(results=[Result(name, told(error)) for name in dict.fromkeys(request.groups_names)])
