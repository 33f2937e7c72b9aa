"""ConsumerGroupDescribe: epochs, members and assignments of KIP-848 groups.

* GROUP_ID_NOT_FOUND for a group that is not there or speaks the classic protocol: DescribeGroups describes those.
* A member's target assignment is what it shall read, its assignment what it may read by now. Topics that were deleted
  meanwhile are left out.
* A group named twice is described once. An answer is bounded by fetch_bytes_max: groups beyond that are refused with
  INVALID_REQUEST and can be asked for by themselves.
* v1 adds the member type: 0 speaks the classic protocol (while a group is being upgraded), 1 the consumer protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from redbroker.broker.admin import sentence
from redbroker.broker.api import api
from redbroker.broker.api.describe_groups import TOO_MUCH, chunks
from redbroker.broker.context import Context
from redbroker.broker.group_requests import GROUP_OPERATIONS, invalid_group_id, told
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.assignors import NONE, Partitions
from redbroker.machines.consumer_group import Group
from redbroker.machines.reconciliation import partitions_to_json

API = api(
    key=69,
    name="ConsumerGroupDescribe",
    versions="0-1",
    flexible="0+",
    in_turn=True,
    request="""
        group_ids                      []str  0+
        include_authorized_operations  bool   0+
    """,
    response="""
        throttle_time_ms               i32    0+
        groups                         []     0+
            error_code                 i16    0+
            error_message              str    0+  ?0+  =null
            group_id                   str    0+
            group_state                str    0+
            group_epoch                i32    0+
            assignment_epoch           i32    0+
            assignor_name              str    0+
            members                    []     0+
                member_id              str    0+
                instance_id            str    0+  ?0+  =null
                rack_id                str    0+  ?0+  =null
                member_epoch           i32    0+
                client_id              str    0+
                client_host            str    0+
                subscribed_topic_names []str  0+
                subscribed_topic_regex str    0+  ?0+  =null
                assignment             {}     0+
                    topic_partitions   []     0+
                        topic_id       uuid   0+
                        topic_name     str    0+
                        partitions     []i32  0+
                target_assignment      {}     0+
                    topic_partitions   []     0+
                        topic_id       uuid   0+
                        topic_name     str    0+
                        partitions     []i32  0+
                member_type            i8     1+  =-1
            authorized_operations      i32    0+  =-2147483648
    """,
)
Response = API.Response
Described = API.response.struct("groups")
Member = API.response.struct("groups.members")

CLASSIC_MEMBER, CONSUMER_MEMBER = 0, 1


@API
async def consumer_group_describe(request: Any, ctx: Context) -> Any:
    """Chunk by chunk, until all are described or the answer is as large as answers get."""
    answers: list[Any] = []
    left_bytes = ctx.settings.fetch_bytes_max
    for chunk in chunks(list(dict.fromkeys(request.group_ids))):
        if left_bytes <= 0:
            answers += [refused(name, TOO_MUCH) for name in chunk]
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
    return Response(groups=[refused(name, error) for name in dict.fromkeys(request.group_ids)])


async def describe(names: Sequence[str], ctx: Context) -> list[Any]:
    """An answer for each name."""
    wrong = {name: refusal for name in names if (refusal := invalid_group_id(name))}
    asked = [name for name in names if name not in wrong]
    found = dict(zip(asked, await ctx.engine.groups.describe(asked), strict=True))
    answers = []
    for name in names:
        group = wrong.get(name) or found[name]
        if isinstance(group, KafkaError):
            answers.append(refused(name, group))
        elif isinstance(group, Group):
            answers.append(told_of(name, group))
        else:
            why = "is not a consumer group" if group else "not found"
            answers.append(refused(name, KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {name} {why}.")))
    return answers


def told_of(name: str, group: Group) -> Any:
    """A consumer group as Kafka tells it."""
    topic_names = {known.id: topic for topic, known in group.topics.items()}
    return Described(
        group_id=name,
        group_state=group.phase,
        group_epoch=group.epoch,
        assignment_epoch=group.epoch,
        assignor_name=group.assignor,
        members=[
            Member(
                member_id=member.id,
                instance_id=member.instance_id,
                rack_id=member.rack_id,
                member_epoch=member.epoch,
                client_id=member.client_id,
                client_host=member.client_host,
                subscribed_topic_names=list(member.topics),
                subscribed_topic_regex=member.pattern or None,
                assignment=assignment_of("assignment", member.assigned, topic_names),
                target_assignment=assignment_of("target_assignment", group.target.get(member.id, NONE), topic_names),
                member_type=CLASSIC_MEMBER if member.classic else CONSUMER_MEMBER,
            )
            for member in group.members.values()
        ],
    )


def assignment_of(field: str, partitions: Partitions, topic_names: Mapping[str, str]) -> Any:
    """One of a member's two assignments, each a struct of its own."""
    TopicPartitions = API.response.struct(f"groups.members.{field}.topic_partitions")
    return API.response.struct(f"groups.members.{field}")(
        topic_partitions=[
            TopicPartitions(topic_id=UUID(topic), topic_name=topic_names[topic], partitions=numbers)
            for topic, numbers in partitions_to_json(partitions).items()
            if topic in topic_names
        ]
    )


def refused(name: str, error: KafkaError) -> Any:
    """A group that could not be described."""
    return Described(error_code=told(error), error_message=sentence(error), group_id=name)


def nbytes(described: Any) -> int:
    """About how many bytes a described group takes in the answer."""
    total = 100
    for member in described.members:
        total += 200 + sum(10 + len(name) for name in member.subscribed_topic_names)
        for assignment in (member.assignment, member.target_assignment):
            total += sum(30 + 4 * len(each.partitions) for each in assignment.topic_partitions)
    return total
