"""Which partition a key belongs to: Kafka's own choice, so that all clients put a key's records in one partition.

The hash is murmur2 with Kafka's seed, as in the Java clients' `Utils.murmur2` and `BuiltInPartitioner`. librdkafka's
default (`consistent_random`) is CRC-32 instead: clients that must agree set `partitioner=murmur2_random` there.
"""

from __future__ import annotations

SEED = 0x9747B28C
MULTIPLIER = 0x5BD1E995
WORD = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 of the bytes, unsigned."""
    length = len(data)
    value = SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        piece = int.from_bytes(data[at : at + 4], "little") * MULTIPLIER & WORD
        piece = (piece ^ piece >> 24) * MULTIPLIER & WORD
        value = value * MULTIPLIER & WORD ^ piece
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * MULTIPLIER & WORD
    value = (value ^ value >> 13) * MULTIPLIER & WORD
    return value ^ value >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among `partitions`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
