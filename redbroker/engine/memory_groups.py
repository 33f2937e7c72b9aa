"""The operations of lua/*.lua on groups and their offsets in Python, for the engine in memory."""

from __future__ import annotations

from typing import Any

import orjson

from redbroker.engine.memory_store import Keys, Memory, StoredGroup, as_bytes, as_text
from redbroker.errors import ErrorCode, KafkaError

# --- groups ---------------------------------------------------------------------------------------------------


def load_group(memory: Memory, keys: Keys, known: Any) -> Any:
    group = memory.groups.get(keys["head"])
    if group is None:
        return [b"0", memory.now_ms(), int(bool(memory.hashes[keys["offsets"]])), b""]
    version = b"%d" % group.version
    return [version, memory.now_ms(), 0, b"" if version == known else group.value]


def swap_group(
    memory: Memory, keys: Keys, known: Any, token: str, value: bytes, wakes: int, until_ms: int, changes: bytes
) -> Any:
    now, head, change = memory.now_ms(), keys["head"], orjson.loads(changes)
    group = memory.groups.get(head)
    version = group.version if group else 0
    if int(known) != version:
        return [0, b"%d" % version, now, group.value if group else b""]
    if group and any(group.beats.get(name, 0) > now for name in change["expired"]):
        return [-1, b"%d" % version, now, b""]
    written = max(version + 1, now * 1000)
    if not value:
        memory.groups.pop(head, None)
        memory.publish(keys["wake"], b"Dead %d" % written)
        return [1, b"0", now, b""]
    if group is None:
        group = memory.groups[head] = StoredGroup(value, written, token, {}, now)
    if change["head"]["phase"] != group.head.get("phase"):
        group.since_ms = now
    group.value, group.version, group.token, group.head = value, written, token, change["head"]
    for instance in change["static_gone"]:
        group.statics.pop(instance, None)
    group.statics |= change["static"]
    for name in change["gone"]:
        group.sessions.pop(name, None)
        group.beats.pop(name, None)
    group.sessions |= change["sessions"]
    for name in change["unwatch"]:
        group.beats.pop(name, None)
    group.beats |= {name: now + timeout_ms for name, timeout_ms in change["watch"].items()}
    if wakes:
        memory.publish(keys["wake"], f"{group.head['phase']} {written}".encode())
    return [1, b"%d" % written, now, b""]


def _session(group: StoredGroup, member_id: str, instance: str) -> tuple[int, int, str]:
    """(timeout in ms, epoch, flags) of a member, as lib/session.lua has it."""
    if instance:
        owner = group.statics.get(instance[1:])
        if owner and owner != member_id:
            raise KafkaError(ErrorCode.FENCED_INSTANCE_ID, "another member has this group.instance.id")
        if not owner:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, "no member has this group.instance.id")
    if member_id not in group.sessions:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, "not a member of this group")
    timeout_ms, epoch, flags, *_ = group.sessions[member_id].split(" ")
    return int(timeout_ms), int(epoch), flags


def _touch(memory: Memory, group: StoredGroup, member_id: str, timeout_ms: int) -> None:
    if member_id in group.beats:
        group.beats[member_id] = memory.now_ms() + timeout_ms


def beat_group(memory: Memory, keys: Keys, member_id: Any, epoch: int, instance: Any) -> int:
    group, member_id = memory.groups.get(keys["head"]), as_text(member_id)
    if group is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, "there is no such group")
    timeout_ms, own, flags = _session(group, member_id, as_text(instance))
    if group.head["type"] != "classic":
        if epoch != own:
            if "c" in flags:
                raise KafkaError(ErrorCode.ILLEGAL_GENERATION, "the generation is another one")
            return 0
        _touch(memory, group, member_id, timeout_ms)
        return int("n" not in flags)
    if epoch != int(group.head["epoch"]):
        raise KafkaError(ErrorCode.ILLEGAL_GENERATION, f"the generation is {group.head['epoch']}")
    _touch(memory, group, member_id, timeout_ms)
    if group.head["phase"] == "PreparingRebalance":
        raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS, "the group is rebalancing")
    return 1


def delete_group(memory: Memory, keys: Keys, idle: int, known: Any) -> int:
    group, offsets = memory.groups.get(keys["head"]), memory.hashes[keys["offsets"]]
    if idle and (offsets or (group.version if group else 0) != int(known)):
        return 0
    if group is None and not offsets and not idle:
        raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, "there is no such group")
    if group is not None and group.head["phase"] != "Empty":
        raise KafkaError(ErrorCode.NON_EMPTY_GROUP, "the group has members")
    memory.groups.pop(keys["head"], None)
    offsets.clear()
    return 1


def note_group(memory: Memory, keys: Keys, name: Any, summary: bytes, fresh: int, most: int) -> int:
    groups, name = memory.hashes[keys["groups"]], as_bytes(name)
    if name not in groups and len(groups) >= most:
        raise KafkaError(ErrorCode.POLICY_VIOLATION, f"groups_max ({most}) groups exist already")
    if name in groups and fresh:
        return 0
    groups[name] = summary
    return 1


def tend_group(memory: Memory, keys: Keys, renew: int, overdue_ms: int) -> Any:
    now, kept = memory.now_ms(), int(bool(memory.hashes[keys["offsets"]]))
    group = memory.groups.get(keys["head"])
    if group is None:
        return [b"0", now, b"", b"", b"", 0, 0, kept, -1]
    due = []
    for name, end_ms in list(group.beats.items()):
        if renew or end_ms < now - overdue_ms:
            _touch(memory, group, name, int(group.sessions[name].partition(" ")[0]))
        elif end_ms <= now:
            due.append(name.encode())
    head = group.head
    words = [head[name].encode() for name in ("type", "protocol_type", "phase")]
    first_ms = min(group.beats.values(), default=-1)
    return [b"%d" % group.version, now, *words, group.since_ms, int(head["deadline"]), kept, first_ms, *due[:1000]]


# --- offsets --------------------------------------------------------------------------------------------------


def commit_offsets(
    memory: Memory, keys: Keys, member_id: Any, epoch: int, instance: Any, version: int, *words: Any
) -> int:
    group, member_id, instance = memory.groups.get(keys["head"]), as_text(member_id), as_text(instance)
    if group is None and epoch >= 0:
        if version >= 9:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, "there is no such group")
        raise KafkaError(ErrorCode.ILLEGAL_GENERATION, "there is no such group")
    if group is not None and not (epoch < 0 and group.head["phase"] == "Empty"):
        classic_group = group.head["type"] == "classic"
        if classic_group and epoch < 0 and not member_id and not instance:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, "the group has members: only they commit")
        timeout_ms, own, flags = _session(group, member_id, instance)
        if "c" not in flags and version < 9:
            raise KafkaError(
                ErrorCode.UNSUPPORTED_VERSION, "members of the consumer protocol commit with version 9 or above"
            )
        if epoch != (int(group.head["epoch"]) if classic_group else own):
            if "c" in flags:
                raise KafkaError(ErrorCode.ILLEGAL_GENERATION, "the generation is another one")
            raise KafkaError(ErrorCode.STALE_MEMBER_EPOCH, f"the member epoch is {own}")
        if group.head["phase"] == "CompletingRebalance":
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS, "the assignment is not there yet")
        if classic_group:
            _touch(memory, group, member_id, timeout_ms)
    now = memory.now_ms()
    for at in range(0, len(words), 3):
        partition, before, after = words[at : at + 3]
        memory.hashes[keys["offsets"]][as_bytes(partition)] = as_bytes(before) + b"%d" % now + as_bytes(after)
    return now


def fetch_offsets(memory: Memory, keys: Keys, member_id: Any, epoch: int, everything: int, *partitions: Any) -> Any:
    group = memory.groups.get(keys["head"])
    if epoch >= 0 and group is not None and group.head["type"] == "consumer":
        _, own, flags = _session(group, as_text(member_id), "")
        if epoch != own:
            if "c" in flags:
                raise KafkaError(ErrorCode.ILLEGAL_GENERATION, "the generation is another one")
            raise KafkaError(ErrorCode.STALE_MEMBER_EPOCH, f"the member epoch is {own}")
    offsets = memory.hashes[keys["offsets"]]
    if everything:
        return [word for pair in offsets.items() for word in pair]
    return [offsets.get(as_bytes(partition)) for partition in partitions]


def forget_offsets(memory: Memory, keys: Keys, known: Any, *words: Any) -> int:
    group = memory.groups.get(keys["head"])
    if (group.version if group else 0) != int(known):
        return -1
    offsets, deleted = memory.hashes[keys["offsets"]], 0
    for at in range(0, len(words), 2):
        partition, entry = as_bytes(words[at]), as_bytes(words[at + 1])
        if partition in offsets and entry in (b"", offsets[partition]):
            del offsets[partition]
            deleted += 1
    return deleted
