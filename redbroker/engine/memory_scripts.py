"""The operations of lua/*.lua in Python, for the engine in memory: same arguments, same answers, same refusals.

Here are those of partitions and topics, and the table of all; `memory_groups` has those of groups and offsets.
tests/engine/test_memory.py runs the same scenarios against these and against a real server.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from redbroker.engine.memory_groups import (
    beat_group,
    commit_offsets,
    delete_group,
    fetch_offsets,
    forget_offsets,
    load_group,
    note_group,
    swap_group,
    tend_group,
)  # fmt: skip
from redbroker.engine.memory_store import Keys, Memory, PartitionLog, as_bytes, as_text, stem_of
from redbroker.errors import ErrorCode, KafkaError

SEQUENCES = 1 << 31
PRODUCED = struct.Struct(">i8xqqhi")  # from byte 23 of a batch: last delta, max timestamp, producer id, epoch, sequence
MAX_TIMESTAMP = struct.Struct(">q")

# --- partitions -----------------------------------------------------------------------------------------------


def append(
    memory: Memory, keys: Keys, topic_id: Any, copies: int, expiration_s: int, most: int, replicas: int,
    proved_in: int, proved: Any, alone: int, *batches: Any,
) -> Any:  # fmt: skip
    log, before = memory.log(keys["state"], topic_id), memory.logs[stem_of(keys["state"])].next
    answers = [_append_one(log, bytes(batch), alone) for batch in batches]
    if log.next > before:
        memory.publish(keys["tail"], b"%d %d" % (log.next, log.written))
    return [log.start, 1, log.next, log.written, b"", *answers]


def _append_one(log: PartitionLog, batch: bytes, alone: int) -> Any:
    delta, time, producer, epoch, first = PRODUCED.unpack_from(batch, 23)
    base, last = log.next, log.next + delta
    if producer >= 0:
        verdict = _judge(log.producers.get(producer), epoch, first, (first + delta) % SEQUENCES, alone)
        if isinstance(verdict, int):
            return [verdict]
        if verdict:
            return verdict
        known, window = log.producers.get(producer, (epoch, deque(maxlen=5)))
        window = window if known == epoch else deque(maxlen=5)
        window.appendleft((first, (first + delta) % SEQUENCES, base))
        log.producers[producer] = (epoch, window)
    log.batches.append(batch)
    log.lasts.append(last)
    log.next, log.written, log.appended = last + 1, log.written + len(batch), log.appended + 1
    log.largest = max(log.largest, len(batch))
    if time > log.time:
        log.time, log.time_at = time, last
    return base


def _judge(
    known: tuple[int, deque[tuple[int, int, int]]] | None, epoch: int, first: int, last: int, alone: int
) -> int | bytes:
    """As lib/producers.lua: empty for the next batch, the first offset of a duplicate, or the name of a refusal."""
    if known is None:
        return b"UNKNOWN_PRODUCER_ID" if first and not alone else b""
    stored, window = known
    if epoch < stored:
        return b"INVALID_PRODUCER_EPOCH"
    if epoch > stored:
        return b"OUT_OF_ORDER_SEQUENCE_NUMBER" if first else b""
    if (window[0][1] + 1) % SEQUENCES == first:
        return b""
    offsets = [offset for begin, end, offset in window if (begin, end) == (first, last)]
    return offsets[0] if offsets else b"OUT_OF_ORDER_SEQUENCE_NUMBER"


def look(memory: Memory, keys: Keys, topic_id: Any, replicas: int) -> Any:
    log = memory.log(keys["state"], topic_id)
    return [
        log.start, log.next, 1, 0, log.written, log.appended, log.trimmed, log.largest, log.time, log.time_at,
        b"", log.next,
    ]  # fmt: skip


def open_partition(memory: Memory, keys: Keys, topic_id: Any, created_ms: int, again: int) -> int:
    stem = stem_of(keys["state"])
    log = memory.logs.get(stem)
    if log is not None and log.id == as_bytes(topic_id):
        return 0
    if max(memory.dropped.get(stem, -1), log.created_ms if log else -1) > created_ms:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID, "a newer topic has this name")
    memory.logs[stem] = PartitionLog(as_bytes(topic_id), created_ms)
    return 1


def drop_partition(memory: Memory, keys: Keys, topic_id: Any, created_ms: int, marker_ms: int) -> int:
    stem = stem_of(keys["state"])
    log = memory.logs.get(stem)
    if log is not None and (log.id != as_bytes(topic_id) or log.created_ms > created_ms):
        return 0
    memory.logs.pop(stem, None)
    memory.dropped[stem] = created_ms + 1
    memory.publish(keys["tail"], b"0 0")
    return 1


def find_time(memory: Memory, keys: Keys, topic_id: Any, target: int, first: int, limit: int) -> Any:
    log = memory.log(keys["state"], topic_id)
    for at in range(bisect_left(log.lasts, max(log.start, first)), len(log.batches)):
        if MAX_TIMESTAMP.unpack_from(log.batches[at], 35)[0] >= target:
            return [1, -1, 1, b"1-%d" % log.lasts[at], log.batches[at]]
    return [0, -1, 1]


def epoch_end(memory: Memory, keys: Keys, topic_id: Any, asked: int, replicas: int) -> Any:
    log = memory.log(keys["state"], topic_id)
    if asked == 1:
        return [1, log.next, 1]
    return [0, 0, 1] if asked == 0 else [-1, -1, 1]


def trim(memory: Memory, keys: Keys, topic_id: Any, before: int, limit: int, nbytes: int) -> Any:
    log = memory.log(keys["state"], topic_id)
    if not 0 <= before <= log.next:
        raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, f"the log ends at offset {log.next}")
    log.start = max(log.start, before)
    freed = bisect_left(log.lasts, log.start)
    log.trimmed += sum(map(len, log.batches[:freed]))
    del log.batches[:freed], log.lasts[:freed]
    return [log.start, freed]


# --- topics ---------------------------------------------------------------------------------------------------


def create_topic(memory: Memory, keys: Keys, name: str, id_: Any, partitions: int, configs: bytes, most: int) -> Any:
    topics, id_ = memory.hashes[keys["topics"]], as_text(id_)
    if as_bytes(name) in topics:
        raise KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"topic {name} already exists")
    if len(topics) >= most:
        raise KafkaError(ErrorCode.POLICY_VIOLATION, f"topics_max ({most}) topics exist already")
    flat = name.replace(".", "_")
    for other in map(bytes.decode, topics):
        if other.replace(".", "_") == flat:
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"topic {name} collides with existing topic {other}")
    version = memory.changed(keys["versions"], keys["changes"])
    value = {"id": id_, "partitions": partitions, "configs": orjson.loads(configs), "created_ms": int(version)}
    topics[as_bytes(name)] = orjson.dumps(value)
    return [version, version]


def delete_topic(memory: Memory, keys: Keys, name: Any, id_: Any) -> bytes:
    known = memory.hashes[keys["topics"]].get(as_bytes(name))
    if known is None or orjson.loads(known)["id"] != as_text(id_):
        return b"0"
    del memory.hashes[keys["topics"]][as_bytes(name)]
    return memory.changed(keys["versions"], keys["changes"])


def swap_topic(memory: Memory, keys: Keys, name: Any, before: Any, after: Any) -> bytes:
    topics, name = memory.hashes[keys["topics"]], as_bytes(name)
    if topics.get(name) != before:
        return b"0"
    topics[name] = bytes(after)
    return memory.changed(keys["versions"], keys["changes"])


def set_configs(memory: Memory, keys: Keys, values: bytes) -> bytes:
    configs = memory.hashes[keys["configs"]]
    for name, value in orjson.loads(values).items():
        configs.pop(as_bytes(name), None)
        if value is not None:
            configs[as_bytes(name)] = as_bytes(value)
    return memory.changed(keys["versions"], keys["changes"])


def load_topics(memory: Memory, keys: Keys, known: Any) -> Any:
    version = memory.hashes[keys["versions"]].get(b"topics", b"0")
    if version == known:
        return [version]
    tables = (memory.hashes[keys[name]] for name in ("topics", "configs", "deleted"))
    return [version, *([word for pair in table.items() for word in pair] for table in tables)]


def live_workers(memory: Memory, keys: Keys, known: Any) -> Any:
    return [b"0", []]


SCRIPTS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        append, look, open_partition, drop_partition, find_time, epoch_end, trim,
        create_topic, delete_topic, swap_topic, set_configs, load_topics, live_workers,
        load_group, swap_group, beat_group, delete_group, note_group, tend_group,
        commit_offsets, fetch_offsets, forget_offsets,
    )
}  # fmt: skip
