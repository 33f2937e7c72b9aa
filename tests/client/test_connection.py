"""One engine for the clients of a process."""

from __future__ import annotations

from typing import Any

import pytest

from redbroker import Admin, Consumer, Producer
from redbroker.client.connection import Connection, engine_of
from redbroker.config import SettingsError
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_a_shared_engine_stays_open_and_its_own_is_closed(valkey: Server) -> None:
    async with Connection(valkey.unix_url) as connection:
        async with engine_of(connection, connection.settings) as engine:
            assert engine is connection.engine
        assert await connection.engine.storage.on_masters("PING")
    async with engine_of(None, connection.settings) as engine:
        assert await engine.storage.on_masters("PING")


async def test_outside_its_block_a_connection_says_so(valkey: Server) -> None:
    connection = Connection(valkey.unix_url)
    with pytest.raises(RuntimeError, match="use it inside `async with`"):
        _ = connection.engine
    async with connection:
        with pytest.raises(RuntimeError, match="open already"):
            await connection.__aenter__()
    async with connection:
        assert connection.engine


@pytest.mark.parametrize("client", [Producer, Consumer, Admin])
async def test_a_client_that_shares_a_connection_takes_no_settings_of_it(client: Any, valkey: Server) -> None:
    with pytest.raises(SettingsError, match="key_prefix is a setting of the connection"):
        client(storage=Connection(valkey.unix_url), key_prefix="other")


async def test_a_connection_among_the_topics_is_told_where_it_belongs(valkey: Server) -> None:
    with pytest.raises(TypeError, match="storage="):
        Consumer("orders", Connection(valkey.unix_url))  # type: ignore[arg-type]
