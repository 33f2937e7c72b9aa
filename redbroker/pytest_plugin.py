"""Fixtures for tests of services that want a real server: one embedded server per test session.

    async def test_orders(redbroker_storage):
        async with Producer(**redbroker_storage) as producer: ...

Each test has a key space of its own. Most tests of handlers need none of this: `app.test()` is quicker.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["redbroker_storage", "redbroker_url"]


@pytest.fixture(scope="session")
def redbroker_url() -> Iterator[str]:
    """The URL of an embedded server that lives as long as the session, in a directory of its own."""
    from anyio.from_thread import start_blocking_portal

    from redbroker.engine.embedded import EmbeddedServer

    # A unix socket's path may be 107 bytes long, so the directory is a short one.
    with tempfile.TemporaryDirectory(prefix="rb-") as directory, start_blocking_portal() as portal:
        server = EmbeddedServer(Path(directory))
        portal.call(server.start)
        try:
            yield server.url
        finally:
            portal.call(server.leave)


@pytest.fixture
def redbroker_storage(redbroker_url: str) -> dict[str, Any]:
    """Arguments for `RedBroker`, `Producer` and `Consumer`: the server, and a key prefix nobody else has."""
    return {"storage": redbroker_url, "key_prefix": f"test-{uuid.uuid4().hex[:16]}"}
