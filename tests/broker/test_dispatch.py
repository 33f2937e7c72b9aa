"""One request in, one answer out: refusals, failures, and how answers are cut into segments."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from typing import Any, cast

import pytest

from redbroker.broker.api import APIS, load
from redbroker.broker.dispatch import JOIN_BYTES, Refused, answer, encode, joined, read_request
from redbroker.broker.server import Server
from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from tests.support.raw import (
    BARE_KEY,
    BROKEN_KEY,
    ECHO_KEY,
    LARGE_KEY,
    SILENT_KEY,
    RawEngine,
    Stage,
    request,
    staged_apis,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(stage: Stage) -> Iterator[Server]:
    """A server that does not listen, with the steered APIs."""
    load()
    with staged_apis(stage):
        yield Server(cast("Any", RawEngine()), Settings())


async def ask(server: Server, frame: bytes) -> bytes | None:
    segments = await answer(read_request(frame[4:]), server.broker, "somewhere")
    return None if segments is None else b"".join(segments)


async def test_an_answer_carries_its_size_and_correlation_id(server: Server) -> None:
    assert await ask(server, request(ECHO_KEY, 5, correlation_id=77)) == struct.pack(">iiq", 12, 77, 5)


async def test_no_answer_is_no_answer(server: Server) -> None:
    assert await ask(server, request(SILENT_KEY, 5)) is None


async def test_a_refused_request_is_answered_in_its_apis_own_words_with_one_log_line(
    server: Server, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.raises = KafkaError(ErrorCode.POLICY_VIOLATION, "Not here.")
    with caplog.at_level(logging.INFO, "redbroker"):
        assert await ask(server, request(BROKEN_KEY, 5)) == struct.pack(">iiq", 12, 5, 44)
    [line] = caplog.messages
    assert "Broken v0" in line
    assert "correlation_id=5" in line
    assert "client_id='test'" in line
    assert "Not here." in line


async def test_an_unexpected_failure_is_an_unknown_server_error_and_one_log_line(
    server: Server, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.raises = ZeroDivisionError("oops")
    assert await ask(server, request(BROKEN_KEY, 5)) == struct.pack(">iiq", 12, 5, -1)
    [record] = caplog.records
    assert "oops" in record.getMessage()
    assert "correlation_id=5" in record.getMessage()
    assert record.exc_info


async def test_an_answer_that_cannot_be_encoded_is_an_unexpected_failure(
    server: Server, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nonsense(request: Any, ctx: Any) -> Any:
        return APIS[BROKEN_KEY].Response(number="no number")

    monkeypatch.setattr(APIS[BROKEN_KEY], "handler", nonsense)
    assert await ask(server, request(BROKEN_KEY, 5)) == struct.pack(">iiq", 12, 5, -1)


async def test_a_failure_that_cannot_be_told_closes_the_connection(server: Server) -> None:
    with pytest.raises(Refused, match="Bare has no answer for POLICY_VIOLATION"):
        await ask(server, request(BARE_KEY, 5))


@pytest.mark.parametrize("cut", range(12))
async def test_a_truncated_request_is_malformed(server: Server, cut: int) -> None:
    frame = request(ECHO_KEY, 5)[4:]
    with pytest.raises(Refused, match="malformed"):
        read_request(frame[: len(frame) - 1 - cut])


async def test_an_unknown_api_and_version_are_named(server: Server) -> None:
    with pytest.raises(Refused, match="API key 4711"):
        read_request(request(4711, 5)[4:])
    with pytest.raises(Refused, match="Echo version 3 is not supported"):
        read_request(request(ECHO_KEY, 5, version=3)[4:])


async def test_every_outcome_is_counted_by_api_and_error(server: Server, stage: Stage) -> None:
    await ask(server, request(ECHO_KEY, 1))
    await ask(server, request(ECHO_KEY, 2))
    await ask(server, request(BROKEN_KEY, 3))
    cells = server.metrics.requests
    assert cells["Echo"].by_error == {0: 2}
    assert cells["Broken"].by_error == {44: 1}
    assert sum(cells["Echo"].buckets) == 2


async def test_a_large_byte_field_leaves_uncopied(server: Server) -> None:
    data = bytes(JOIN_BYTES)
    segments = encode(read_request(request(LARGE_KEY, 5)[4:]), APIS[LARGE_KEY].Response(data=data))
    assert segments is not None
    assert any(segment is data for segment in segments)
    assert b"".join(segments)[:4] == struct.pack(">i", len(b"".join(segments)) - 4)


def test_runs_of_small_segments_are_joined_and_large_ones_kept() -> None:
    large = bytes(JOIN_BYTES)
    assert joined([b"a", b"b", large, large, b"c"]) == [b"ab", large, large, b"c"]
    assert joined([large]) == [large]
