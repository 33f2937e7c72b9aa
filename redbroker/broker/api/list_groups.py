"""ListGroups: every group there is, from whichever worker is asked.

* Groups live in Redis, so each worker lists all of them (Kafka's brokers list their own): clients that ask every
  broker and put the answers together see each group once.
* v1 adds throttle_time_ms, v3 is flexible, v4 the group's state and a filter by states (KIP-518), v5 its type and a
  filter by types (KIP-848). Filters ignore case; a state or type that does not exist matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import told
from redbroker.errors import KafkaError

API = api(
    key=16,
    name="ListGroups",
    versions="0-5",
    flexible="3+",
    request="""
        states_filter     []str  4+
        types_filter      []str  5+
    """,
    response="""
        throttle_time_ms  i32    1+
        error_code        i16
        groups            []
            group_id      str
            protocol_type str
            group_state   str    4+
            group_type    str    5+
    """,
)
Response = API.Response
Group = API.response.struct("groups")

STATES = ("Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Assigning", "Reconciling", "Dead")
TYPES = ("classic", "consumer")


@API
async def list_groups(request: Any, ctx: Context) -> Any:
    """Sorted by name, so that two answers can be compared."""
    states, types = known(request.states_filter, STATES), known(request.types_filter, TYPES)
    if (request.states_filter and not states) or (request.types_filter and not types):
        return Response()
    listed = await ctx.engine.groups.list(types, states)
    return Response(groups=[Group(each.name, each.protocol_type, each.phase, each.type) for each in sorted(listed)])


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """No group."""
    return Response(error_code=told(error))


def known(asked: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of the names that are asked for, whatever their case."""
    wanted = {each.lower() for each in asked}
    return [name for name in names if name.lower() in wanted]
