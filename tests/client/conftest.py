"""One connection to the session's Valkey, for the SDK's clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from redbroker.client.connection import Connection
from tests.support.servers import Server


@pytest.fixture
async def connection(valkey: Server) -> AsyncIterator[Connection]:
    """Open, on an empty server."""
    async with Connection(valkey.unix_url) as connection:
        yield connection
