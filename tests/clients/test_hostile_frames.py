"""Clients that mean harm, or are broken: the worker survives them all, stays small, and serves the others.

`REDBROKER_FUZZ_SECONDS=60 pytest tests/clients/test_hostile_frames.py -k fuzz` fuzzes longer than the default second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redbroker.broker.api import APIS, Api, load
from redbroker.broker.dispatch import Refused, read_request
from redbroker.broker.frames import AT_ONCE_BYTES
from redbroker.broker.server import Server
from redbroker.wire import schema
from tests.support.raw import API_VERSIONS, ECHO_KEY, LARGE_KEY, Stage, connected, framed, request, serving_raw, until
from tests.wire.samples import object_of

load()
pytestmark = pytest.mark.anyio
FUZZ_S = float(os.environ.get("REDBROKER_FUZZ_SECONDS", "1"))
HUGE = 2**31 - 1


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def resident_bytes() -> int:
    """Memory of this process that is really there."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def serves_others(server: Server) -> None:
    """A new client gets its answer at once."""
    async with connected(server) as client:
        client.send(API_VERSIONS)
        assert (await client.answer(2))[0] == 99


def sound_requests() -> Iterator[tuple[Api, int, bytes]]:
    """One short random request of every API and version, as a frame without its size."""
    dice = random.Random(1)
    for api in list(APIS.values()):
        for version in range(api.low, api.high + 1):
            flexible = version >= api.flexible
            head = struct.pack(">hhih", api.key, version, 1, 1) + b"c" + (b"\0" if flexible else b"")
            frames = []
            for _ in range(8):
                parts: list[Any] = [head]
                schema.encoder(api.request, version, flexible)(object_of(dice, api.request, version), parts.append)
                frames.append(b"".join(parts))
            yield api, version, next((frame for frame in frames if 30 < len(frame) < 300), min(frames, key=len))[:600]


SOUND = list(sound_requests())


# --- the decoder alone ----------------------------------------------------------------------------------------


def decodes_or_refuses(frame: bytes) -> None:
    """No other exception, no long time, no large allocation."""
    began_s = time.perf_counter()
    with contextlib.suppress(Refused):
        read_request(frame)
    assert time.perf_counter() - began_s < 1


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_decoded_or_refused(frame: bytes) -> None:
    decodes_or_refuses(frame)


@given(st.sampled_from(SOUND), st.binary(max_size=100))
@settings(max_examples=500, deadline=None)
def test_a_sound_header_with_random_bytes_behind_it_is_decoded_or_refused(
    sound: tuple[Api, int, bytes], tail: bytes
) -> None:
    head = struct.pack(">hhih", sound[0].key, sound[1], 1, -1) + (b"\0" if sound[1] >= sound[0].flexible else b"")
    decodes_or_refuses(head + tail)


@pytest.mark.parametrize(
    "claim", [struct.pack(">i", HUGE), b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\xff\xff\xff\x7f"]
)
def test_arrays_and_strings_that_claim_billions_are_refused_before_they_cost_memory(claim: bytes) -> None:
    before = resident_bytes()
    for api, version, frame in SOUND:
        body = 11 + (version >= api.flexible)
        for at in range(body, len(frame) + 1):
            decodes_or_refuses(frame[:at] + claim)
            decodes_or_refuses(frame[:at] + claim + frame[at:])
    assert resident_bytes() - before < 30_000_000


def test_every_truncation_of_every_request_is_decoded_or_refused() -> None:
    for _, _, frame in SOUND:
        for length in range(len(frame)):
            decodes_or_refuses(frame[:length])


def mutated(chance: random.Random, frame: bytes) -> bytes:
    """A sound request with a few bytes changed, removed, doubled or made extreme."""
    data = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randint(1, 8)]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                data[at : at + 4] = chance.choice(
                    (b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\0")
                )
            case 4:
                data[at:at] = data[at : at + chance.randint(1, 30)]
    return bytes(data)


def test_fuzzed_requests_are_decoded_or_refused() -> None:
    seed = int(time.time())
    chance = random.Random(seed)
    ends_s = time.monotonic() + FUZZ_S
    while time.monotonic() < ends_s:
        frame = mutated(chance, chance.choice(SOUND)[2])
        try:
            decodes_or_refuses(frame)
        except BaseException:
            print(f"seed {seed}, frame {frame.hex()}")
            raise


# --- over a socket --------------------------------------------------------------------------------------------


async def test_fuzzed_streams_never_stop_the_worker(stage: Stage) -> None:
    """Whole connections of garbage: each ends closed or idle, none is stuck with memory."""
    seed = int(time.time())
    print(f"seed {seed}")
    chance = random.Random(seed)
    sound = [frame for api, _, frame in SOUND if api.name == "ApiVersions"] + [request(ECHO_KEY, 1)[4:]]
    async with serving_raw(stage, stalled_connection_ms=300) as server:
        ends_s = time.monotonic() + FUZZ_S
        while time.monotonic() < ends_s:
            async with connected(server) as client:
                stream = b"".join(framed(mutated(chance, chance.choice(sound))) for _ in range(chance.randint(1, 20)))
                if chance.random() < 0.5:
                    stream = mutated(chance, stream)
                client.send(stream)
                await client.closed(0.02)
        await serves_others(server)
        await until(lambda: not server.connections and server.budget.held_bytes == 0)


async def test_hundreds_of_large_announcements_cost_next_to_nothing(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        before = resident_bytes()
        clients = [connected(server) for _ in range(300)]
        opened = [await client.__aenter__() for client in clients]
        for client in opened:
            client.send(struct.pack(">i", 100_000_000) + b"x" * 100)
        await until(lambda: server.budget.held_bytes == 300 * AT_ONCE_BYTES)
        assert resident_bytes() - before < 20_000_000
        await serves_others(server)
        for closing in clients:
            await closing.__aexit__(None, None, None)
        await until(lambda: not server.connections and server.budget.held_bytes == 0)


async def test_a_flood_of_unfinished_frames_is_bounded_and_ends(stage: Stage) -> None:
    """Twenty clients send half of a large frame and stop: others wait for memory at most until those time out."""
    bound = 8_000_000
    async with serving_raw(stage, frame_bytes_in_flight_max=bound, stalled_connection_ms=300) as server:
        clients = [connected(server) for _ in range(20)]
        opened = [await client.__aenter__() for client in clients]
        for client in opened:
            client.send(struct.pack(">i", 4_000_000) + bytes(2_000_000))
        held_max = 0
        for _ in range(100):
            await asyncio.sleep(0.03)
            held_max = max(held_max, server.budget.held_bytes)
            if not server.budget.held_bytes:
                break
        assert bound * 3 // 4 < held_max < bound + 4_000_000 + 20 * 262_144
        await serves_others(server)
        await until(lambda: server.budget.held_bytes == 0)
        for closing in clients:
            await closing.__aexit__(None, None, None)


async def test_a_client_that_trickles_cannot_hold_the_others_up_for_long(stage: Stage) -> None:
    """Slow loris at the memory bound: the one frame that may be read must end, not merely go on."""
    async with serving_raw(stage, frame_bytes_in_flight_max=1_000_000, stalled_connection_ms=500) as server:
        async with connected(server) as loris:
            loris.send(struct.pack(">i", 5_000_000) + bytes(1_100_000))
            await until(lambda: server.budget.full)
            trickle = asyncio.create_task(trickling(loris))
            async with connected(server) as other:
                other.send(API_VERSIONS)
                assert (await other.answer(4))[0] == 99
            trickle.cancel()
        assert server.metrics.connections_closed == {"stalled": 1}


async def trickling(client: Any) -> None:
    """One byte at a time, for ever."""
    while True:
        client.send(b"x")
        await asyncio.sleep(0.02)


async def test_slow_clients_do_not_slow_the_others(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        clients = [connected(server) for _ in range(50)]
        opened = [await client.__aenter__() for client in clients]
        tasks = [asyncio.create_task(trickling(client)) for client in opened]
        for _ in range(5):
            await serves_others(server)
        for task in tasks:
            task.cancel()
        for closing in clients:
            await closing.__aexit__(None, None, None)


async def test_a_client_that_only_sends_is_bounded(stage: Stage) -> None:
    """Requests without end, answers never read: reading stops, memory stays, the time-out ends it."""
    async with (
        serving_raw(stage, stalled_connection_ms=500) as server,
        connected(server, receive_bytes=4_096) as client,
    ):
        before = resident_bytes()
        data = request(LARGE_KEY, 500_000) * 1_000
        for _ in range(20):
            client.send(data)
            await asyncio.sleep(0.01)
        await serves_others(server)
        assert resident_bytes() - before < 60_000_000
        await until(lambda: not server.connections)
        assert len(stage.started) < 50
        await until(lambda: server.budget.held_bytes == 0)


async def test_thousands_of_connections_come_and_go(stage: Stage) -> None:
    async with serving_raw(stage, connections_max=200) as server:
        for _ in range(4):
            clients = [connected(server) for _ in range(300)]
            opened = [await client.__aenter__() for client in clients]
            for client in opened:
                client.send(request(ECHO_KEY, 1))
            await until(lambda: server.metrics.connections_refused >= 100)
            assert len(server.connections) <= 200
            for closing in clients:
                await closing.__aexit__(None, None, None)
            await until(lambda: not server.connections)
        await serves_others(server)
        assert server.metrics.connections_refused >= 400


async def test_an_abrupt_reset_amid_requests_leaves_nothing_behind(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        for number in range(50):
            async with connected(server) as client:
                client.send(b"".join(request(ECHO_KEY, n) for n in range(20)) + struct.pack(">i", 1_000)[: number % 5])
                await asyncio.sleep(0)
        await until(lambda: not server.connections and server.budget.held_bytes == 0 and stage.running == 0)
        await serves_others(server)


async def test_http_spoken_to_the_kafka_port_is_closed(stage: Stage) -> None:
    async with serving_raw(stage) as server, connected(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await client.closed()
        await serves_others(server)
        assert cast("Any", server).metrics.connections_closed == {"malformed": 1}
