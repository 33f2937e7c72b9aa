"""The few Kafka frames the raw clients send, built here so that the load does not change with RedBroker's own codec.

Layouts: Kafka protocol guide (ApiVersions v0, Produce v9) and KIP-98 (record batch v2).
"""

from __future__ import annotations

import struct
import time

from fastcrc.crc32 import iscsi

CLIENT_ID = b"bench"


def frame(payload: bytes) -> bytes:
    """The payload with its length before it."""
    return struct.pack(">i", len(payload)) + payload


def api_versions_request() -> bytes:
    """ApiVersions v0, which every broker answers before anything else."""
    return frame(struct.pack(">hhih", 18, 0, 1, len(CLIENT_ID)) + CLIENT_ID)


def unsigned_varint(value: int) -> bytes:
    """Kafka's UNSIGNED_VARINT."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint(value: int) -> bytes:
    """Kafka's VARINT (zigzag)."""
    return unsigned_varint(value << 1 if value >= 0 else (-value << 1) - 1)


def one_record_batch(value: bytes) -> bytes:
    """An uncompressed record batch v2 holding one record without a key."""
    now_ms = int(time.time() * 1000)
    body = b"\x00" + varint(0) + varint(0) + varint(-1) + varint(len(value)) + value + varint(0)
    record = varint(len(body)) + body
    covered = struct.pack(">hiqqqhii", 0, 0, now_ms, now_ms, -1, -1, -1, 1) + record
    tail = struct.pack(">ibI", -1, 2, iscsi(covered)) + covered
    return struct.pack(">qi", 0, len(tail)) + tail


def produce_request(topic: str, partition: int, batch: bytes) -> bytes:
    """Produce v9, acks=all, one partition."""
    name = topic.encode()
    header = struct.pack(">hhih", 0, 9, 7, len(CLIENT_ID)) + CLIENT_ID + b"\x00"
    body = b"\x00" + struct.pack(">hi", -1, 30_000) + b"\x02" + unsigned_varint(len(name) + 1) + name
    body += b"\x02" + struct.pack(">i", partition) + unsigned_varint(len(batch) + 1) + batch + b"\x00\x00\x00"
    return frame(header + body)


def produce_error_at(topic: str) -> int:
    """Where the two bytes of the partition's error code stand in a Produce v9 answer to `produce_request`."""
    # length, correlation id, header tags, topics length, name length and name, partitions length, index
    return 4 + 4 + 1 + 1 + 1 + len(topic.encode()) + 1 + 4
