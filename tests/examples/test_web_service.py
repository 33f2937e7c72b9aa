"""The FastAPI service on a real server, asked over ASGI without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette

from examples import web_service
from examples.web_service import web
from redbroker.client.connection import Connection
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def asked(valkey: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, whose storage is the session's server."""
    web_service.app.connection = Connection(valkey.url)
    web_service.seen.clear()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://service") as client:
        yield client


async def test_a_click_is_stored_and_counted(asked: httpx.AsyncClient) -> None:
    async with web.router.lifespan_context(web):
        answer = await asked.post("/clicks", json={"page": "home", "ms": 7})
        assert (answer.status_code, answer.json()["offset"]) == (202, 0)
        health = await asked.get("/health")
        assert (health.status_code, health.json()["healthy"]) == (200, True)
        async with asyncio.timeout(10):
            while web_service.seen != {"home": 1}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    health = await asked.get("/health")
    assert (health.status_code, health.json()["healthy"]) == (503, False)


async def test_what_is_no_click_is_refused_before_it_is_sent(asked: httpx.AsyncClient) -> None:
    async with web.router.lifespan_context(web):
        answer = await asked.post("/clicks", json={"page": ["home"]})
        assert answer.status_code == 422
        sent = await asked.post("/clicks", json={"page": "home"})
        assert sent.json()["offset"] == 0


async def test_starlette_takes_the_same_lifespan(valkey: Server) -> None:
    web_service.app.connection = Connection(valkey.url)
    other = Starlette(lifespan=web_service.app.lifespan)
    async with other.router.lifespan_context(other):
        assert web_service.app.health()["healthy"]
    assert not web_service.app.health()["healthy"]
