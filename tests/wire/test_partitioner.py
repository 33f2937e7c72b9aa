"""Keys go where Kafka's own clients put them."""

from __future__ import annotations

import pytest

from redbroker.wire.partitioner import murmur2, partition_of

# The vectors of Kafka's own UtilsTest.testMurmur2 (signed there).
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("data", VECTORS)
def test_the_hash_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == VECTORS[data] & 0xFFFFFFFF


def test_a_key_agrees_with_kafka_pythons_default_partitioner() -> None:
    from kafka.partitioner.default import murmur2 as kafkas

    for number in range(500):
        key = bytes(range(number % 37)) + str(number).encode()
        assert partition_of(key, 7) == (kafkas(key) & 0x7FFFFFFF) % 7
