"""The web service on a real server, asked over ASGI without a socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from examples import web_service
from redbroker.client.connection import Connection
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def ask(method: str, path: str) -> tuple[int, Any]:
    """One request to the ASGI app: status and JSON."""
    sent: list[Any] = []
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await web_service.web(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


async def test_a_click_is_stored_and_counted(valkey: Server) -> None:
    web_service.app.connection = Connection(valkey.url)
    async with web_service.web.router.lifespan_context(web_service.web):
        status, stored = await ask("POST", "/clicks/home")
        assert (status, stored["offset"]) == (202, 0)
        status, health = await ask("GET", "/health")
        assert (status, health["healthy"]) == (200, True)
        async with asyncio.timeout(10):
            while web_service.seen != {"home": 1}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    status, health = await ask("GET", "/health")
    assert (status, health["healthy"]) == (503, False)
