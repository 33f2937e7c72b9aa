"""/metrics and the health probes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import cast

import anyio
import orjson
import pytest

from redbroker.broker.http import HttpServer
from redbroker.broker.server import Server
from tests.support.raw import API_VERSIONS, ECHO_KEY, Stage, connected, request, serving_raw, until

pytestmark = pytest.mark.anyio


async def get(server: Server, path: str) -> tuple[int, bytes]:
    """(status, body) of one HTTP request."""
    port = cast("HttpServer", server.http).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    with anyio.fail_after(5):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_a_serving_worker_is_alive_and_ready() -> None:
    async with serving_raw(http_port=0) as server:
        assert await get(server, "/livez") == (200, b"alive\n")
        assert await get(server, "/readyz") == (200, b"ready\n")
        status, body = await get(server, "/healthz")
        assert (status, orjson.loads(body)["node_id"]) == (200, 7)
        assert (await get(server, "/nothing"))[0] == 404


async def test_a_draining_worker_is_alive_but_not_ready(stage: Stage) -> None:
    gate = stage.gate(1)
    async with serving_raw(stage, http_port=0) as server, connected(server) as client:
        client.send(request(ECHO_KEY, 1))
        await until(lambda: stage.started == [1])
        draining = asyncio.create_task(server.drain())
        await until(lambda: not server.accepting)
        assert (await get(server, "/readyz"))[0] == 503
        assert (await get(server, "/healthz"))[0] == 503
        assert (await get(server, "/livez"))[0] == 200
        gate.set()
        await draining


async def test_metrics_tell_what_was_served() -> None:
    async with serving_raw(http_port=0) as server, connected(server) as client:
        client.send(API_VERSIONS)
        await client.answer()
        status, body = await get(server, "/metrics")
        assert status == 200
        assert b'redbroker_requests_total{api="ApiVersions",error="NONE"} 1' in body
        assert b"redbroker_connections 1" in body
        assert b"redbroker_event_loop_lag_seconds" in body
        assert b"redbroker_redis_up 0" in body, "Redis is away, and that is told"
        assert b"process_resident_memory_bytes" in body


def test_a_worker_without_an_http_port_loads_no_http() -> None:
    code = (
        "import sys, redbroker.broker.server, redbroker.broker.api as a; a.load();"
        "print([m for m in ('uvicorn', 'starlette', 'prometheus_client') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
