"""The survey: what many partitions, groups and servers are like right now, read in few round trips, changing nothing.

For those who look on (metrics, dashboards): unlike `Log.bounds` it opens nothing, bumps no leader epoch and runs no
script per partition. What cannot be told (Redis is away, the topic is gone) is None in its place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson

from redbroker.engine.checks import parse_info
from redbroker.engine.keys import GroupKeys, PartitionKeys
from redbroker.engine.offsets import partition_of
from redbroker.engine.scripts import script
from redbroker.errors import KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import read_header

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.topics import Topic, Topics

AT_ONCE = 200
"""Calls sent together: between two such portions, requests of clients get their turn."""

T = TypeVar("T")


class PartitionState(NamedTuple):
    """Where a partition's log starts and ends, what it holds, and the leader epoch it was last written under."""

    start: int
    end: int
    epoch: int
    nbytes: int
    batches: int
    time_ms: int


class GroupState(NamedTuple):
    """A group, and the offsets it has committed for partitions that exist. Unknown groups have no members."""

    type: str
    phase: str
    epoch: int
    members: int
    offsets: Mapping[TopicPartition, int]


class NodeState(NamedTuple):
    """One Redis master: how long it took to answer (waiting behind other calls included) and its INFO."""

    seconds: float
    info: Mapping[str, str]


class Survey:
    """Reads of one key space: `engine.survey`."""

    def __init__(self, storage: Storage, settings: Settings, topics: Topics) -> None:
        self._storage, self._prefix, self._topics = storage, settings.key_prefix, topics

    async def partitions(self, wanted: Sequence[tuple[Topic, int]]) -> list[PartitionState | None]:
        """Their states, in the order asked."""

        def ask(each: tuple[Topic, int]) -> asyncio.Future[Any]:
            state = self._keys(each).state
            return self._storage.call(state, "HMGET", state, *FIELDS)

        replies = await self._all(wanted, ask)
        return [partition_state(topic, reply) for (topic, _), reply in zip(wanted, replies, strict=True)]

    async def groups(self, names: Sequence[str]) -> list[GroupState | None]:
        """Their states, in the order asked: three small calls each, all of one portion in one round trip."""
        found: list[GroupState | None] = []
        for portion in portions(names, AT_ONCE // 3):
            calls = [call for name in portion for call in self._ask_group(name)]
            replies = await settled(calls)
            found += [self._group_state(replies[at : at + 3]) for at in range(0, len(replies), 3)]
        return found

    async def first_times(self, wanted: Sequence[tuple[Topic, int, int]]) -> list[int | None]:
        """The timestamp of the batch that holds each offset: its first record's, or when it was appended."""

        def ask(each: tuple[Topic, int, int]) -> asyncio.Future[Any]:
            keys = self._keys(each[:2])
            return self._storage.run(script("header_at"), (keys.log, keys.epochs), (each[2],))

        return [time_of(reply) for reply in await self._all(wanted, ask)]

    async def nodes(self) -> dict[str, NodeState | None]:
        """Every master by its address."""
        began_s = time.perf_counter()
        took_s: dict[str, float] = {}
        calls = self._storage.each_master("INFO")

        def timed(address: str) -> Callable[[object], None]:
            return lambda _: took_s.update({address: time.perf_counter() - began_s})

        for address, call in calls.items():
            call.add_done_callback(timed(address))
        replies = await settled(list(calls.values()))
        return {
            address: None if reply is None else NodeState(took_s[address], parse_info(reply))
            for address, reply in zip(calls, replies, strict=True)
        }

    # --- inside ------------------------------------------------------------------------------------------------

    def _keys(self, partition: tuple[Topic, int]) -> PartitionKeys:
        return PartitionKeys(self._prefix, TopicPartition(partition[0].name, partition[1]))

    async def _all(self, wanted: Sequence[T], ask: Any) -> list[Any]:
        replies: list[Any] = []
        for portion in portions(wanted, AT_ONCE):
            replies += await settled([ask(each) for each in portion])
        return replies

    def _ask_group(self, name: str) -> tuple[asyncio.Future[Any], ...]:
        keys, call = GroupKeys(self._prefix, name), self._storage.call
        return (
            call(keys.head, "HMGET", keys.head, "type", "phase", "epoch"),
            call(keys.sessions, "HLEN", keys.sessions),
            call(keys.offsets, "HGETALL", keys.offsets),
        )

    def _group_state(self, replies: Sequence[Any]) -> GroupState | None:
        head, members, flat = replies
        if head is None or members is None or flat is None:
            return None
        kind, phase, epoch = ((field or b"").decode() for field in head)
        return GroupState(kind or "classic", phase or "Empty", int(epoch or 0), members, self._offsets(flat))

    def _offsets(self, flat: Sequence[bytes]) -> dict[TopicPartition, int]:
        found = {}
        for field, entry in zip(flat[::2], flat[1::2], strict=True):
            partition = partition_of(field)
            topic = self._topics.get(partition.topic)
            offset, _, _, _, *topic_id = orjson.loads(entry)
            if topic is None or partition.partition >= topic.partitions or (topic_id and topic_id[0] != topic.id.hex):
                continue  # committed for a topic that was deleted since
            found[partition] = offset
        return found


FIELDS = ("id", "start", "next", "epoch", "written", "trimmed", "batches", "time")


def partition_state(topic: Topic, fields: Sequence[bytes | None] | None) -> PartitionState | None:
    """The state that FIELDS tell, if they are this topic's."""
    if fields is None or fields[0] != topic.hex:
        return None
    start, end, epoch, written, trimmed, batches, time_ms = (int(field or 0) for field in fields[1:])
    return PartitionState(start, end, epoch, max(0, written - trimmed), batches, time_ms)


def time_of(header: bytes | None) -> int | None:
    """The timestamp of a batch's first record."""
    if not header:
        return None
    read = read_header(header)
    return read.max_timestamp if read.log_append_time else read.first_timestamp


def portions(wanted: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    """Slices of `size`."""
    return (wanted[at : at + size] for at in range(0, len(wanted), size))


async def settled(calls: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """The replies; None where Redis refused or was away."""
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException) and not isinstance(reply, KafkaError):
            raise reply
    return [None if isinstance(reply, KafkaError) else reply for reply in replies]
