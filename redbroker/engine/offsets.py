"""Committed offsets of groups: one hash per group, written as durably as acks=all.

An entry is `[offset, leader epoch, metadata, commit ms, topic id]`. The topic's id goes with it because an offset means
nothing for another topic of the same name: after a topic was deleted and made again, what was committed is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from redbroker.engine.group_values import CONSUMER, reads
from redbroker.engine.groups import check_name
from redbroker.engine.keys import GroupKeys
from redbroker.engine.scripts import script
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.groups import Groups
    from redbroker.engine.topics import Topic

ATTEMPTS = 10
SUBSCRIBED = "The group is subscribed to topic {}: its members would commit again."


class Commit(NamedTuple):
    """One offset to commit; `leader_epoch` -1 where the client does not know it."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


class Committed(NamedTuple):
    """One committed offset; offset -1 where there is none. `commit_ms` is the server's time."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_ms: int = -1


NOTHING = Committed(-1)


class Offsets:
    """The committed offsets of one key space: `engine.offsets`."""

    def __init__(self, groups: Groups, settings: Settings, topic_of: Callable[[str], Topic | None]) -> None:
        self._groups, self._settings, self._topic_of = groups, settings, topic_of

    async def commit(
        self,
        name: str,
        commits: Sequence[Commit],
        *,
        member_id: str = "",
        epoch: int = -1,
        instance_id: str | None = None,
        version: int = 9,
    ) -> list[KafkaError | None]:
        """Store offsets: one KafkaError or None each (OFFSET_METADATA_TOO_LARGE).

        `epoch` is the generation or member epoch; -1 for simple consumers. Raised for the whole group, Kafka's way:
        UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, FENCED_INSTANCE_ID, REBALANCE_IN_PROGRESS, STALE_MEMBER_EPOCH,
        GROUP_ID_NOT_FOUND (`version`, of OffsetCommit, 9 and above), INVALID_GROUP_ID, COORDINATOR_NOT_AVAILABLE.
        """
        most = self._settings.offset_metadata_bytes_max
        too_large = KafkaError(ErrorCode.OFFSET_METADATA_TOO_LARGE, f"offset_metadata_bytes_max allows {most} bytes.")
        refusals = [too_large if len(each.metadata.encode()) > most else None for each in commits]
        words: list[Any] = []
        for each, refusal in zip(commits, refusals, strict=True):
            if refusal is None:
                words += self._entry(each)
        keys = self._keys(name)
        if epoch < 0:
            await self._groups.note(name, None, fresh=True)
        instance = "" if instance_id is None else f"={instance_id}"
        call = self._groups.acked(
            "commit_offsets",
            (keys.head, keys.sessions, keys.beats, keys.offsets),
            (member_id, epoch, instance, version, *words),
        )
        await self._groups.answered(name, call)
        return refusals

    async def fetch(
        self,
        name: str,
        partitions: Sequence[TopicPartition] | None = None,
        *,
        member_id: str | None = None,
        epoch: int = -1,
    ) -> dict[TopicPartition, Committed]:
        """What is committed; `partitions` None: everything. Unknown partitions are `NOTHING`, and no error.

        With `epoch` >= 0 (OffsetFetch v9) the member of a KIP-848 group is checked: UNKNOWN_MEMBER_ID,
        STALE_MEMBER_EPOCH.
        """
        keys, everything = self._keys(name), partitions is None
        fields = [] if partitions is None else [field(each) for each in partitions]
        call = self._groups.storage.run(
            script("fetch_offsets"),
            (keys.head, keys.sessions, keys.offsets),
            (member_id or "", epoch, int(everything), *fields),
        )
        found = await self._groups.answered(name, call)
        if partitions is not None:
            return {each: self._committed(each, entry) for each, entry in zip(partitions, found, strict=True)}
        all_of = {partition_of(name): entry for name, entry in zip(found[::2], found[1::2], strict=True)}
        committed = {each: self._committed(each, entry) for each, entry in sorted(all_of.items())}
        return {each: what for each, what in committed.items() if what is not NOTHING}

    async def delete(self, name: str, partitions: Sequence[TopicPartition]) -> list[KafkaError | None]:
        """Forget offsets: GROUP_SUBSCRIBED_TO_TOPIC or None each; one that is not there is no error.

        Raised: GROUP_ID_NOT_FOUND; NON_EMPTY_GROUP when the group's members are no consumers.
        """
        for _ in range(ATTEMPTS):
            group, known = await self._groups.versioned(name)
            if group is None:
                raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"There is no group {name!r}.")
            if group.members and group.protocol_type != CONSUMER:
                raise KafkaError(ErrorCode.NON_EMPTY_GROUP, "The group has members, and they are no consumers.")
            read = {topic: bool(group.members) and reads(group, topic) for topic in {each.topic for each in partitions}}
            gone = [each for each in partitions if not read[each.topic]]
            words = [word for each in gone for word in (field(each), b"")]
            if not gone or await self.forget(name, known, words) >= 0:
                return [
                    KafkaError(ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, SUBSCRIBED.format(each.topic))
                    if read[each.topic]
                    else None
                    for each in partitions
                ]
        raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, f"Group {name!r} is changed by too many at once.")

    # --- for those who look after groups ---------------------------------------------------------------------------

    async def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """Every stored field and entry of a group, as they are."""
        keys = self._keys(name)
        flat = await self._groups.answered(name, self._groups.storage.call(keys.offsets, "HGETALL", keys.offsets))
        return list(zip(flat[::2], flat[1::2], strict=True))

    async def forget(self, name: str, known: bytes, words: Sequence[bytes]) -> int:
        """Delete fields, each given with its entry (empty: whatever it is); -1 when the group is not `known` now."""
        keys = self._keys(name)
        call = self._groups.acked("forget_offsets", (keys.head, keys.offsets), (known, *words))
        return int(await self._groups.answered(name, call))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _keys(self, name: str) -> GroupKeys:
        check_name(name)
        return GroupKeys(self._settings.key_prefix, name)

    def _entry(self, commit: Commit) -> tuple[bytes, bytes, bytes]:
        """The field, and the entry in two parts: the script writes the time between them."""
        topic = self._topic_of(commit.topic)
        before = orjson.dumps([commit.offset, commit.leader_epoch, commit.metadata])[:-1] + b","
        after = b"]" if topic is None else b',"%s"]' % topic.hex
        return field(TopicPartition(commit.topic, commit.partition)), before, after

    def _committed(self, partition: TopicPartition, entry: bytes | None) -> Committed:
        if entry is None:
            return NOTHING
        offset, leader_epoch, metadata, commit_ms, *topic_id = orjson.loads(entry)
        topic = self._topic_of(partition.topic)
        if topic_id and topic is not None and topic.id.hex != topic_id[0]:
            return NOTHING
        return Committed(offset, leader_epoch, metadata, commit_ms)


def field(partition: TopicPartition) -> bytes:
    """`topic:partition`, the field of an entry."""
    return f"{partition.topic}:{partition.partition}".encode()


def partition_of(field: bytes) -> TopicPartition:
    """The partition of a field."""
    topic, _, number = field.decode().rpartition(":")
    return TopicPartition(topic, int(number))
