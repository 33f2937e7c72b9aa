"""What a scrape tells beside the worker's own counts: partitions, groups and Redis, read when asked, kept for a while.

Each figure of the cluster is told by one worker: a partition's by its leader, a group's by its coordinator, a Redis
node's by its owner under the same rendezvous hashing, cluster-wide counts by the controller. So `sum()` over all
workers is right, and the work is spread. While leaders move, a series may show twice, or not at all, for
`metrics_age_ms`.

A scrape waits `metrics_timeout_ms` at most; when Redis has not answered by then it tells what was known, and
`redbroker_redis_up 0`. Nothing is read while nobody scrapes.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING

from redbroker.broker.redis_figures import write_nodes
from redbroker.engine.counts import JanitorCounts
from redbroker.errors import KafkaError
from redbroker.metrics import Text, labelled

if TYPE_CHECKING:
    from redbroker.broker.context import Broker
    from redbroker.engine.survey import GroupState, PartitionState
    from redbroker.engine.topics import Topic
    from redbroker.types import TopicPartition

__all__ = ["Observer"]

log = logging.getLogger(__name__)


class Observer:
    """Gives the text of one scrape of one worker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known = b""
        self._known_s = float("-inf")
        self._up = False
        self._reading: asyncio.Task[None] | None = None

    async def text(self) -> bytes:
        """Everything, fresh enough; never fails and never waits long."""
        settings = self._broker.settings
        if time.monotonic() - self._known_s >= settings.metrics_age_ms / 1000:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
            done, _ = await asyncio.wait({self._reading}, timeout=settings.metrics_timeout_ms / 1000)
            if not done:
                self._up = False
        return self._broker.metrics.text() + self._own() + self._known

    def close(self) -> None:
        """Give up a reading under way."""
        if self._reading is not None:
            self._reading.cancel()

    def _own(self) -> bytes:
        text, broker = Text(), self._broker
        told = labelled(
            version=version("redbroker"), python=platform.python_version(), node_id=broker.node_id,
            rack=broker.settings.rack or "",
        )  # fmt: skip
        text.family("redbroker_worker_info", "gauge", "What runs here.", [(told, 1)])
        text.family("redbroker_redis_up", "gauge", "Whether every Redis master answered.", [("", int(self._up))])
        if self._known_s > 0:
            age_s = time.monotonic() - self._known_s
            text.family("redbroker_observation_age_seconds", "gauge", "Age of the figures of Redis.", [("", age_s)])
        rebalances = list(broker.engine.groups.rebalances.items())[: broker.settings.metrics_groups_max]
        text.family(
            "redbroker_group_rebalances_total", "counter", "Generations or group epochs begun by this worker.",
            [(labelled(group=name), count) for name, count in rebalances],
        )  # fmt: skip
        broker.engine.storage.cells.write(text)
        write_janitor(text, broker.engine.janitor.counts)
        return text.encode()

    async def _read(self) -> None:
        try:
            self._up, self._known = await observe(self._broker)
            self._known_s = time.monotonic()
        except KafkaError as away:
            self._up = False
            log.debug("Redis could not be observed: %s", away)
        except Exception:
            self._up = False
            log.exception("Redis could not be observed")
        finally:
            self._reading = None


async def observe(broker: Broker) -> tuple[bool, bytes]:
    """Whether all of Redis answered, and the families of what this worker has to tell of it."""
    engine, settings = broker.engine, broker.settings
    workers, text = engine.workers, Text()
    own = workers.node_id
    nodes = await engine.survey.nodes()
    up = all(node is not None for node in nodes.values())
    if own < 0 or not workers.live():
        return up, b""
    led = [
        (topic, number)
        for topic in engine.topics.all().values()
        for number in range(topic.partitions)
        if workers.leader(topic.name, number).node_id == own
    ]
    groups = [name for name in list(engine.groups.noted) if workers.coordinator(name).node_id == own]
    cut = max(0, len(led) - settings.metrics_partitions_max), max(0, len(groups) - settings.metrics_groups_max)
    led, groups = led[: settings.metrics_partitions_max], groups[: settings.metrics_groups_max]
    partitions = await engine.survey.partitions(led)
    write_partitions(text, led, partitions, own, kafka_names=settings.metrics_kafka_names)
    await asyncio.sleep(0)
    await write_groups(text, broker, groups, await engine.survey.groups(groups))
    counted = [(labelled(node=at), engine.durability.replicas(slot)) for at, slot in engine.storage.slots().items()]
    text.family("redbroker_redis_replicas_counted", "gauge", "Replicas that this worker counts for acks=all.", counted)
    write_nodes(text, nodes, [address for address in nodes if workers.coordinator(f"redis:{address}").node_id == own])
    text.family(
        "redbroker_metrics_left_out", "gauge", "What is beyond metrics_partitions_max, metrics_groups_max.",
        [(labelled(kind=kind), count) for kind, count in zip(("partitions", "groups"), cut, strict=True)],
    )  # fmt: skip
    if workers.controller().node_id == own:
        text.family("redbroker_workers", "gauge", "Live workers.", [("", len(workers.live()))])
        text.family("kafka_brokers", "gauge", "Live workers.", [("", len(workers.live()))])
        text.family("redbroker_topics", "gauge", "Topics.", [("", len(engine.topics.all()))])
        text.family("redbroker_groups", "gauge", "Groups.", [("", len(engine.groups.noted))])
    return up, text.encode()


def write_janitor(text: Text, counts: JanitorCounts) -> None:
    """What this worker has trimmed and compacted."""
    for field in fields(counts):
        name, help_ = f"redbroker_janitor_{field.name}_total", f"Retention and compaction: {field.name}."
        text.family(name, "counter", help_, [("", getattr(counts, field.name))])


def write_partitions(
    text: Text,
    led: Sequence[tuple[Topic, int]],
    states: Sequence[PartitionState | None],
    own: int,
    *,
    kafka_names: bool,
) -> None:
    """The partitions this worker leads."""
    seen = [
        (labelled(topic=topic.name, partition=number), state)
        for (topic, number), state in zip(led, states, strict=True)
        if state is not None
    ]
    ends, starts = [(at, state.end) for at, state in seen], [(at, state.start) for at, state in seen]
    text.family("redbroker_partition_end_offset", "gauge", "Next offset.", ends)
    text.family("redbroker_partition_start_offset", "gauge", "First offset that is kept.", starts)
    text.family("redbroker_partition_bytes", "gauge", "Batch bytes kept.", [(at, state.nbytes) for at, state in seen])
    text.family("redbroker_partition_leader_epoch", "gauge", "Leader epoch.", [(at, state.epoch) for at, state in seen])
    if kafka_names:
        text.family("kafka_topic_partition_current_offset", "gauge", "Next offset.", ends)
        text.family("kafka_topic_partition_oldest_offset", "gauge", "First offset that is kept.", starts)
        text.family("kafka_topic_partition_leader", "gauge", "Node id of the leader.", [(at, own) for at, _ in seen])
        counts = [(labelled(topic=topic.name), topic.partitions) for topic, number in led if number == 0]
        text.family("kafka_topic_partitions", "gauge", "Partitions of the topic.", counts)


async def write_groups(text: Text, broker: Broker, names: Sequence[str], states: Sequence[GroupState | None]) -> None:
    """The groups this worker coordinates: state, members, and the lag in records and in seconds."""
    engine, settings = broker.engine, broker.settings
    seen = [(name, state) for name, state in zip(names, states, strict=True) if state is not None]
    read: list[tuple[str, TopicPartition, int]] = []
    for name, state in seen:
        read += [(name, partition, offset) for partition, offset in state.offsets.items()]
    read = read[: settings.metrics_partitions_max]
    places = {at: topic for _, at, _ in read if (topic := engine.topics.get(at.topic)) is not None}
    wanted = [(topic, at.partition) for at, topic in places.items()]
    logs = dict(zip(places, await engine.survey.partitions(wanted), strict=True))
    known = [(name, at, offset, log) for name, at, offset in read if (log := logs.get(at)) is not None]
    behind = [(places[at], at.partition, max(offset, log.start)) for _, at, offset, log in known if offset < log.end]
    behind = list(dict.fromkeys(behind))
    times = dict(zip(behind, await engine.survey.first_times(behind), strict=True))
    now_ms = time.time() * 1000

    lags, ages, offsets, sums = [], [], [], dict[tuple[str, str], int]()
    for name, at, offset, log in known:
        labels = f'{{{labelled(group=name)[1:-1]},topic="{at.topic}",partition="{at.partition}"}}'
        lag = max(0, log.end - max(offset, log.start))
        told_ms = times.get((places[at], at.partition, max(offset, log.start)))
        lags.append((labels, lag))
        offsets.append((labels, offset))
        if not lag or told_ms is not None:
            ages.append((labels, max(0.0, now_ms - told_ms) / 1000 if lag and told_ms is not None else 0.0))
        sums[name, at.topic] = sums.get((name, at.topic), 0) + lag
    text.family("redbroker_group_lag_records", "gauge", "Records not yet committed.", lags)
    text.family("redbroker_group_lag_seconds", "gauge", "Age of the oldest record not yet committed.", ages)
    text.family("redbroker_group_committed_offset", "gauge", "Committed offset.", offsets)
    members = [(name, state.members) for name, state in seen]
    text.family("redbroker_group_members", "gauge", "Members.", [(labelled(group=name), n) for name, n in members])
    states_told = [(labelled(group=name, state=state.phase, type=state.type), 1) for name, state in seen]
    text.family("redbroker_group_state", "gauge", "1 for the state the group is in.", states_told)
    epochs = [(labelled(group=name), state.epoch) for name, state in seen]
    text.family("redbroker_group_epoch", "gauge", "Generation or group epoch.", epochs)
    if settings.metrics_kafka_names:
        renamed = [(labels.replace("{group=", "{consumergroup=", 1), value) for labels, value in lags]
        text.family("kafka_consumergroup_lag", "gauge", "Records not yet committed.", renamed)
        renamed = [(labels.replace("{group=", "{consumergroup=", 1), value) for labels, value in offsets]
        text.family("kafka_consumergroup_current_offset", "gauge", "Committed offset.", renamed)
        text.family(
            "kafka_consumergroup_lag_sum", "gauge", "Records not yet committed, of a whole topic.",
            [(labelled(consumergroup=name, topic=topic), lag) for (name, topic), lag in sums.items()],
        )  # fmt: skip
        told = [(labelled(consumergroup=name), count) for name, count in members]
        text.family("kafka_consumergroup_members", "gauge", "Members.", told)
