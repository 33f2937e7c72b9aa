"""Broken messages, batches and compressed data at every decoder, for as long as one likes.

    python -m tests.wire.fuzz 600        # seconds; another seed each time, printed at the start and on failure

The default test run does the same for a second or two.
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import time
from typing import Any

from fastcrc import crc32

from redbroker.broker.api import load
from redbroker.errors import KafkaError
from redbroker.wire.compression import CODECS, compress, decompress
from redbroker.wire.frame import read_request_header
from redbroker.wire.records import HEADER_BYTES, Record, build_batch, check_produced, iter_records
from redbroker.wire.schema import MalformedMessage, Struct, decoder
from tests.wire.samples import broken, encoded, object_of


def fuzz_message(dice: random.Random, shape: Struct, version: int, flexible: bool) -> None:
    """One valid message, broken in a few ways."""
    valid = encoded(shape, version, flexible, object_of(dice, shape, version))
    decode = decoder(shape, version, flexible)
    for _ in range(10):
        data = broken(dice, valid)
        with contextlib.suppress(MalformedMessage):
            _, pos = decode(data, 0)
            assert pos <= len(data)
        with contextlib.suppress(MalformedMessage):
            read_request_header(data, flexible)


def fuzz_batch(dice: random.Random) -> None:
    """A batch broken behind its checksum, which is made to match again: what a hostile producer would send."""
    records = [
        Record(i, 1000 + i, dice.randbytes(5), dice.randbytes(dice.randrange(300)), [("name", dice.randbytes(3))])
        for i in range(dice.randrange(1, 5))
    ]
    codec = dice.choice(list(CODECS))
    data = bytearray(build_batch(records, codec))
    data[HEADER_BYTES:] = broken(dice, bytes(data[HEADER_BYTES:]))
    struct.pack_into(">i", data, 8, len(data) - 12)
    if len(data) >= HEADER_BYTES:
        struct.pack_into(">I", data, 17, crc32.iscsi(bytes(data[21:])))
        check_produced(data, 1 << 20)
    with contextlib.suppress(KafkaError):
        list(iter_records(data, bytes_max=1 << 20))


def fuzz_compressed(dice: random.Random) -> None:
    """Compressed data, broken; what comes out stays within its bound."""
    codec = dice.choice(list(CODECS.values()))
    data = broken(dice, compress(codec, dice.randbytes(50) * dice.randrange(1, 200)))
    with contextlib.suppress(KafkaError):
        assert len(decompress(codec, data, 100_000)) <= 100_000


def main(seconds: float, seed: int) -> None:
    """Fuzzes until the time is over."""
    print(f"seed {seed}")
    dice = random.Random(seed)
    targets: list[Any] = [
        (side, version, version >= api.flexible)
        for api in load().values()
        for side in (api.request, api.response)
        for version in range(api.low, api.high + 1)
    ]
    deadline = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < deadline:
        try:
            fuzz_message(dice, *dice.choice(targets))
            fuzz_batch(dice)
            fuzz_compressed(dice)
        except BaseException:
            print(f"seed {seed}, round {rounds}")
            raise
        rounds += 1
    print(f"{rounds} rounds")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60, int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
