"""The consumer protocol: what consumers of classic groups put into a subscription and an assignment.

The broker never needs these bytes to run a group. It reads them to tell people who reads what, which topics a group is
subscribed to, and to turn a classic group into a KIP-848 one. Every version is a prefix-compatible extension of v0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from redbroker.types import TopicPartition
from redbroker.wire.schema import MalformedMessage, decoder, encoder, parse

SUBSCRIPTION = parse(
    """
    topics              []str
    user_data           bytes   ?0+     =null
    owned_partitions    []      1+
        topic           str
        partitions      []i32
    generation_id       i32     2+      =-1
    rack_id             str     3+      ?3+  =null
    """,
    "ConsumerProtocolSubscription",
)
ASSIGNMENT = parse(
    """
    assigned_partitions []
        topic           str
        partitions      []i32
    user_data           bytes   ?0+     =null
    """,
    "ConsumerProtocolAssignment",
)
AssignedTopic = ASSIGNMENT.struct("assigned_partitions")
NEWEST = 3


class Subscription(NamedTuple):
    """What one member wants and has. `generation` is -1 where the member did not tell it (before v2)."""

    version: int
    topics: tuple[str, ...]
    owned: tuple[TopicPartition, ...] = ()
    generation: int = -1
    rack: str | None = None
    user_data: bytes = b""


def read_subscription(data: bytes) -> Subscription:
    """Decode a member's metadata; `MalformedMessage` when it is no subscription."""
    version, value = _read(SUBSCRIPTION, data)
    owned = tuple(TopicPartition(one.topic, index) for one in value.owned_partitions for index in one.partitions)
    return Subscription(
        version, tuple(value.topics), owned, value.generation_id, value.rack_id, bytes(value.user_data or b"")
    )


def read_assignment(data: bytes) -> tuple[TopicPartition, ...]:
    """Decode an assignment; empty bytes are an empty one, `MalformedMessage` when it is none."""
    if not data:
        return ()
    _, value = _read(ASSIGNMENT, data)
    return tuple(TopicPartition(one.topic, index) for one in value.assigned_partitions for index in one.partitions)


def write_assignment(partitions: Any, version: int = 0, user_data: bytes | None = None) -> bytes:
    """Encode an assignment of `TopicPartition`s, as the leader of a classic group would."""
    topics: dict[str, list[int]] = {}
    for topic, index in partitions:
        topics.setdefault(topic, []).append(index)
    value = ASSIGNMENT.cls(
        assigned_partitions=[AssignedTopic(topic=topic, partitions=indexes) for topic, indexes in topics.items()],
        user_data=user_data,
    )
    parts: list[bytes] = [version.to_bytes(2, "big")]
    encoder(ASSIGNMENT, min(version, NEWEST), False)(value, parts.append)
    return b"".join(parts)


def _read(message: Any, data: bytes) -> tuple[int, Any]:
    """The version in front, and the message as the newest version we know of it."""
    if len(data) < 2:
        raise MalformedMessage("the version is missing")
    version = int.from_bytes(data[:2], "big", signed=True)
    if version < 0:
        raise MalformedMessage(f"{version} is not a version")
    value, _ = decoder(message, min(version, NEWEST), False)(data, 2)
    return version, value
