"""The example that replays a topic from a time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from examples.replay import replay
from redbroker.client.connection import Connection
from redbroker.engine.log import Append
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_records_from_a_time_on_are_printed(valkey: Server, capsys: pytest.CaptureFixture[str]) -> None:
    async with Connection(valkey.unix_url) as connection:
        topic = await connection.engine.topics.create("orders", 2)
        batch = build_batch([Record(place, 1_000_000 + 1_000 * place, None, b"%d" % place) for place in range(5)])
        entries = [Append(topic, number, batch, read_header(batch)) for number in range(2)]
        await connection.engine.log.append(entries, acks=1, timeout_ms=5_000)
    assert await replay("orders", datetime.fromtimestamp(1_003, UTC), valkey.unix_url) == 4
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == [f"orders-{number} {place} b'{place}'" for number in range(2) for place in (3, 4)]
