"""DescribeGroups: state, protocol and members of classic groups.

* A group nobody knows is told as Dead: without an error before v6, with GROUP_ID_NOT_FOUND and a sentence from v6 on
  (KIP-1043). So is a KIP-848 group, which ConsumerGroupDescribe describes.
* Subscription and assignment bytes of the members are told in a stable group, as in Kafka: meanwhile they are in
  motion. They are what the clients sent, never read here.
* A group named twice is described once. An answer is bounded by fetch_bytes_max: groups beyond that are refused with
  INVALID_REQUEST and can be asked for by themselves.
* v1 adds throttle_time_ms, v3 authorized_operations (KIP-430), v4 group.instance.id, v5 is flexible, v6 error_message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redbroker.broker.admin import sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import GROUP_OPERATIONS, invalid_group_id, told
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=15,
    name="DescribeGroups",
    versions="0-6",
    flexible="5+",
    in_turn=True,
    request="""
        groups                         []str
        include_authorized_operations  bool   3+
    """,
    response="""
        throttle_time_ms               i32    1+
        groups                         []
            error_code                 i16
            error_message              str    6+  ?6+  =null
            group_id                   str
            group_state                str
            protocol_type              str
            protocol_data              str
            members                    []
                member_id              str
                group_instance_id      str    4+  ?4+  =null
                client_id              str
                client_host            str
                member_metadata        bytes
                member_assignment      bytes
            authorized_operations      i32    3+  =-2147483648
    """,
)
Response = API.Response
Described = API.response.struct("groups")
Member = API.response.struct("groups.members")

NOT_FOUND_FROM = 6
STABLE, DEAD = "Stable", "Dead"
CHUNK = 50
"""Groups loaded at a time: a group may hold megabytes of its members' metadata."""


@API
async def describe_groups(request: Any, ctx: Context) -> Any:
    """Chunk by chunk, until all are described or the answer is as large as answers get."""
    names = list(dict.fromkeys(request.groups))
    answers: list[Any] = []
    left_bytes = ctx.settings.fetch_bytes_max
    for chunk in chunks(names):
        if left_bytes <= 0:
            answers += [refused(name, TOO_MUCH, ctx.version) for name in chunk]
            continue
        described = await describe(chunk, ctx)
        left_bytes -= sum(nbytes(each) for each in described)
        answers += described
    if request.include_authorized_operations:
        for answer in answers:
            answer.authorized_operations = GROUP_OPERATIONS
    ctx.error_code = next((answer.error_code for answer in answers if answer.error_code), 0)
    return Response(groups=answers)


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every group gets the error."""
    return Response(groups=[refused(name, error, version) for name in dict.fromkeys(request.groups)])


TOO_MUCH = KafkaError(ErrorCode.INVALID_REQUEST, "These groups are too much for one answer: ask for fewer at once.")


def chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """The names, `CHUNK` at a time."""
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]


async def describe(names: Sequence[str], ctx: Context) -> list[Any]:
    """An answer for each name."""
    wrong = {name: refusal for name in names if (refusal := invalid_group_id(name))}
    asked = [name for name in names if name not in wrong]
    found = dict(zip(asked, await ctx.engine.groups.describe(asked), strict=True))
    answers = []
    for name in names:
        group = wrong.get(name) or found[name]
        if isinstance(group, KafkaError):
            answers.append(refused(name, group, ctx.version))
        elif group is None:
            answers.append(missing(name, f"Group {name} not found.", ctx.version))
        elif group.type != "classic":
            answers.append(missing(name, f"Group {name} is not a classic group.", ctx.version))
        else:
            answers.append(told_of(name, group))
    return answers


def told_of(name: str, group: Any) -> Any:
    """A classic group as Kafka tells it."""
    stable = group.phase == STABLE
    protocol = group.protocol if stable and group.protocol else ""
    return Described(
        group_id=name,
        group_state=group.phase,
        protocol_type=group.protocol_type,
        protocol_data=protocol,
        members=[
            Member(
                member_id=member.id,
                group_instance_id=member.instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                member_metadata=dict(member.protocols).get(protocol, b"") if stable else b"",
                member_assignment=member.assignment if stable else b"",
            )
            for member in group.members.values()
        ],
    )


def missing(name: str, why: str, version: int) -> Any:
    """A group that is not there: an error only from v6 on."""
    if version < NOT_FOUND_FROM:
        return Described(group_id=name, group_state=DEAD)
    return refused(name, KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, why), version)


def refused(name: str, error: KafkaError, version: int) -> Any:
    """A group that could not be described."""
    state = DEAD if error.code == ErrorCode.GROUP_ID_NOT_FOUND else ""
    return Described(error_code=told(error), error_message=sentence(error), group_id=name, group_state=state)


def nbytes(described: Any) -> int:
    """About how many bytes a described group takes in the answer."""
    return 100 + sum(100 + len(each.member_metadata) + len(each.member_assignment) for each in described.members)
