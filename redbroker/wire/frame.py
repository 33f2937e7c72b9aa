"""The headers of Kafka requests and responses, inside length-prefixed frames.

    frame     size i32 | header | body                    size counts what follows it
    request   api_key i16 | api_version i16 | correlation_id i32 | client_id nullable str | tagged section (v2)
    response  correlation_id i32 | tagged section (v1)

Header v2 and v1 belong to flexible versions; the client id stays an i16-sized string in all of them.
ApiVersions answers with response header v0 at every version, so that any client can read it (KIP-511):
its caller passes `flexible=False` here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from redbroker.wire.primitives import MalformedMessage, skip_tags

Buffer = bytes | bytearray | memoryview

SIZE = struct.Struct(">i")
PEEK = struct.Struct(">hhi")
REQUEST_HEAD = struct.Struct(">hhih")
RESPONSE_HEAD = struct.Struct(">i")
RESPONSE_FRAME_HEAD = struct.Struct(">ii")


class RequestHeader(NamedTuple):
    """Who asks what: `client_id` is None where the client sent null."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


def peek(buf: Buffer) -> tuple[int, int, int]:
    """(api_key, api_version, correlation_id) of a request frame, whatever its version; else `MalformedMessage`."""
    try:
        key, version, correlation_id = PEEK.unpack_from(buf)
    except struct.error as error:
        raise MalformedMessage(f"a request of {len(buf)} bytes has no header") from error
    return key, version, correlation_id


def read_request_header(buf: Buffer, flexible: bool) -> tuple[RequestHeader, int]:
    """The header of a request frame (without its size) and the position of the body; else `MalformedMessage`."""
    try:
        key, version, correlation_id, size = REQUEST_HEAD.unpack_from(buf)
        pos = REQUEST_HEAD.size
        client_id = None
        if size >= 0:
            stop = pos + size
            if stop > len(buf):
                raise MalformedMessage("the client id reaches past the end")
            client_id = str(buf[pos:stop], "utf-8")
            pos = stop
        elif size != -1:
            raise MalformedMessage("the client id has a negative length")
        if flexible:
            pos = skip_tags(buf, pos)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"request header: {error}") from error
    return RequestHeader(key, version, correlation_id, client_id), pos


def response_head(correlation_id: int, flexible: bool) -> bytes:
    """The response header alone, without the frame's size."""
    return RESPONSE_HEAD.pack(correlation_id) + (b"\0" if flexible else b"")


def response_frame(correlation_id: int, flexible: bool, body: Sequence[Any]) -> list[Any]:
    """A whole frame as segments for `writelines`: size and header in the first, then the body's as they are."""
    head_nbytes = RESPONSE_HEAD.size + flexible
    head = RESPONSE_FRAME_HEAD.pack(head_nbytes + sum(map(len, body)), correlation_id)
    return [head + b"\0" if flexible else head, *body]
