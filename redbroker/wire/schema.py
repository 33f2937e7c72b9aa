"""Kafka messages from text tables to compiled codecs: the door of this package for messages.

    REQUEST = parse("groups []str", "DeleteGroupsRequest")
    decode = decoder(REQUEST, version=2, flexible=True)
    request, pos = decode(frame, pos)                       # REQUEST.cls(groups=["a", "b"])

    parts: list[bytes] = []
    encoder(REQUEST, 2, True)(REQUEST.cls(groups=["a"]), parts.append)

`tables` reads the text form, `generate` writes the functions. A codec is compiled when it is first asked for
(about a millisecond) and kept in its `Struct`.

Decoders take bytes, bytearray or memoryview and give `str` for strings and views into the buffer, without a
copy, for byte fields and record sets. They raise `MalformedMessage` and nothing else, and allocate no more
than the bytes at hand can pay for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redbroker.wire.generate import Decoder, Encoder
from redbroker.wire.primitives import NULL_UUID, MalformedMessage
from redbroker.wire.tables import Field, Struct, Versions, parse

__all__ = [
    "NULL_UUID", "Decode", "Encode", "Field", "MalformedMessage", "Struct", "Versions", "decoder", "encoder", "parse",
]  # fmt: skip

Buffer = bytes | bytearray | memoryview
Write = Callable[[Any], None]
Encode = Callable[[Any, Write], None]
"""`encode(obj, write)`: calls `write` (a list's `append`) with every piece of the message, in order."""
Decode = Callable[[Buffer, int], tuple[Any, int]]
"""`decode(buf, pos)`: the object, and the position behind it."""


def decoder(root: Struct, version: int, flexible: bool) -> Decode:
    """The decoder of a message at a version; compiled once."""
    codec: Decode = root.codecs.get((Decoder, version, flexible)) or _compile(Decoder, root, version, flexible)
    return codec


def encoder(root: Struct, version: int, flexible: bool) -> Encode:
    """The encoder of a message at a version; compiled once. A value of a wrong type raises what Python raises."""
    codec: Encode = root.codecs.get((Encoder, version, flexible)) or _compile(Encoder, root, version, flexible)
    return codec


def _compile(kind: type[Decoder] | type[Encoder], root: Struct, version: int, flexible: bool) -> Any:
    source = kind(version, flexible)
    source.write(root)
    codec = source.build(f"{kind.__name__} of {root.name} v{version}")
    root.codecs[kind, version, flexible] = codec
    return codec
