"""The first example does what it says."""

from __future__ import annotations

import pytest

from examples.hello import hello
from tests.support.servers import Server


@pytest.mark.anyio
async def test_hello_is_stored(valkey: Server) -> None:
    first, second = await hello(valkey.unix_url), await hello(valkey.unix_url)
    assert (first.topic, first.offset) == ("greetings", 0)
    assert second[:3] == (first.topic, first.partition, 1)
