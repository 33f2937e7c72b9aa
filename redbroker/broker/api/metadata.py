"""Metadata: the live workers, the topics, and which worker to ask for which partition.

* All topics: an empty list in v0, null from v1 on, where an empty list means none.
* An unknown topic is created when the broker's settings and (v4+) the request allow it: synchronously, so that the
  answer already names leaders, and race-safe between workers. Otherwise UNKNOWN_TOPIC_OR_PARTITION. A name Kafka would
  not allow is INVALID_TOPIC_EXCEPTION either way. Where storage keeps a topic from being made: LEADER_NOT_AVAILABLE.
* Topic ids are told from v10 on and may be asked for from v12 on (id set, name null); an unknown one is
  UNKNOWN_TOPIC_ID, never created. v10 and v11 requests that name an id or no name are INVALID_REQUEST, as in Kafka.
* The leader is a routing hint (any worker serves any partition): rendezvous hashing over the live workers, the same on
  all of them. It is the only replica and the only one in sync: with every worker listed, the death of one would
  look like an under-replicated cluster in every tool, while nothing is lost; copies are Redis's business.
* Leader epochs (v7+) are the partitions' own, remembered for a second (`broker.leader_epochs`): identical on every
  worker that can read them, never lowered, -1 when unknown. While Redis is away the answer comes from the caches.
* v1 adds racks, the controller and is_internal; v2 the cluster id; v3 the throttle time; v5 offline replicas; v8 the
  authorized operations (always "not asked for": there are no ACLs); v9 is flexible; v13 adds a top-level error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redbroker.broker.admin import for_each
from redbroker.broker.api import api
from redbroker.broker.context import Context
from redbroker.broker.lookup import find_topic
from redbroker.engine.topics import Topic, check_name
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.schema import NULL_UUID

API = api(
    key=3,
    name="Metadata",
    versions="0-13",
    flexible="9+",
    request="""
        topics                                  []     ?1+  =null
            topic_id                            uuid   10+
            name                                str    ?10+
        allow_auto_topic_creation               bool   4+   =true
        include_cluster_authorized_operations   bool   8-10
        include_topic_authorized_operations     bool   8+
    """,
    response="""
        throttle_time_ms                        i32    3+
        brokers                                 []
            node_id                             i32
            host                                str
            port                                i32
            rack                                str    1+   ?1+  =null
        cluster_id                              str    2+   ?2+  =null
        controller_id                           i32    1+   =-1
        topics                                  []
            error_code                          i16
            name                                str    ?12+
            topic_id                            uuid   10+
            is_internal                         bool   1+
            partitions                          []
                error_code                      i16
                partition_index                 i32
                leader_id                       i32
                leader_epoch                    i32    7+   =-1
                replica_nodes                   []i32
                isr_nodes                       []i32
                offline_replicas                []i32  5+
            topic_authorized_operations         i32    8+   =-2147483648
        cluster_authorized_operations           i32    8-10 =-2147483648
        error_code                              i16    13+
    """,
)
Response = API.Response
Broker = API.response.struct("brokers")
TopicMetadata = API.response.struct("topics")
Partition = API.response.struct("topics.partitions")

NULL_MEANS_ALL_FROM = 1
EPOCHS_FROM = 7
IDS_ASKED_FROM = 12
INTERNAL = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})


@API
async def metadata(request: Any, ctx: Context) -> Any:
    """The cluster as this worker knows it; asks Redis only for leader epochs and for topics to be created."""
    workers = ctx.engine.workers
    if not workers.live():
        raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, "No worker is alive.")
    found = await find(request, ctx)
    topics = [one for one in found if isinstance(one, Topic)]
    epochs = await ctx.server.leader_epochs.of(topics) if ctx.version >= EPOCHS_FROM else [()] * len(topics)
    by_id = {topic.id: each for topic, each in zip(topics, epochs, strict=True)}
    return Response(
        brokers=[Broker(worker.node_id, worker.host, worker.port, worker.rack) for worker in workers.named()],
        cluster_id=ctx.engine.cluster_id,
        controller_id=workers.controller().node_id,
        topics=[describe(one, by_id[one.id], ctx) if isinstance(one, Topic) else one for one in found],
    )


@API.refuse
def refuse(request: Any, error: KafkaError, version: int) -> Any:
    """The whole request failed: every named topic gets the error, and the answer itself from v13 on."""
    return Response(error_code=error.code, topics=[refused(one, error.code, version) for one in request.topics or ()])


async def find(request: Any, ctx: Context) -> Sequence[Any]:
    """The topics asked for, each a `Topic` or the metadata that tells its error."""
    if request.topics is None or (ctx.version < NULL_MEANS_ALL_FROM and not request.topics):
        return list(ctx.engine.topics.all().values())
    if ctx.version < IDS_ASKED_FROM and any(one.name is None or one.topic_id != NULL_UUID for one in request.topics):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Version {ctx.version} of Metadata cannot ask by topic id.")
    create = ctx.settings.auto_create_topics and request.allow_auto_topic_creation
    # A topic asked for twice is answered once: clients keep the answers in a map.
    asked = {(one.topic_id, None if one.topic_id != NULL_UUID else one.name): one for one in request.topics}

    async def one_topic(one: Any) -> Any:
        try:
            return await resolve(one, create, ctx)
        except KafkaError as refusal:
            return refused(one, retriable_as_leaderless(refusal.code), ctx.version)

    return await for_each(list(asked.values()), one_topic)


async def resolve(one: Any, create: bool, ctx: Context) -> Topic:
    """The topic of one request entry, created when it may be; KafkaError tells why there is none."""
    topics = ctx.engine.topics
    by_id = one.topic_id != NULL_UUID
    if one.name is None and not by_id:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "Neither a topic id nor a name was given.")
    if not by_id:
        check_name(one.name)
    topic = await (topics.ensure(one.name) if create and not by_id else find_topic(topics, one.name, one.topic_id))
    if topic is None:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    return topic


def retriable_as_leaderless(code: ErrorCode) -> ErrorCode:
    """A topic that cannot be made just now has no leader yet: the one word for it that all clients retry on."""
    if code.retriable and code not in (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID):
        return ErrorCode.LEADER_NOT_AVAILABLE
    return code


def refused(one: Any, code: ErrorCode, version: int) -> Any:
    """One topic's error; a null name is told as such only where the version knows it."""
    name = one.name if one.name is not None or version >= IDS_ASKED_FROM else ""
    return TopicMetadata(error_code=code, name=name, topic_id=one.topic_id)


def describe(topic: Topic, epochs: Sequence[int], ctx: Context) -> Any:
    """One existing topic with its leaders."""
    epochs = epochs or (-1,) * topic.partitions
    leader = ctx.engine.workers.leader
    partitions = []
    for index, epoch in enumerate(epochs[: topic.partitions]):
        node = [leader(topic.name, index).node_id]
        partitions.append(Partition(ErrorCode.NONE, index, node[0], epoch, node, node))
    return TopicMetadata(name=topic.name, topic_id=topic.id, is_internal=topic.name in INTERNAL, partitions=partitions)
