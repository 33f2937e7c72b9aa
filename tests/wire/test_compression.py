"""Codecs against aiokafka's, and against data made to hurt."""

from __future__ import annotations

import gzip
import os
import random
import tracemalloc

import aiokafka.codec as aio
import cramjam
import pytest

from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.compression import CODECS, GZIP, LZ4, NONE, SNAPPY, ZSTD, compress, decompress

ROOM = 8 * 1024 * 1024
SAMPLES = [b"", b"a", b"abc" * 50_000, os.urandom(100_000), bytes(3_000_000)]
THEIRS = {
    GZIP: (aio.gzip_encode, aio.gzip_decode),
    SNAPPY: (aio.snappy_encode, aio.snappy_decode),
    LZ4: (aio.lz4_encode, aio.lz4_decode),
    ZSTD: (aio.zstd_encode, aio.zstd_decode),
}
every_codec = pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD], ids=["gzip", "snappy", "lz4", "zstd"])
every_sample = pytest.mark.parametrize("data", SAMPLES, ids=["empty", "byte", "text", "noise", "zeros"])


@every_codec
@every_sample
def test_data_come_back(codec: int, data: bytes) -> None:
    assert decompress(codec, compress(codec, data), ROOM) == data


@every_codec
@every_sample
def test_aiokafka_reads_what_we_write_and_we_read_what_it_writes(codec: int, data: bytes) -> None:
    encode, decode = THEIRS[codec]
    assert bytes(decode(compress(codec, data))) == data
    for kind in (bytes, bytearray, memoryview):
        assert decompress(codec, kind(encode(data)), ROOM) == data


def test_no_codec_is_no_change() -> None:
    assert compress(NONE, b"as it is") == b"as it is" == decompress(NONE, memoryview(b"as it is"), 8)


def test_codecs_have_kafkas_names_and_numbers() -> None:
    assert CODECS == {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def test_bare_snappy_is_read() -> None:
    assert decompress(SNAPPY, bytes(cramjam.snappy.compress_raw(b"abc" * 100)), ROOM) == b"abc" * 100


def test_lz4_blocks_are_independent() -> None:
    frame = compress(LZ4, b"abc" * 100_000)
    assert frame[:4] == bytes.fromhex("04224d18")
    assert frame[4] >> 6 == 1 and frame[4] & 0x20


def test_several_gzip_members_are_read_as_one() -> None:
    assert decompress(GZIP, gzip.compress(b"first") + gzip.compress(b"second"), ROOM) == b"firstsecond"


@pytest.mark.parametrize("codec", [-1, 5, 7])
def test_an_unknown_codec_is_unsupported(codec: int) -> None:
    for attempt in (lambda: compress(codec, b""), lambda: decompress(codec, b"", 9)):
        with pytest.raises(KafkaError) as refusal:
            attempt()
        assert refusal.value.code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_the_bound_is_exact(codec: int) -> None:
    data = bytes(range(256)) * 1000
    packed = compress(codec, data)
    assert decompress(codec, packed, len(data)) == data
    with pytest.raises(KafkaError, match="more than") as refusal:
        decompress(codec, packed, len(data) - 1)
    assert refusal.value.code == ErrorCode.CORRUPT_MESSAGE


@every_codec
def test_a_bomb_is_refused_before_it_goes_off(codec: int) -> None:
    bomb = compress(codec, bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(KafkaError) as refusal:
            decompress(codec, bomb, 1_000_000)
        assert refusal.value.code == ErrorCode.CORRUPT_MESSAGE
        assert tracemalloc.get_traced_memory()[1] < 6_000_000 + 2 * len(bomb)
    finally:
        tracemalloc.stop()


@every_codec
def test_broken_data_are_corrupt_and_nothing_else(codec: int) -> None:
    dice = random.Random(codec)
    whole = compress(codec, b"some text, some more text" * 200 + dice.randbytes(100))
    for _ in range(300):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        del data[dice.randrange(1, 3 * len(data)) :]
        try:
            decompress(codec, data, 100_000)
        except KafkaError as error:
            assert error.code == ErrorCode.CORRUPT_MESSAGE
    for junk in (b"junk", dice.randbytes(200)):
        with pytest.raises(KafkaError):
            decompress(codec, junk, 100_000)


@pytest.mark.parametrize("tail", ["00", "00000004", "00000001", "ffffffff"])
def test_a_snappy_block_beyond_the_end_is_corrupt(tail: str) -> None:
    with pytest.raises(KafkaError):
        decompress(SNAPPY, compress(SNAPPY, b"good") + bytes.fromhex(tail), 1000)
