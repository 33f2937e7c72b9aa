"""Which partition a record goes to: by its key as the Java clients do, else one partition for a while (KIP-794).

A keyed record goes where murmur2 of its key says, so all clients put a key's records in one partition. Keyless ones
stay with a partition until `STICK_BYTES` have left for it or a batch of it is full: batches are large, and a producer
of few records still spreads them. Of two partitions drawn by lot the next is the one with less waiting, which keeps
away from a Redis node that is down.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from redbroker.wire.partitioner import partition_of

if TYPE_CHECKING:
    from redbroker.client.outbox import Outbox

__all__ = ["Partitioner", "keyed", "next_sticky"]

Partitioner = Callable[[str, bytes | None, int], int]
"""`(topic, key, partitions) -> partition`, for every record that names none."""

STICK_BYTES = 16 * 1024
"""Kafka's default `batch.size`, after which its own producer changes the partition."""

CACHED_KEY_BYTES_MAX = 64

_cached = functools.lru_cache(maxsize=16_384)(partition_of)


def keyed(key: bytes, partitions: int) -> int:
    """The partition of a key; those of short keys met lately are remembered."""
    return _cached(key, partitions) if len(key) <= CACHED_KEY_BYTES_MAX else partition_of(key, partitions)


def next_sticky(outboxes: Sequence[Outbox], current: int) -> Outbox:
    """The outbox for the keyless records to come, another one where there is one."""
    others = len(outboxes) - 1
    chosen = outboxes[0]
    if others:
        one, two = (outboxes[(current + 1 + random.randrange(others)) % (others + 1)] for _ in range(2))
        chosen = one if one.waiting_bytes <= two.waiting_bytes else two
    chosen.left_bytes = 0
    return chosen
