"""ConsumerGroupHeartbeat: members of KIP-848 groups join, leave, stay, and learn what to read, all by this request.

* A heartbeat that brings nothing new costs one small script, no load of the group. Only when there is something to
  tell the member, or it tells something, the group's machine runs.
* Member epochs: 0 joins, -1 leaves, -2 leaves for a while (static members), others are the last one told. A join tells
  everything and owns nothing; null and -1 otherwise mean unchanged. What is malformed is INVALID_REQUEST.
* An empty SubscribedTopicRegex is no pattern (librdkafka sends it always). Patterns are RE2's and match whole names.
* The answer names the partitions to read when they changed, and to those that tell everything. A member that waits for
  partitions of others is told to come back sooner than the others (group_consumer_settle_interval_ms).
* Topics that were created, grown or deleted since the group last looked are taken in by the next heartbeat.
* A heartbeat of epoch > 0 to a group nobody knows is UNKNOWN_MEMBER_ID, which makes clients rejoin; Kafka's
  GROUP_ID_NOT_FOUND would make them give up.
* v1 has the client make its member id and adds SubscribedTopicRegex; in v0 the coordinator makes the id.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from redbroker.broker.admin import sentence
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.group_requests import invalid_group_id, told
from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.assignors import Partitions
from redbroker.machines.consumer_group import ConsumerHeartbeat
from redbroker.machines.reconciliation import LEAVE_STATIC, partitions_to_json

API = api(
    key=68,
    name="ConsumerGroupHeartbeat",
    versions="0-1",
    flexible="0+",
    request="""
        group_id                 str    0+
        member_id                str    0+
        member_epoch             i32    0+
        instance_id              str    0+  ?0+  =null
        rack_id                  str    0+  ?0+  =null
        rebalance_timeout_ms     i32    0+  =-1
        subscribed_topic_names   []str  0+  ?0+  =null
        subscribed_topic_regex   str    1+  ?1+  =null
        server_assignor          str    0+  ?0+  =null
        topic_partitions         []     0+  ?0+  =null
            topic_id             uuid   0+
            partitions           []i32  0+
    """,
    response="""
        throttle_time_ms         i32    0+
        error_code               i16    0+
        error_message            str    0+  ?0+  =null
        member_id                str    0+  ?0+  =null
        member_epoch             i32    0+
        heartbeat_interval_ms    i32    0+
        assignment               {}     0+  ?0+  =null
            topic_partitions     []     0+
                topic_id         uuid   0+
                partitions       []i32  0+
    """,
)
Response = API.Response
Assignment = API.response.struct("assignment")
TopicPartitions = API.response.struct("assignment.topic_partitions")

OWN_ID_FROM = 1
NAME_CHARACTERS_MAX = 4_096
"""Of a member id, instance id, rack id: they are kept with the group."""


@API
async def consumer_group_heartbeat(request: Any, ctx: Context) -> Any:
    """Checked here, heard by the engine."""
    if wrong := fault(request, ctx.version, ctx.settings):
        raise KafkaError(ErrorCode.INVALID_REQUEST, wrong)
    heard = await ctx.engine.heartbeats.hear(request.group_id, event_of(request, ctx))
    return Response(
        member_id=told_id(heard.member_id, heard.member_epoch, ctx.version),
        member_epoch=heard.member_epoch,
        heartbeat_interval_ms=interval_ms(ctx.settings, heard.settled),
        assignment=None if heard.assigned is None else assignment_of(heard.assigned),
    )


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """Every error is the whole answer."""
    return Response(error_code=told(error), error_message=sentence(error))


def fault(request: Any, version: int, settings: Settings) -> str | None:
    """What is wrong with the request's shape, as a sentence, or None."""
    epoch = request.member_epoch
    names = (request.member_id, request.instance_id, request.rack_id)
    if invalid_group_id(request.group_id):
        return "A group id is 1 to 32,767 bytes of UTF-8 without NUL."
    if request.instance_id == "" or request.rack_id == "":
        return "An instance id or a rack id is null or not empty."
    if any(name is not None and (len(name) > NAME_CHARACTERS_MAX or "\0" in name) for name in names):
        return f"Member, instance and rack ids have {NAME_CHARACTERS_MAX} characters at most, and no NUL."
    if not request.member_id and (version >= OWN_ID_FROM or epoch != 0):
        return "The member id is missing."
    if sum(map(len, request.subscribed_topic_names or ())) > settings.group_member_bytes_max:
        return "The topic names exceed group_member_bytes_max."
    if epoch == 0:
        return join_fault(request)
    if epoch == LEAVE_STATIC and request.instance_id is None:
        return "Only static members leave for a while."
    if epoch < LEAVE_STATIC:
        return f"{epoch} is not a member epoch."
    return None


def join_fault(request: Any) -> str | None:
    """What is wrong with a join, which must tell everything."""
    if request.rebalance_timeout_ms < 0:
        return "A join must tell the rebalance timeout."
    if request.topic_partitions is None or request.topic_partitions:
        return "A join must tell that the member owns no partitions."
    if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
        return "A join must tell the topics, by names or by a pattern."
    return None


def event_of(request: Any, ctx: Context) -> ConsumerHeartbeat:
    """The request as the machine wants it."""
    names, owned = request.subscribed_topic_names, request.topic_partitions
    return ConsumerHeartbeat(
        member_id=request.member_id or str(uuid4()),
        member_epoch=request.member_epoch,
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        topics=None if names is None else tuple(names),
        pattern=request.subscribed_topic_regex,
        assignor=request.server_assignor,
        owned=None if owned is None else owned_by(owned),
        client_id=ctx.client_id or "",
        client_host=ctx.client_host,
        catalogue=ctx.engine.topics.all(),
    )


def owned_by(topic_partitions: Any) -> Partitions:
    """The partitions a member says it reads."""
    return frozenset((each.topic_id.hex, number) for each in topic_partitions for number in each.partitions)


def assignment_of(partitions: Partitions) -> Any:
    """The partitions a member shall read, by topic id."""
    return Assignment(
        topic_partitions=[
            TopicPartitions(topic_id=UUID(topic), partitions=numbers)
            for topic, numbers in partitions_to_json(partitions).items()
        ]
    )


def told_id(member_id: str, epoch: int, version: int) -> str | None:
    """The member's id, left out where the client made it and the byte behind it is not zero.

    librdkafka (2.16, at least) reads the id up to the next zero byte, which it takes from the epoch that follows.
    Epochs are that large in groups that once were classic.
    """
    return member_id if version < OWN_ID_FROM or 0 <= epoch < 1 << 24 else None


def interval_ms(settings: Settings, settled: bool) -> int:
    """When the member shall come back."""
    if settled:
        return settings.group_consumer_heartbeat_interval_ms
    return min(settings.group_consumer_settle_interval_ms, settings.group_consumer_heartbeat_interval_ms)
