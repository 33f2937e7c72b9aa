"""Groups as they are stored: the JSON value, and the differences that swap_group.lua writes beside it.

What heartbeats, commits and people read (sessions, beats, assignment, head) is derived from the value. Only differences
are written, so what a change costs follows what it changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import orjson

from redbroker.machines import consumer_group
from redbroker.machines.classic_group import EMPTY, STABLE, ClassicGroup
from redbroker.machines.group import Group, Session
from redbroker.types import TopicPartition
from redbroker.wire.consumer_protocol import read_assignment, read_subscription
from redbroker.wire.schema import MalformedMessage

CONSUMER = "consumer"
NOBODY: Mapping[str, Session] = {}


def pack(group: Group | None) -> bytes:
    """A group as it is stored; nothing where there is none."""
    return b"" if group is None else orjson.dumps(group.to_json())


def unpack(stored: bytes | None) -> Group | None:
    """The group that `pack` stored."""
    if not stored:
        return None
    value = orjson.loads(stored)
    return consumer_group.from_json(value) if value["type"] == CONSUMER else ClassicGroup.from_json(value)


def summary(group: Group | None) -> bytes:
    """What ListGroups tells of a group; one that only has offsets is an empty classic one."""
    group = group or ClassicGroup()
    return orjson.dumps({"type": group.type, "protocol_type": group.protocol_type, "phase": group.phase})


class Derived:
    """What is stored beside a group's value: its members' sessions and who reads what.

    `exact`: `owners` is what Redis has. A classic group that rebalances keeps those of its last stable state there,
    which its value does not tell: members of them may have left.
    """

    __slots__ = ("exact", "owners", "sessions", "statics")

    def __init__(self, group: Group | None, before: Derived | None = None) -> None:
        self.owners: Mapping[str, str] = {}
        self.exact = not isinstance(group, ClassicGroup) or group.phase in (STABLE, EMPTY)
        self.sessions: Mapping[str, Session] = NOBODY if group is None else group.sessions()
        self.statics = {each.instance_id: name for name, each in self.sessions.items() if each.instance_id is not None}
        if before is not None and not self.exact:
            self.owners, self.exact = before.owners, before.exact  # written with each stable state
        elif group is not None:
            self.owners = owners_of(group)


def changes(
    group: Group, before: Derived, after: Derived, touched: Collection[str], expired: Collection[str]
) -> dict[str, Any]:
    """The `changes` of swap_group.lua."""
    anew = after.exact and not before.exact
    renewed = {name for name, each in after.sessions.items() if before.sessions.get(name) != each} | set(touched)
    return {
        "head": {
            "type": group.type,
            "phase": group.phase,
            "epoch": str(group.epoch),
            "protocol_type": group.protocol_type,
            "deadline": str(group.next_deadline_ms or 0),
        },
        "static": {key: name for key, name in after.statics.items() if before.statics.get(key) != name},
        "static_gone": [key for key in before.statics if key not in after.statics],
        "sessions": {
            name: text(after.sessions[name]) for name in renewed if before.sessions.get(name) != after.sessions[name]
        },
        "gone": [name for name in before.sessions if name not in after.sessions],
        "watch": {name: after.sessions[name].timeout_ms for name in renewed if after.sessions[name].watched},
        "unwatch": [name for name in renewed if not after.sessions[name].watched],
        "expired": list(expired),
        "owners_anew": anew,
        "owners": {key: owner for key, owner in after.owners.items() if anew or before.owners.get(key) != owner},
        "owners_gone": [] if anew else [key for key in before.owners if key not in after.owners],
    }


def text(session: Session) -> str:
    """A session as beat_group.lua reads it."""
    flags = ("" if session.watched else "w") + ("" if session.steady else "n") + ("c" if session.classic else "")
    words = [str(session.timeout_ms), str(session.epoch), flags or "-"]
    return " ".join(words if session.instance_id is None else [*words, session.instance_id])


# --- what people and OffsetDelete ask: needs to look into the clients' bytes ------------------------------------


def owners_of(group: Group) -> Mapping[str, str]:
    """`topic:partition` -> `member id epoch client host`: the `assignment` hash."""
    if isinstance(group, consumer_group.Group):
        return group.owners()
    assert isinstance(group, ClassicGroup)
    if group.protocol_type != CONSUMER:
        return {}
    return {
        f"{topic}:{partition}": f"{member.id} {group.generation} {member.client_id} {member.client_host}"
        for member in group.members.values()
        for topic, partition in assigned(member.assignment)
    }


def reads(group: Group, topic: str) -> bool:
    """Whether a member reads this topic. When a subscription cannot be read, every topic may be meant."""
    if isinstance(group, consumer_group.Group):
        return group.subscribed(topic)
    assert isinstance(group, ClassicGroup)
    if group.protocol_type != CONSUMER:
        return False
    topics = [subscribed(member.metadata(group.protocol)) for member in group.members.values()]
    return any(each is None or topic in each for each in topics)


@lru_cache(4_096)
def assigned(assignment: bytes) -> tuple[TopicPartition, ...]:
    """The partitions of an assignment; none where it is not one of consumers."""
    with contextlib.suppress(MalformedMessage):
        return read_assignment(assignment)
    return ()


@lru_cache(4_096)
def subscribed(metadata: bytes) -> frozenset[str] | None:
    """The topics of a subscription, or None where it is not one of consumers."""
    with contextlib.suppress(MalformedMessage):
        return frozenset(read_subscription(metadata).topics)
    return None
