"""Administration: topics, consumer groups, the cluster. Every answer is Redis' own, every refusal a `KafkaError`.

async with Admin("redis://localhost:6379") as admin:
    await admin.create_topic("orders", partitions=12, configs={"retention.ms": "86400000"})
    print(await admin.describe_group("billing"))
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from redbroker.client.config import ClientConfig, configure
from redbroker.client.connection import Connection, engine_of
from redbroker.client.types import OffsetAndMetadata
from redbroker.errors import ErrorCode, KafkaError
from redbroker.topic_config import ConfigSource, describe_topic, static_configs
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.topics import Topic

__all__ = [
    "Admin", "ClusterDescription", "GroupDescription", "GroupListing", "PartitionDescription", "TopicDescription",
]  # fmt: skip

Place = Literal["start", "end"] | int


class AdminConfig(ClientConfig):
    """Nothing but what all clients have, and the storage's settings."""


@dataclass(frozen=True, slots=True)
class PartitionDescription:
    """One log: its first offset, the one that comes next, its leader epoch and its size in bytes (nearly exact)."""

    partition: int
    start: int
    end: int
    leader_epoch: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic; `configs` are those set on it."""

    name: str
    id: UUID
    partitions: tuple[PartitionDescription, ...]
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GroupListing:
    """A group in a list; `type` is classic or consumer, `state` Kafka's name, as Stable or Empty."""

    name: str
    type: str
    state: str


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group: member id -> client id, what it has committed, and how many records behind the log ends that is."""

    name: str
    type: str
    state: str
    members: Mapping[str, str]
    offsets: Mapping[TopicPartition, OffsetAndMetadata]
    lag_records: int


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """The key space: its id, the Kafka doors that are open (`host:port`), and the risks found in Redis' settings."""

    cluster_id: str
    workers: tuple[str, ...]
    risks: tuple[str, ...]


class Admin:
    """Topics, groups and the cluster.

    `storage` and settings are as for a `Producer`. All there is, at once:

        async with Admin("redis://localhost:6379") as admin:
            await admin.create_topic("orders", 6, {"retention.ms": "604800000"}, if_not_exists=True)
            await admin.add_partitions("orders", 12)
            await admin.alter_configs("orders", {"retention.bytes": "1000000000"})
            await admin.configs("orders")  # {"retention.bytes": …, "retention.ms": …}
            for partition in (await admin.describe_topic("orders")).partitions:
                print(partition.start, partition.end)
            await admin.trim({TopicPartition("orders", 0): "end"})  # deletes the records there are now
            await admin.list_topics(), await admin.list_groups(), await admin.describe_cluster()

            await admin.seek("billing", {TopicPartition("orders", 0): "start"})
            print((await admin.describe_group("billing")).lag_records, await admin.offsets("billing"))
            await admin.delete_group("billing")
            await admin.delete_topic("orders")
    """

    def __init__(
        self, storage: str | Connection | None = None, config: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        self._shared = storage if isinstance(storage, Connection) else None
        url = None if isinstance(storage, Connection) else storage
        self.config, self._settings = configure(AdminConfig, url, config, settings, shared=self._shared is not None)
        self._stack: contextlib.AsyncExitStack | None = None
        self._engine: Engine | None = None

    async def __aenter__(self) -> Admin:
        if self._stack is not None:
            raise RuntimeError("This admin client is open already.")
        async with contextlib.AsyncExitStack() as stack:
            self._engine = await stack.enter_async_context(engine_of(self._shared, self._settings))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection if it is the client's own."""
        stack, self._stack, self._engine = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    # --- topics ------------------------------------------------------------------------------------------------

    async def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        configs: Mapping[str, str] | None = None,
        *,
        if_not_exists: bool = False,
        validate_only: bool = False,
    ) -> None:
        """Make a topic, by default with `num_partitions`; its logs are open when this returns.

        TOPIC_ALREADY_EXISTS (unless `if_not_exists`), INVALID_TOPIC_EXCEPTION, INVALID_PARTITIONS, INVALID_CONFIG.
        """
        try:
            await self._open.topics.create(name, partitions, configs, validate_only=validate_only)
        except KafkaError as refused:
            if not (if_not_exists and refused.code is ErrorCode.TOPIC_ALREADY_EXISTS):
                raise

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and every record in it; UNKNOWN_TOPIC_OR_PARTITION."""
        await self._topic(name)
        await self._open.topics.delete(name)

    async def list_topics(self) -> dict[str, int]:
        """Topic -> partitions."""
        await self._open.topics.reload()
        return {name: topic.partitions for name, topic in sorted(self._open.topics.all().items())}

    async def describe_topic(self, name: str) -> TopicDescription:
        """Ids, offsets, sizes and configs; UNKNOWN_TOPIC_OR_PARTITION names what is close to it."""
        topic = await self._topic(name)
        bounds = _raised(await self._open.log.bounds([(topic, number) for number in range(topic.partitions)]))
        partitions = tuple(
            PartitionDescription(number, each.log_start, each.next, each.leader_epoch, each.nbytes)
            for number, each in enumerate(bounds)
        )
        return TopicDescription(topic.name, topic.id, partitions, dict(topic.configs))

    async def add_partitions(self, name: str, to: int) -> None:
        """Give a topic more partitions, `to` in all; keys may go to other ones from then on. INVALID_PARTITIONS."""
        await self._topic(name)
        await self._open.topics.grow(name, to)

    async def configs(self, name: str, *, defaults: bool = False) -> dict[str, str | None]:
        """The configs set on a topic or for all of them, with `defaults` every one in force."""
        topic = await self._topic(name)
        described = describe_topic(topic.configs, self._open.topics.broker_configs, static_configs(self._settings))
        return {each.name: each.value for each in described if defaults or each.source != ConfigSource.DEFAULT}

    async def alter_configs(self, name: str, configs: Mapping[str, str | None]) -> None:
        """Set configs of a topic; None takes one back to its default. INVALID_CONFIG names the wrong one."""
        await self._topic(name)
        put = {config: value for config, value in configs.items() if value is not None}
        await self._open.topics.configure(name, put, [config for config, value in configs.items() if value is None])

    async def trim(self, offsets: Mapping[TopicPartition, Place]) -> dict[TopicPartition, int]:
        """Delete the records before an offset ("end": all there are now); gives the log starts. OFFSET_OUT_OF_RANGE."""
        wants = []
        for partition, before in offsets.items():
            topic = await self._topic(*partition)
            wants.append((topic, partition.partition, await self._place(topic, partition.partition, before)))
        return dict(zip(offsets, _raised(await self._open.log.trim(wants)), strict=True))

    # --- groups ------------------------------------------------------------------------------------------------

    async def list_groups(self) -> list[GroupListing]:
        """Every group, also those that only have offsets."""
        listed = await self._open.groups.list()
        return [GroupListing(each.name, each.type, each.phase) for each in listed]

    async def describe_group(self, name: str) -> GroupDescription:
        """Members, offsets and lag; GROUP_ID_NOT_FOUND names what is close to it."""
        group = await self._open.groups.get(name)
        offsets = await self.offsets(name)
        if group is None and not offsets:
            raise await self._no_group(name)
        members = {str(each.id): str(each.client_id) for each in group.members.values()} if group else {}
        wanted = [
            (topic, partition.partition)
            for partition in offsets
            if (topic := self._open.topics.get(partition.topic)) and partition.partition < topic.partitions
        ]
        lag = 0
        for (topic, number), each in zip(wanted, _raised(await self._open.log.bounds(wanted)), strict=True):
            at = offsets[TopicPartition(topic.name, number)].offset
            lag += each.next - min(max(at, each.log_start), each.next)
        phase, kind = (group.phase, group.type) if group else ("Empty", "classic")
        return GroupDescription(name, kind, phase, members, offsets, lag)

    async def offsets(self, name: str) -> dict[TopicPartition, OffsetAndMetadata]:
        """What a group has committed; empty for a group that is not there."""
        fetched = await self._open.offsets.fetch(name, None)
        return {
            TopicPartition(*key): OffsetAndMetadata(each.offset, each.metadata or "", each.leader_epoch)
            for key, each in sorted(fetched.items())
        }

    async def seek(self, name: str, offsets: Mapping[TopicPartition, Place]) -> dict[TopicPartition, int]:
        """Move what a group has committed; gives the offsets. NON_EMPTY_GROUP while it has members."""
        group = await self._open.groups.get(name)
        if group is not None and group.members:
            why = f"Group {name} has {len(group.members)} members; stop them first."
            raise KafkaError(ErrorCode.NON_EMPTY_GROUP, why)
        from redbroker.engine.offsets import Commit

        moved = {}
        for partition, to in offsets.items():
            topic = await self._topic(*partition)
            moved[partition] = await self._place(topic, partition.partition, to)
        commits = [Commit(partition.topic, partition.partition, to) for partition, to in moved.items()]
        _raised(await self._open.offsets.commit(name, commits))
        return moved

    async def delete_group(self, name: str) -> None:
        """Forget a group and what it has committed; NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND."""
        _raised(await self._open.groups.delete([name]))

    # --- cluster -----------------------------------------------------------------------------------------------

    async def describe_cluster(self) -> ClusterDescription:
        """The key space's id, its live workers, and what `redbroker doctor` would call a risk."""
        engine = self._open
        await engine.workers.refresh()
        workers = tuple(f"{each.host}:{each.port}" for each in engine.workers.live())
        return ClusterDescription(engine.cluster_id, workers, tuple(map(str, engine.checks)))

    # --- inside ------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("This admin client is not open: use it inside `async with`.")
        return self._engine

    async def _topic(self, name: str, partition: int = 0) -> Topic:
        """A topic as it is now, and one of its partitions checked."""
        topics = self._open.topics
        await topics.reload()
        topic = topics.get(name)
        if topic is None:
            raise KafkaError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic {name}{_meant(name, topics.all())}"
            )
        if not 0 <= partition < topic.partitions:
            raise KafkaError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                f"{name} has partitions 0 to {topic.partitions - 1}, not {partition}.",
            )
        return topic

    async def _place(self, topic: Topic, partition: int, place: Place) -> int:
        """The offset of a place in a log; OFFSET_OUT_OF_RANGE outside of it."""
        [bounds] = _raised(await self._open.log.bounds([(topic, partition)]))
        if place == "start":
            return int(bounds.log_start)
        if place == "end":
            return int(bounds.next)
        if not (isinstance(place, int) and bounds.log_start <= place <= bounds.next):
            raise KafkaError(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"{topic.name}-{partition} has offsets {bounds.log_start} to {bounds.next}, not {place}.",
            )
        return place

    async def _no_group(self, name: str) -> KafkaError:
        names = [each.name for each in await self._open.groups.list()]
        return KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"There is no group {name}{_meant(name, names)}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "."


def _raised(values: Iterable[Any]) -> list[Any]:
    """The values; the first error among them is raised."""
    values = list(values)
    for value in values:
        if isinstance(value, KafkaError):
            raise value
    return values
