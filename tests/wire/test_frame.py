"""Request and response headers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.wire.frame import RequestHeader, peek, read_request_header, response_frame, response_head
from redbroker.wire.schema import MalformedMessage

FIXED = "0003 000c 00000007"


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


def test_a_header_tells_api_version_correlation_and_client() -> None:
    buffer = hexed(FIXED + "0002 6869 ff")
    assert read_request_header(buffer, flexible=False) == (RequestHeader(3, 12, 7, "hi"), 12)
    assert peek(buffer) == (3, 12, 7)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_flexible_header_ends_with_tagged_fields(kind: type) -> None:
    buffer = kind(hexed(FIXED + "0002 6869 01 0001aa ff"))
    assert read_request_header(buffer, flexible=True) == (RequestHeader(3, 12, 7, "hi"), 16)


def test_a_client_may_have_no_name() -> None:
    assert read_request_header(hexed(FIXED + "ffff"), flexible=False) == (RequestHeader(3, 12, 7, None), 10)


@pytest.mark.parametrize(
    "data", ["", "0003", FIXED, FIXED + "00", FIXED + "0003 6869", FIXED + "fffe", FIXED + "0002 c328"]
)
@pytest.mark.parametrize("flexible", [False, True])
def test_a_broken_header_is_malformed(data: str, flexible: bool) -> None:
    with pytest.raises(MalformedMessage):
        read_request_header(hexed(data), flexible)


def test_a_flexible_header_without_tagged_section_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        read_request_header(hexed(FIXED + "ffff"), flexible=True)


def test_too_few_bytes_to_peek_are_malformed() -> None:
    with pytest.raises(MalformedMessage):
        peek(b"1234567")


@given(st.binary(max_size=40), st.booleans())
def test_random_bytes_are_malformed_or_a_header(data: bytes, flexible: bool) -> None:
    with contextlib.suppress(MalformedMessage):
        _, pos = read_request_header(data, flexible)
        assert 10 <= pos <= len(data)


def test_a_response_head_is_the_correlation_id() -> None:
    assert response_head(7, flexible=False).hex() == "00000007"
    assert response_head(7, flexible=True).hex() == "0000000700"


@pytest.mark.parametrize("flexible", [False, True])
def test_a_response_frame_counts_what_follows_its_size(flexible: bool) -> None:
    big = memoryview(b"x" * 1000)
    frame = response_frame(7, flexible, [b"ab", big])
    assert frame[2] is big
    whole = b"".join(frame)
    assert whole[4:] == response_head(7, flexible) + b"ab" + big
    assert int.from_bytes(whole[:4], "big") == len(whole) - 4
