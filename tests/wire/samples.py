"""Random messages for tests: objects of any `Struct` at any version, and broken variants of their bytes."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

from redbroker.wire.schema import NULL_UUID, Field, Struct, encoder

SIZES = {"i8": 7, "i16": 15, "i32": 31, "i64": 63, "u16": 16, "u32": 32}
TEXTS = ("", "a", "orders", "naïve ☃ 𝄞", "x" * 126, "y" * 127, "z" * 300)
ERROR_CODES = (0, 1, 3, 6, 16, 35, 79, 100)

EVERYTHING = """
    flag               bool
    small              i8
    port               u16
    serial             u32
    ratio              f64
    client             str                            -- a comment
    rack               str       1+   ?1+ =null
    id                 uuid
    payload            bytes
    note               bytes          ?0+
    records            records
    partitions         []i32          ?1+
    flags              []bool
    names              []str
    ids                []uuid
    gone               i32       0-1 =7
    cursor             {}        1+   ?1+ =null
        topic          str
        index          i32
    required           {}
        low            i64       =-1
        words          []str
    topics             []             ?2+
        name           str
        partitions     []
            index      i32
            epoch      i32       2+   =-1
            leader     {}        2+   #3
                id     i32       =-1
                epoch  i32       =-1
            records    records
        rare           str       2+   #0 ?2+ =null
    tagged_number      i64       2+   #0 =-1
    tagged_text        str       2+   #1
    tagged_list        []i32     2+   #2
    tagged_structs     []        2+   #5 ?2+
        host           str
    tagged_maybe       {}        2+   #9 ?2+ =null
        host           str
"""
"""A table with every feature; flexible from version 2."""


def number(dice: random.Random, bits: int, signed: bool) -> int:
    edge = dice.choice((0, 1, (1 << bits) - 1, dice.getrandbits(bits), dice.getrandbits(min(bits, 8))))
    return -edge - 1 if signed and dice.random() < 0.3 else edge


def value_of(dice: random.Random, line: Field, version: int, tame: bool = False) -> Any:
    """A random value of a field. `tame`: nothing that an oracle with types of its own would refuse."""
    if line.nullable(version) and dice.random() < 0.3:
        return None
    kind = line.type
    if line.array:
        return [value_of(dice, line.item, version, tame) for _ in range(dice.choice((0, 1, 1, 2, 3)))]
    if line.struct is not None:
        return object_of(dice, line.struct, version, tame)
    if kind == "bool":
        return dice.random() < 0.5
    if kind in SIZES:
        if tame and "error_code" in line.name:
            return dice.choice(ERROR_CODES)
        return dice.randrange(1 << min(SIZES[kind], 20)) if tame else number(dice, SIZES[kind], kind[0] == "i")
    if kind == "f64":
        return dice.random() * 1000
    if kind == "str":
        return dice.choice(TEXTS)
    if kind == "uuid":
        return dice.choice((NULL_UUID, UUID(int=dice.getrandbits(128))))
    return dice.randbytes(dice.choice((0, 1, 5, 126, 127, 1000)))


def object_of(dice: random.Random, struct: Struct, version: int, tame: bool = False) -> Any:
    """A random object of a struct; fields of other versions, and some tagged ones, keep their defaults."""
    values = {
        line.name: value_of(dice, line, version, tame)
        for line in struct.fields
        if version in line.versions and not (line.tag is not None and dice.random() < 0.5)
    }
    return struct.cls(**values)


def encoded(struct: Struct, version: int, flexible: bool, value: Any) -> bytes:
    parts: list[Any] = []
    encoder(struct, version, flexible)(value, parts.append)
    return b"".join(parts)


def broken(dice: random.Random, data: bytes) -> bytes:
    """The data cut, flipped, stuffed or lengthened somewhere."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(5):
            case 0:
                del out[at:]
            case 1 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 2:
                out[at : at + 4] = dice.choice(
                    (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f")
                )
            case 3:
                out[at:at] = dice.randbytes(3)
            case _:
                out[at : at + 5] = b"\xff\xff\xff\xff\x0f"
    return bytes(out)
