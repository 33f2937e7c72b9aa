"""One client connection: order, concurrency, bounds, time-outs. On both event loops."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any

import pytest

from redbroker.broker.api import APIS
from tests.support.raw import (
    API_VERSIONS,
    BARE_KEY,
    ECHO_KEY,
    LARGE_KEY,
    PARKED_KEY,
    SILENT_KEY,
    Stage,
    connected,
    framed,
    request,
    serving_raw,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(either_loop: Any) -> Any:
    return either_loop


async def test_answers_leave_in_request_order_whichever_is_ready_first(stage: Stage) -> None:
    gate = stage.gate(1)
    async with serving_raw(stage) as server, connected(server) as client:
        client.send(b"".join(request(ECHO_KEY, n) for n in (1, 2, 3)))
        await until(lambda: stage.ended == [2, 3])
        gate.set()
        assert await client.numbers(3) == [1, 2, 3]


async def test_requests_start_in_arrival_order(stage: Stage) -> None:
    async with serving_raw(stage) as server, connected(server) as client:
        client.send(b"".join(request(ECHO_KEY, n) for n in range(250)))
        assert await client.numbers(250) == list(range(250))
        assert stage.started == list(range(250))


async def test_a_request_sent_byte_by_byte_is_answered(stage: Stage) -> None:
    async with serving_raw(stage) as server, connected(server) as client:
        for byte in request(ECHO_KEY, 5):
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await client.numbers(1) == [5]


async def test_a_large_frame_between_small_ones_arrives_whole(stage: Stage) -> None:
    filler = bytes(range(256)) * 20_000
    async with serving_raw(stage, control_frame_bytes_max=10_000_000) as server, connected(server) as client:
        large = framed(struct.pack(">hhih", ECHO_KEY, 0, 2, -1) + struct.pack(">q", 2) + filler)
        client.send(request(ECHO_KEY, 1) + large + request(ECHO_KEY, 3))
        assert await client.numbers(3) == [1, 2, 3]
        assert stage.started == [1, 2, 3]
        await until(lambda: server.budget.held_bytes == 0)


async def test_no_more_than_the_allowed_requests_run_at_once(stage: Stage) -> None:
    gates = [stage.gate(n) for n in range(30)]
    async with serving_raw(stage, requests_in_flight_max=4) as server, connected(server) as client:
        client.send(b"".join(request(ECHO_KEY, n) for n in range(30)))
        await until(lambda: stage.running == 4)
        for gate in gates:
            gate.set()
        assert await client.numbers(30) == list(range(30))
        assert stage.running_max == 4


async def test_a_request_without_an_answer_leaves_no_gap(stage: Stage) -> None:
    async with serving_raw(stage) as server, connected(server) as client:
        client.send(request(ECHO_KEY, 1) + request(SILENT_KEY, 2) + request(ECHO_KEY, 3))
        assert await client.numbers(2) == [1, 3]
        client.send(request(SILENT_KEY, 4) + request(ECHO_KEY, 5))
        assert await client.numbers(1) == [5]


async def test_a_large_answer_waits_for_its_turn(stage: Stage) -> None:
    gate = stage.gate(1)
    async with serving_raw(stage) as server, connected(server) as client:
        client.send(request(ECHO_KEY, 1) + request(LARGE_KEY, 1_000_000) + request(ECHO_KEY, 3))
        await until(lambda: 3 in stage.ended)
        assert 1_000_000 not in stage.started
        gate.set()
        assert await client.numbers(1) == [1]
        number, body = await client.answer()
        assert (number, len(body)) == (1_000_000, 1_000_004)
        assert await client.numbers(1) == [3]


async def test_a_parked_request_ends_with_its_connection(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        async with connected(server) as client:
            client.send(request(PARKED_KEY, 1))
            await until(lambda: stage.started == [1])
        await until(lambda: stage.cancelled == [1])
        await until(lambda: not server.connections and server.budget.held_bytes == 0)


async def test_a_request_that_does_not_park_is_finished_though_its_client_left(stage: Stage) -> None:
    gate = stage.gate(1)
    async with serving_raw(stage) as server:
        async with connected(server) as client:
            client.send(request(ECHO_KEY, 1))
            await until(lambda: stage.started == [1])
        await until(lambda: not server.connections)
        gate.set()
        await until(lambda: stage.ended == [1])
        assert stage.cancelled == []


async def test_frames_that_arrived_before_their_client_left_are_served(stage: Stage) -> None:
    async with serving_raw(stage, requests_in_flight_max=2) as server:
        async with connected(server) as client:
            client.send(b"".join(request(SILENT_KEY, n) for n in range(20)) + request(PARKED_KEY, 99))
            client.writer.close()
            await client.writer.wait_closed()
        await until(lambda: stage.started[:20] == list(range(20)) and not server.connections)
        await until(lambda: server.budget.held_bytes == 0)


async def test_a_client_that_reads_nothing_is_closed_and_costs_little(stage: Stage) -> None:
    async with (
        serving_raw(stage, stalled_connection_ms=400) as server,
        connected(server, receive_bytes=4_096) as client,
        connected(server) as other,
    ):
        client.writer.transport.set_write_buffer_limits(high=1 << 30)
        client.send(request(LARGE_KEY, 2_000_000) * 500)
        await until(lambda: stage.started)
        await asyncio.sleep(0.1)
        assert len(stage.started) < 10  # not 500 times 2 MB
        other.send(API_VERSIONS)
        assert (await other.answer())[0] == 99
        await until(lambda: len(server.connections) == 1)
        assert server.metrics.connections_closed["stalled"] == 1


async def test_a_slow_reader_that_reads_on_is_kept(stage: Stage) -> None:
    async with (
        serving_raw(stage, stalled_connection_ms=1_500) as server,
        connected(server, receive_bytes=4_096) as client,
    ):
        client.send(request(LARGE_KEY, 8_000_000))
        for _ in range(12):
            await asyncio.sleep(0.2)
            await client.reader.readexactly(300_000)
        assert len(server.connections) == 1


async def test_a_client_that_stops_within_a_frame_is_closed(stage: Stage) -> None:
    async with serving_raw(stage, stalled_connection_ms=200) as server, connected(server) as client:
        client.send(request(ECHO_KEY, 1) + request(ECHO_KEY, 2)[:-3])
        assert await client.numbers(1) == [1]
        assert await client.closed()
        assert server.metrics.connections_closed == {"stalled": 1}


async def test_an_idle_connection_is_closed_but_not_one_that_is_owed_an_answer(stage: Stage) -> None:
    gate = stage.gate(1)
    async with (
        serving_raw(stage, idle_connection_ms=1_000) as server,
        connected(server) as idle,
        connected(server) as waiting,
    ):
        waiting.send(request(ECHO_KEY, 1))
        assert await idle.closed()
        assert server.metrics.connections_closed == {"idle": 1}
        gate.set()
        assert await waiting.numbers(1) == [1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (request(32_000, 2), "unknown_api"),
        (request(ECHO_KEY, 2, version=9), "unsupported_version"),
        (request(ECHO_KEY, 2, body=b"\0"), "malformed"),
        (request(BARE_KEY, 2), "no_refusal"),
        (struct.pack(">i", -1), "malformed"),
        (struct.pack(">i", 2**31 - 1), "malformed"),
        (framed(b"abc"), "malformed"),
        (request(ECHO_KEY, 2, body=bytes(3_000_000)), "too_large"),
    ],
)
async def test_a_request_that_cannot_be_answered_closes_its_connection_after_the_answers_before_it(
    stage: Stage, bad: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = stage.gate(1)
    with caplog.at_level(logging.INFO, "redbroker"):
        async with serving_raw(stage) as server, connected(server) as client:
            client.send(request(ECHO_KEY, 1) + bad + request(ECHO_KEY, 3))
            await until(lambda: stage.started)
            await asyncio.sleep(0.02)
            gate.set()
            assert await client.numbers(1) == [1]
            assert await client.closed()
            assert server.metrics.connections_closed == {reason: 1}
            await until(lambda: server.budget.held_bytes == 0)
    assert len([line for line in caplog.messages if "is closed" in line]) == 1


async def test_a_broken_frame_behind_a_parked_request_closes_the_connection_at_once(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        async with connected(server) as client:
            client.send(request(PARKED_KEY, 1))
            await until(lambda: stage.started == [1])
            client.send(request(32_000, 2))
            assert await client.closed(2)
        assert stage.cancelled == [1]
        async with connected(server) as client:
            client.send(request(PARKED_KEY, 3) + request(ECHO_KEY, 4) + request(32_000, 5))  # 3 has not even begun
            assert await client.closed(2)
        await until(lambda: not server.connections and server.budget.held_bytes == 0)


async def test_more_connections_than_allowed_are_refused_and_the_others_served(stage: Stage) -> None:
    async with (
        serving_raw(stage, connections_max=2) as server,
        connected(server) as first,
        connected(server),
    ):
        await until(lambda: len(server.connections) == 2)
        async with connected(server) as third:
            assert await third.closed()
        first.send(API_VERSIONS)
        assert (await first.answer())[0] == 99
        assert server.metrics.connections_refused == 1


async def test_reading_pauses_while_the_worker_holds_too_many_frame_bytes(stage: Stage) -> None:
    gate = stage.gate(1)
    async with (
        serving_raw(stage, frame_bytes_in_flight_max=500_000) as server,
        connected(server) as large,
        connected(server) as other,
    ):
        large.send(framed(struct.pack(">hhih", ECHO_KEY, 0, 1, -1) + struct.pack(">q", 1) + bytes(600_000)))
        await until(lambda: stage.started == [1])
        assert server.budget.full
        other.send(API_VERSIONS)
        with pytest.raises(TimeoutError):
            await other.answer(0.2)
        gate.set()
        assert await large.numbers(1) == [1]
        assert (await other.answer())[0] == 99


async def test_a_large_request_without_records_counts_with_the_objects_it_becomes(stage: Stage) -> None:
    gate = stage.gate(1)
    padded = framed(struct.pack(">hhih", ECHO_KEY, 0, 1, -1) + struct.pack(">q", 1) + bytes(100_000))
    async with serving_raw(stage) as server, connected(server) as client:
        client.send(padded)
        await until(lambda: stage.started == [1])
        assert server.budget.held_bytes > 3_000_000
        gate.set()
        assert await client.numbers(1) == [1]
        await until(lambda: server.budget.held_bytes == 0)


async def test_unfinished_frames_beyond_the_bound_are_read_one_after_the_other(stage: Stage) -> None:
    async with serving_raw(stage, frame_bytes_in_flight_max=1_000_000) as server:

        async def send_large(number: int) -> None:
            async with connected(server) as client:
                client.send(
                    framed(struct.pack(">hhih", ECHO_KEY, 0, number, -1) + struct.pack(">q", number) + bytes(900_000))
                )
                assert await client.numbers(1) == [number]

        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            for number in range(12):
                tasks.create_task(send_large(number))
        assert sorted(stage.ended) == list(range(12))
        await until(lambda: server.budget.held_bytes == 0 and not server.budget.full)


async def test_a_client_that_was_told_to_pause_is_not_heard_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KIP-219: the answer leaves at once, and whoever does not pause by itself is muted."""
    async with serving_raw(stage) as server, connected(server) as client:
        plain = APIS[ECHO_KEY].handler
        assert plain is not None

        async def throttled(asked: Any, ctx: Any) -> Any:
            ctx.throttle_ms = 300 if asked.number == 1 else 0
            return await plain(asked, ctx)

        monkeypatch.setattr(APIS[ECHO_KEY], "handler", throttled)
        loop = asyncio.get_running_loop()
        client.send(request(ECHO_KEY, 1))
        await until(lambda: stage.ended == [1])
        began_s = loop.time()
        client.send(request(ECHO_KEY, 2) + request(ECHO_KEY, 3))
        await until(lambda: stage.ended == [1, 2, 3])
        assert loop.time() - began_s > 0.2
