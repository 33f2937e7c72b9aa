"""What Redis would hold, for the engine in memory.

Hashes by key, a `PartitionLog` per partition, a `StoredGroup` per group. There is one
server that never restarts, so leader epochs stay 1 and no replication id is looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redbroker.errors import ErrorCode, KafkaError

Keys = Mapping[str, bytes]


@dataclass
class PartitionLog:
    """One partition: batches with the offset of their last record, in order, and what lies beside them."""

    id: bytes
    created_ms: int
    batches: list[bytes] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)
    next: int = 0
    start: int = 0
    written: int = 0
    appended: int = 0
    trimmed: int = 0
    largest: int = 0
    time: int = -1
    time_at: int = -1
    producers: dict[int, tuple[int, deque[tuple[int, int, int]]]] = field(default_factory=dict)


@dataclass
class StoredGroup:
    """One group: its value, and what heartbeats and commits check."""

    value: bytes
    version: int
    token: str
    head: dict[str, str]
    since_ms: int
    statics: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    beats: dict[str, int] = field(default_factory=dict)


class Memory:
    """All that is stored, and the clock. `publish` is called with each announcement."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.hashes: defaultdict[bytes, dict[bytes, bytes]] = defaultdict(dict)
        self.logs: dict[bytes, PartitionLog] = {}
        self.dropped: dict[bytes, int] = {}  # creation times of topics whose logs were dropped
        self.groups: dict[bytes, StoredGroup] = {}
        self.publish: Callable[[bytes, bytes], None] = lambda channel, message: None

    def command(self, name: str, key: bytes, *words: Any) -> Any:
        """HGET, HSET, HDEL, HEXISTS, HGETALL, XRANGE and ZRANGE as the engine uses them."""
        if name == "XRANGE":
            return self._range(self.logs.get(stem_of(key)), int(words[0].partition("-")[2]), int(words[3]))
        if name == "ZRANGE":
            return [b"1", b"0"]  # the only leader epoch there ever is
        table = self.hashes[key]
        if name == "HGET":
            return table.get(as_bytes(words[0]))
        if name == "HSET":
            table[as_bytes(words[0])] = as_bytes(words[1])
            return 1
        if name == "HDEL":
            return int(table.pop(as_bytes(words[0]), None) is not None)
        if name == "HEXISTS":
            return int(as_bytes(words[0]) in table)
        if name == "HGETALL":
            return [word for pair in table.items() for word in pair]
        raise NotImplementedError(f"The engine in memory does not know the command {name}.")

    def changed(self, versions: bytes, changes: bytes) -> bytes:
        """As lib/changed.lua, for topics."""
        version = b"%d" % max(self.now_ms(), int(self.hashes[versions].get(b"topics", b"0")) + 1)
        self.hashes[versions][b"topics"] = version
        self.publish(changes, b"topics")
        return version

    def log(self, state: bytes, topic_id: Any) -> PartitionLog:
        """The log of an opened partition of this very topic."""
        log = self.logs.get(stem_of(state))
        if log is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "partition is not open")
        if log.id != as_bytes(topic_id):
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID, "topic was deleted and made again")
        return log

    def _range(self, log: PartitionLog | None, offset: int, count: int) -> list[Any]:
        if log is None:
            return []
        at = bisect_left(log.lasts, offset)
        pairs = zip(log.lasts[at : at + count], log.batches[at : at + count], strict=True)
        return [[b"1-%d" % last, [b"b", batch]] for last, batch in pairs]


def as_bytes(word: Any) -> bytes:
    if isinstance(word, str):
        return word.encode()
    return b"%d" % word if isinstance(word, int) else bytes(word)


def as_text(word: Any) -> str:
    return word if isinstance(word, str) else as_bytes(word).decode()


def stem_of(key: bytes) -> bytes:
    """`rb:{orders:0}` of each of its keys."""
    return key.rpartition(b":")[0]
