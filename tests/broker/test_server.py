"""A worker's life: start, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, cast

import anyio
import pytest

from redbroker.broker.server import Server, serving
from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from tests.support.raw import (
    API_VERSIONS,
    ECHO_KEY,
    PARKED_KEY,
    RawEngine,
    Stage,
    connected,
    request,
    serving_raw,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(either_loop: Any) -> Any:
    return either_loop


def not_listening(**settings: Any) -> Server:
    return Server(cast("Any", RawEngine()), Settings(**settings))


async def test_a_ready_worker_is_registered_where_it_listens() -> None:
    async with serving_raw(rack="r1") as server:
        assert server.port > 0
        assert server.accepting
        assert cast("Any", server.engine.workers).registered == ("127.0.0.1", server.port, "r1")


@pytest.mark.parametrize(
    ("settings", "advertised"),
    [
        ({"advertise": "broker.example:19092"}, ("broker.example", 19092)),
        ({"advertise": "[::1]:9092"}, ("::1", 9092)),
        ({"advertise": "broker.example:0"}, ("broker.example", 9093)),
        ({"host": "0.0.0.0"}, (socket.gethostname(), 9093)),
        ({"host": "10.0.0.1"}, ("10.0.0.1", 9093)),
    ],
)
async def test_clients_are_told_an_address_they_can_use(settings: dict[str, str], advertised: tuple[str, int]) -> None:
    assert not_listening(port=9093, **settings).advertised == advertised


async def test_draining_answers_what_is_in_flight_and_ends_parked_requests(stage: Stage) -> None:
    gate = stage.gate(2)
    async with serving_raw(stage) as server, connected(server) as client, connected(server) as idle:
        client.send(request(PARKED_KEY, 1) + request(ECHO_KEY, 2))
        await until(lambda: stage.started == [1, 2])
        draining = asyncio.create_task(server.drain())
        assert await client.numbers(1) == [1]
        assert await idle.closed()
        assert not server.accepting
        gate.set()
        assert await client.numbers(1) == [2]
        assert await client.closed()
        await draining
        assert not server.connections
        assert cast("Any", server.engine.workers).deregistered == 1


async def test_a_worker_deregisters_before_it_stops_accepting(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        workers = cast("Any", server.engine.workers)
        accepting = []

        async def deregister() -> None:
            accepting.append(server.accepting)

        workers.deregister = deregister
        await server.drain()
        assert accepting == [True]


async def test_a_drained_worker_refuses_connections(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        await server.drain()
        with pytest.raises(ConnectionError):
            async with connected(server):
                pass


async def test_what_is_not_answered_in_time_is_dropped(stage: Stage) -> None:
    stage.gate(1)
    async with serving_raw(stage, drain_ms=100) as server, connected(server) as client:
        client.send(request(ECHO_KEY, 1))
        await until(lambda: stage.started == [1])
        with anyio.fail_after(2):
            await server.drain()
        assert await client.closed()


async def test_draining_twice_is_draining_once(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.drain())
            tasks.create_task(server.drain())
        assert cast("Any", server.engine.workers).deregistered == 1


async def test_a_worker_drains_though_storage_is_away(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "redbroker"):
        async with serving_raw(stage) as server, connected(server) as client:
            fails = KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "Redis is away.")
            cast("Any", server.engine.workers).deregister_fails = fails
            client.send(API_VERSIONS)
            assert (await client.answer())[0] == 99
            await server.drain()
    assert any("Redis is away" in line for line in caplog.messages)


async def test_a_taken_port_is_told_as_it_is(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        with pytest.raises(OSError):
            async with serving(cast("Any", RawEngine()), Settings(port=server.port)):
                raise AssertionError("two servers on one port")


async def test_what_the_block_raises_leaves_it_unwrapped(stage: Stage) -> None:
    with pytest.raises(ZeroDivisionError):
        async with serving_raw(stage):
            raise ZeroDivisionError


async def test_cancelling_a_server_closes_its_connections(stage: Stage) -> None:
    server = not_listening(port=0)
    running = asyncio.create_task(server.run())
    await server.ready.wait()
    async with connected(server) as client:
        await until(lambda: server.connections)
        running.cancel()
        assert await client.closed()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_loops_lag_is_measured(stage: Stage) -> None:
    async with serving_raw(stage) as server:
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 0.5
        while loop.time() < until_s:  # block the loop, as a slow handler would
            pass
        await until(lambda: server.metrics.loop_lag_s > 0.1)
