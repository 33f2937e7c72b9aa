"""Topics: names, ids, partition counts and configs, the same for all workers.

All topics live in one hash and one slot, so that each change is one atomic script: exactly one of two workers creates
a name. Every process keeps them all in memory; reading is synchronous. The cache is refreshed at once when a change is
announced on the `changes` channel, and every `metadata_refresh_ms` in case an announcement was lost; an unchanged
version costs one small call. A topic that was deleted and made again has another id, and its creation time is later.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import orjson

from redbroker.engine.scripts import script
from redbroker.engine.slots import key_slot
from redbroker.errors import ErrorCode, KafkaError
from redbroker.topic_config import parse_broker_config, parse_configs, static_configs, topic_defaults

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.durability import Durability
    from redbroker.engine.keys import MetaKeys

log = logging.getLogger(__name__)

NAME_LENGTH_MAX = 249
RELOAD_GAP_S = 0.05
"""Pause between two reloads, so that thousands of announced changes cost few of them."""
LEFTOVER_S = 60.0
"""A deletion unfinished for this long lost its worker; another one finishes it."""
SWAP_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `configs` are its own overrides; the fields below give every value in force, typed for the hot path.

    `defaults` are the values of configs the topic does not set; without them Kafka's own defaults hold.
    """

    name: str
    id: UUID
    partitions: int
    configs: Mapping[str, str] = field(default_factory=dict, hash=False)
    created_ms: int = 0
    defaults: Mapping[str, str] | None = field(default=None, compare=False, repr=False)

    hex: bytes = field(init=False, compare=False, repr=False)  # the id as scripts take it: 32 hex digits
    max_message_bytes: int = field(init=False, compare=False, repr=False)
    log_append_time: bool = field(init=False, compare=False, repr=False)
    compacted: bool = field(init=False, compare=False, repr=False)
    deleting: bool = field(init=False, compare=False, repr=False)  # cleanup.policy names delete
    min_insync_replicas: int | None = field(init=False, compare=False, repr=False)  # None: the broker's rule
    timestamp_before_max_ms: int = field(init=False, compare=False, repr=False)
    timestamp_after_max_ms: int = field(init=False, compare=False, repr=False)
    retention_ms: int = field(init=False, compare=False, repr=False)
    retention_bytes: int = field(init=False, compare=False, repr=False)
    compression_type: str = field(init=False, compare=False, repr=False)
    min_cleanable_dirty_ratio: float = field(init=False, compare=False, repr=False)
    min_compaction_lag_ms: int = field(init=False, compare=False, repr=False)
    max_compaction_lag_ms: int = field(init=False, compare=False, repr=False)
    delete_retention_ms: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        values = {**(topic_defaults({}, {}) if self.defaults is None else self.defaults), **self.configs}
        copies = values.get("min.insync.replicas")
        typed = {
            "hex": self.id.hex.encode(),
            "max_message_bytes": int(values["max.message.bytes"]),
            "log_append_time": values["message.timestamp.type"] == "LogAppendTime",
            "compacted": "compact" in values["cleanup.policy"],
            "deleting": "delete" in values["cleanup.policy"],
            "min_insync_replicas": int(copies) if copies else None,
            "timestamp_before_max_ms": int(values["message.timestamp.before.max.ms"]),
            "timestamp_after_max_ms": int(values["message.timestamp.after.max.ms"]),
            "retention_ms": int(values["retention.ms"]),
            "retention_bytes": int(values["retention.bytes"]),
            "compression_type": values["compression.type"],
            "min_cleanable_dirty_ratio": float(values["min.cleanable.dirty.ratio"]),
            "min_compaction_lag_ms": int(values["min.compaction.lag.ms"]),
            "max_compaction_lag_ms": int(values["max.compaction.lag.ms"]),
            "delete_retention_ms": int(values["delete.retention.ms"]),
        }
        for name, value in typed.items():
            object.__setattr__(self, name, value)


OpenPartitions = Callable[[Topic, int], Awaitable[None]]
DropPartitions = Callable[[Topic], Awaitable[None]]


def check_name(name: str) -> None:
    """Kafka's rule for topic names; INVALID_TOPIC_EXCEPTION says what is wrong."""
    why = None
    if not name:
        why = "the empty string is not allowed"
    elif name in (".", ".."):
        why = f"{name!r} is not allowed"
    elif len(name) > NAME_LENGTH_MAX:
        why = f"it is longer than {NAME_LENGTH_MAX} characters"
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        why = f"{name[:100]!r} contains characters other than ASCII letters, digits, '.', '_' and '-'"
    if why:
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {why}.")


def new_topic_id() -> UUID:
    """A random id whose URL-safe base64 form does not start with `-`, so that it can stand on a command line."""
    while (topic_id := uuid.uuid4()).bytes[0] >> 2 == 62:
        pass
    return topic_id


class Topics:
    """The topics of one key space, cached."""

    def __init__(
        self,
        storage: Storage,
        keys: MetaKeys,
        settings: Settings,
        durability: Durability,
        open_partitions: OpenPartitions,
        drop_partitions: DropPartitions,
    ) -> None:
        self._storage, self._keys, self._settings, self._durability = storage, keys, settings, durability
        self._open_partitions, self._drop_partitions = open_partitions, drop_partitions
        self._static = static_configs(settings)
        self._dynamic: dict[str, str] = {}
        self._defaults: Mapping[str, str] = topic_defaults({}, self._static)
        self._topics: dict[str, Topic] = {}
        self._by_id: dict[UUID, Topic] = {}
        self._stored: dict[str, bytes] = {}  # the JSON each Topic was made from
        self.version = 0
        """Counts the changes of this cache, so that others can tell whether they have seen it as it is."""
        self._known = b""  # what Redis calls this state of the topics
        self._watchers: set[Callable[[], None]] = set()
        self._needed = 0  # newest version this process has itself written
        self._leftovers: dict[UUID, tuple[Topic, float]] = {}
        self._changed = anyio.Event()
        self._reloading = anyio.Lock()

    # --- reading, from the cache ---------------------------------------------------------------------------

    def get(self, name: str) -> Topic | None:
        """The topic of this name as last heard of, or None."""
        return self._topics.get(name)

    def by_id(self, topic_id: UUID) -> Topic | None:
        """The topic with this id as last heard of, or None."""
        return self._by_id.get(topic_id)

    def all(self) -> Mapping[str, Topic]:
        """Every topic by its name; a live view."""
        return MappingProxyType(self._topics)

    @property
    def broker_configs(self) -> Mapping[str, str]:
        """Dynamic broker configs, set by clients for the whole cluster."""
        return MappingProxyType(self._dynamic)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from now on, whenever `version` grows; gives what ends that."""
        self._watchers.add(callback)
        return lambda: self._watchers.discard(callback)

    async def find(self, name: str) -> Topic | None:
        """The topic of this name, asking Redis when the cache does not know it (another worker may have made it)."""
        topic = self._topics.get(name)
        if topic is None and (stored := await self._storage.call(self._keys.topics, "HGET", self._keys.topics, name)):
            topic = self._put(name, stored)
        return topic

    async def exists(self, topic: Topic) -> bool:
        """Whether Redis still has this very topic (not another of its name)."""
        stored = await self._storage.call(self._keys.topics, "HGET", self._keys.topics, topic.name)
        return stored is not None and UUID(orjson.loads(stored)["id"]) == topic.id

    # --- changing ------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        partitions: int | None = None,
        configs: Mapping[str, str | None] | None = None,
        *,
        validate_only: bool = False,
    ) -> Topic:
        """Make a topic; `partitions` None or -1 takes `num_partitions`. Its logs are open when this returns.

        TOPIC_ALREADY_EXISTS, INVALID_TOPIC_EXCEPTION, INVALID_PARTITIONS, INVALID_CONFIG, POLICY_VIOLATION.
        """
        check_name(name)
        count = self._settings.num_partitions if partitions in (None, -1) else partitions
        assert count is not None
        self._check_count(count)
        overrides = parse_configs(configs or {})
        topic_id = new_topic_id()
        if validate_only:
            await self._check_new(name)
            return Topic(name, topic_id, count, overrides, 0, self._defaults)
        keys = self._keys
        version, created = await self._write(
            "create_topic",
            (keys.topics, keys.versions, keys.changes),
            (name, topic_id.hex, count, orjson.dumps(overrides), self._settings.topics_max),
        )
        topic = self._wrote(int(version), name, _pack(topic_id, count, overrides, int(created)))
        await self._open(topic, 0)
        return topic

    async def ensure(self, name: str) -> Topic:
        """The topic of this name, made with the defaults when there is none; safe against others doing the same."""
        topic = self._topics.get(name)
        if topic is not None:
            return topic
        check_name(name)
        for _ in range(SWAP_ATTEMPTS):
            if topic := await self.find(name):
                return topic
            try:
                return await self.create(name)
            except KafkaError as refused:
                if refused.code is not ErrorCode.TOPIC_ALREADY_EXISTS:
                    raise
        raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, f"Topic {name} is made and deleted all the time.")

    async def delete(self, name: str) -> None:
        """Forget a topic and drop its logs; UNKNOWN_TOPIC_OR_PARTITION when there is none.

        Logs on a node that is away are dropped later, by whichever worker notices what is left.
        """
        _, topic = await self._read(name)
        keys = self._keys
        version = await self._write(
            "delete_topic", (keys.topics, keys.deleted, keys.versions, keys.changes), (name, topic.hex)
        )
        self._needed = max(self._needed, int(version))
        self._forget(topic)
        try:
            await self._drop(topic)
        except KafkaError as away:
            log.warning("Topic %s is deleted, but not all of its logs are dropped yet: %s", name, away)

    async def grow(self, name: str, count: int, *, validate_only: bool = False) -> Topic:
        """Raise a topic's partition count to `count`; INVALID_PARTITIONS when it has as many or more."""

        def larger(topic: Topic) -> tuple[int, Mapping[str, str]]:
            if count <= topic.partitions:
                has = f"Topic {name} has {topic.partitions} partitions"
                raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"{has}; a larger number than {count} is needed.")
            self._check_count(count)
            return count, topic.configs

        before, after = await self._swap(name, larger, validate_only)
        if not validate_only:
            await self._open(after, before.partitions)
        return after

    async def configure(
        self, name: str, set: Mapping[str, str | None], unset: Iterable[str] = (), *, validate_only: bool = False
    ) -> Topic:
        """Change a topic's overrides: first `unset`, then `set`, at once; INVALID_CONFIG changes nothing.

        Unsetting every known config and setting some replaces all overrides (Kafka's old AlterConfigs).
        """
        gone = frozenset(unset)

        def changed(topic: Topic) -> tuple[int, Mapping[str, str]]:
            kept = {key: value for key, value in topic.configs.items() if key not in gone}
            return topic.partitions, parse_configs({**kept, **set})

        _, after = await self._swap(name, changed, validate_only)
        return after

    async def configure_broker(
        self, set: Mapping[str, str | None], unset: Iterable[str] = (), *, validate_only: bool = False
    ) -> None:
        """Change dynamic broker configs for all workers; INVALID_CONFIG changes nothing."""
        values: dict[str, str | None] = dict.fromkeys(unset)
        values |= {name: parse_broker_config(name, value) for name, value in set.items()}
        if validate_only or not values:
            return
        keys = self._keys
        version = await self._write("set_configs", (keys.configs, keys.versions, keys.changes), (orjson.dumps(values),))
        self._needed = max(self._needed, int(version))
        await self.reload()

    # --- keeping the cache fresh ---------------------------------------------------------------------------

    def changed(self) -> None:
        """Somebody announced a change: reload soon."""
        self._changed.set()

    async def reload(self) -> None:
        """Read all topics again, unless nothing has changed since the last time."""
        keys = self._keys
        async with self._reloading:
            needed = self._needed
            reply = await self._storage.run(
                script("load_topics"), (keys.topics, keys.configs, keys.deleted, keys.versions), (self._known,)
            )
            if len(reply) == 1:
                return
            if self._needed > needed and int(reply[0]) < self._needed:  # read before a change this process just made
                self.changed()
                return
            self._known = bytes(reply[0])
            topics, configs, deleted = (_pairs(flat) for flat in reply[1:])
            dynamic = {name: value.decode() for name, value in configs.items()}
            if dynamic != self._dynamic:
                self._dynamic, self._defaults = dynamic, topic_defaults(dynamic, self._static)
                self._stored.clear()  # every typed view may differ now
            for name in self._topics.keys() - topics.keys():
                self._forget(self._topics[name])
            for name, stored in topics.items():
                self._put(name, stored)
            self._note_leftovers(deleted)

    async def run(self) -> None:
        """Reload whenever a change is announced, and every `metadata_refresh_ms`; never returns."""
        while True:
            with anyio.move_on_after(self._settings.metadata_refresh_ms / 1000):
                await self._changed.wait()
            self._changed = anyio.Event()
            try:
                await self.reload()
                await self._finish_deletions()
            except KafkaError as away:
                log.debug("Topics could not be reloaded: %s", away)
            await anyio.sleep(RELOAD_GAP_S)

    # --- inside --------------------------------------------------------------------------------------------

    def _check_count(self, count: int) -> None:
        if count < 1:
            raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"A topic needs at least 1 partition, not {count}.")
        if count > self._settings.partitions_max:
            most = f"partitions_max allows {self._settings.partitions_max}"
            raise KafkaError(ErrorCode.POLICY_VIOLATION, f"{count} partitions are asked for; {most}.")

    async def _check_new(self, name: str) -> None:
        """What create_topic.lua would refuse, for a request that only asks."""
        await self.reload()
        if name in self._topics:
            raise KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic {name} already exists.")
        if len(self._topics) >= self._settings.topics_max:
            raise KafkaError(ErrorCode.POLICY_VIOLATION, f"topics_max ({self._settings.topics_max}) topics exist.")
        flat = name.replace(".", "_")
        if other := next((each for each in self._topics if each.replace(".", "_") == flat), None):
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic {name} collides with existing topic {other}.")

    async def _read(self, name: str) -> tuple[bytes, Topic]:
        stored = await self._storage.call(self._keys.topics, "HGET", self._keys.topics, name)
        if stored is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic {name[:NAME_LENGTH_MAX]!r}.")
        return stored, self._make(name, stored)

    async def _write(self, name: str, keys: tuple[bytes, ...], args: tuple[Any, ...]) -> Any:
        """Run a script that changes metadata and wait until as many copies hold it as acks=all asks for."""
        replicas = self._durability.copies(None, key_slot(keys[0])) - 1
        reply, acknowledged = await self._storage.run_acked(
            script(name), keys, args, replicas=replicas, timeout_ms=self._settings.storage_timeout_ms
        )
        if acknowledged < replicas:
            got = f"{acknowledged} of {replicas} replicas hold the change"
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, f"The change was made, but only {got}.")
        return reply

    async def _swap(
        self, name: str, change: Callable[[Topic], tuple[int, Mapping[str, str]]], validate_only: bool
    ) -> tuple[Topic, Topic]:
        """Compare and set: read, change, write if nobody else has written; gives the topic before and after."""
        keys = self._keys
        for _ in range(SWAP_ATTEMPTS):
            stored, before = await self._read(name)
            partitions, configs = change(before)
            packed = _pack(before.id, partitions, configs, before.created_ms)
            if validate_only:
                return before, self._make(name, packed)
            version = int(
                await self._write("swap_topic", (keys.topics, keys.versions, keys.changes), (name, stored, packed))
            )
            if version:
                return before, self._wrote(version, name, packed)
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, f"Topic {name} is being changed by too many others.")

    async def _open(self, topic: Topic, first: int) -> None:
        """Open the logs now; a node that is away is no failure, because the first append opens a missing log."""
        try:
            await self._open_partitions(topic, first)
        except KafkaError as away:
            log.warning("Topic %s is made, but not all of its logs are open yet: %s", topic.name, away)

    async def _drop(self, topic: Topic) -> None:
        await self._drop_partitions(topic)
        await self._storage.call(self._keys.deleted, "HDEL", self._keys.deleted, topic.hex)

    def _make(self, name: str, stored: bytes) -> Topic:
        value = orjson.loads(stored)
        return Topic(
            name, UUID(value["id"]), value["partitions"], value["configs"], value["created_ms"], self._defaults
        )

    def _put(self, name: str, stored: bytes) -> Topic:
        """Cache what is stored; the same Topic object stays while nothing about it changes."""
        topic = self._topics.get(name)
        if topic is not None and self._stored.get(name) == stored:
            return topic
        if topic is not None:
            self._by_id.pop(topic.id, None)
        topic = self._topics[name] = self._make(name, stored)
        self._bump()
        self._by_id[topic.id] = topic
        self._stored[name] = stored
        return topic

    def _wrote(self, version: int, name: str, stored: bytes) -> Topic:
        """Cache what this process has written, unless what it has read since then is newer: copies take their time."""
        self._needed = max(self._needed, version)
        if version > int(self._known or 0):
            return self._put(name, stored)
        made, newer = self._make(name, stored), self._topics.get(name)
        return made if newer is None or newer.id != made.id else newer

    def _bump(self) -> None:
        self.version += 1
        for callback in tuple(self._watchers):
            callback()

    def _forget(self, topic: Topic) -> None:
        known = self._topics.get(topic.name)
        if known is not None and known.id == topic.id:
            del self._topics[topic.name]
            self._bump()
            self._stored.pop(topic.name, None)
            self._by_id.pop(topic.id, None)

    def _note_leftovers(self, deleted: Mapping[str, bytes]) -> None:
        found = {UUID(topic_id): orjson.loads(stored) for topic_id, stored in deleted.items()}
        now = time.monotonic()
        self._leftovers = {
            topic_id: self._leftovers.get(topic_id)
            or (Topic(value["name"], topic_id, value["partitions"], {}, value["created_ms"]), now)
            for topic_id, value in found.items()
        }

    async def _finish_deletions(self) -> None:
        """Drop the logs of topics whose deletion was cut short, whoever began it."""
        now = time.monotonic()
        for topic_id, (topic, since) in list(self._leftovers.items()):
            if now - since > LEFTOVER_S:
                if await self._storage.call(self._keys.deleted, "HEXISTS", self._keys.deleted, topic.hex):
                    await self._drop(topic)
                self._leftovers.pop(topic_id, None)  # a reload may have seen meanwhile that it is done


def _pack(topic_id: UUID, partitions: int, configs: Mapping[str, str], created_ms: int) -> bytes:
    """A topic as it is stored; the same bytes that create_topic.lua makes."""
    value = {"id": topic_id.hex, "partitions": partitions, "configs": dict(configs), "created_ms": created_ms}
    return orjson.dumps(value)


def _pairs(flat: list[bytes]) -> dict[str, bytes]:
    """A hash reply (field, value, field, value, …) as a mapping."""
    words = iter(flat)
    return {name.decode(): value for name, value in zip(words, words, strict=True)}
