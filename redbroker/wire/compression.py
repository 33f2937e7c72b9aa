"""The compression codecs of Kafka's record batches, by the number in the batch's attributes.

    0 none   1 gzip   2 snappy   3 lz4   4 zstd

* snappy is written in the framing of xerial's Java library, which Kafka's clients expect; bare snappy is read too.
* lz4 is the frame format with independent blocks: Kafka's Java reader refuses linked ones.
* gzip may come in several members and zstd or lz4 in several frames; they are read as one.

Decompression never yields more than the caller allows, nor holds more than a few times that meanwhile: a batch
of a kilobyte may claim gigabytes. Broken and oversized data are CORRUPT_MESSAGE, unknown codecs
UNSUPPORTED_COMPRESSION_TYPE.

    xerial    magic 82 'SNAPPY' 00 | version i32 | lowest compatible version i32 | { size i32 | bare snappy } ...
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import cramjam

from redbroker.errors import ErrorCode, KafkaError

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
"""The codecs by the names Kafka's `compression.type` uses."""

Buffer = bytes | bytearray | memoryview

XERIAL_MAGIC = b"\x82SNAPPY\x00"
XERIAL_HEAD = XERIAL_MAGIC + struct.pack(">ii", 1, 1)
XERIAL_BLOCK_BYTES = 32 * 1024
SIZE = struct.Struct(">i")
GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to ask for gzip's header and trailer
FIRST_GUESS_BYTES = 64 * 1024
TOO_SMALL = "write whole buffer"  # what cramjam says when its output does not fit


def compress(codec: int, data: bytes) -> bytes:
    """The data in a codec's format; `codec` is a number of `CODECS`."""
    if codec == NONE:
        return data
    if codec == GZIP:
        deflate = zlib.compressobj(wbits=GZIP_WINDOW)
        return deflate.compress(data) + deflate.flush()
    if codec == SNAPPY:
        return _to_xerial(data)
    if codec == LZ4:
        frame = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
        frame.compress(data)
        return bytes(frame.finish())
    if codec == ZSTD:
        return bytes(cramjam.zstd.compress(data))
    raise _unknown(codec)


def decompress(codec: int, data: Buffer, bytes_max: int) -> bytes:
    """The data behind a codec's format, at most `bytes_max` of it; KafkaError when broken, larger or unknown."""
    if codec == NONE:
        if len(data) > bytes_max:
            raise _too_large(bytes_max)
        return bytes(data)
    if codec == GZIP:
        return _from_gzip(data, bytes_max)
    if codec == SNAPPY:
        return _from_snappy(data, bytes_max)
    if codec == LZ4:
        return _into_scratch(cramjam.lz4.decompress_into, data, bytes_max)
    if codec == ZSTD:
        return _into_scratch(cramjam.zstd.decompress_into, data, bytes_max)
    raise _unknown(codec)


def _unknown(codec: int) -> KafkaError:
    return KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"There is no compression codec {codec}.")


def _corrupt(why: object) -> KafkaError:
    return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"The records cannot be decompressed: {why}.")


def _too_large(bytes_max: int) -> KafkaError:
    return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"The records take more than {bytes_max} bytes when decompressed.")


def _from_gzip(data: Buffer, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    left, rest = bytes_max, bytes(data)
    while rest or not parts:
        member = zlib.decompressobj(GZIP_WINDOW)
        try:
            part = member.decompress(rest, left + 1)
        except zlib.error as error:
            raise _corrupt(error) from error
        if len(part) > left:
            raise _too_large(bytes_max)
        if not member.eof:
            raise _corrupt("the gzip stream ends early")
        parts.append(part)
        left -= len(part)
        rest = member.unused_data
    return b"".join(parts)


def _to_xerial(data: bytes) -> bytes:
    parts = [XERIAL_HEAD]
    for start in range(0, max(1, len(data)), XERIAL_BLOCK_BYTES):  # some readers want one at least
        block = bytes(cramjam.snappy.compress_raw(data[start : start + XERIAL_BLOCK_BYTES]))
        parts += SIZE.pack(len(block)), block
    return b"".join(parts)


def _from_snappy(data: Buffer, bytes_max: int) -> bytes:
    view = memoryview(data)
    if view[: len(XERIAL_MAGIC)] != XERIAL_MAGIC:
        return _from_bare_snappy(view, bytes_max)
    parts: list[bytes] = []
    left, pos, end = bytes_max, len(XERIAL_HEAD), len(view)
    while pos < end:
        if pos + SIZE.size > end:
            raise _corrupt("a snappy block has no size")
        (size,) = SIZE.unpack_from(view, pos)
        pos += SIZE.size
        if not 0 <= size <= end - pos:
            raise _corrupt("a snappy block reaches past the end")
        parts.append(_from_bare_snappy(view[pos : pos + size], left))
        left -= len(parts[-1])
        pos += size
    return b"".join(parts)


def _from_bare_snappy(view: memoryview, bytes_max: int) -> bytes:
    try:
        if cramjam.snappy.decompress_raw_len(view) > bytes_max:  # the block opens with its true size
            raise _too_large(bytes_max)
        return bytes(cramjam.snappy.decompress_raw(view))
    except cramjam.DecompressionError as error:
        raise _corrupt(error) from error


def _into_scratch(decompress_into: Callable[[Any, Any], int], data: Buffer, bytes_max: int) -> bytes:
    """Decompresses into a buffer that grows until the output fits: neither format need state its size in front."""
    room = min(bytes_max, max(FIRST_GUESS_BYTES, 4 * len(data)))
    while True:
        scratch = bytearray(room)
        try:
            nbytes = decompress_into(data, scratch)
        except cramjam.DecompressionError as error:
            if TOO_SMALL not in str(error):
                raise _corrupt(error) from error
            if room == bytes_max:
                raise _too_large(bytes_max) from error
            room = min(bytes_max, 8 * room)
            continue
        return bytes(memoryview(scratch)[:nbytes])
