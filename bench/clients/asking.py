"""What it costs writers that appends ask the server for its replication id, through the engine, no broker above.

Writers append with acks=all through two engines, one with the append script as it is, and one with a copy that is told
the replication id and its replicas instead of asking (INFO). `cost` and `cost_in_cpu` are those of `turns.py`; the
second bounds throughput and is the one that is judged. What it costs the script alone tells `replication_id.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import patch

import uvloop

from bench.clients import PARTITIONS, run
from bench.clients.replication_id import ASKING
from bench.clients.turns import compare, turn
from bench.frames import one_record_batch
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.scripts import Script, script

TOLD = "local info = 'master_replid:' .. field[2] .. 'state=online,offset=0,lag=0'\n"


def told() -> Script:
    """The append script that does not ask."""
    asking = script("append")
    source = asking.source.replace(ASKING.encode(), TOLD.encode())
    if source == asking.source:
        raise AssertionError("the append script asks for INFO in another way now: mend this copy of it")
    return dataclasses.replace(asking, source=source, sha=hashlib.sha1(source).hexdigest().encode())


async def load(url: str, callers: int, seconds: float, record_bytes: int) -> dict[str, Any]:
    """All turns."""
    async with AsyncExitStack() as stack:
        settings = Settings.load(storage_url=url)
        engines = {"asking": await stack.enter_async_context(Engine.open(settings))}
        with patch("redbroker.engine.appends.script", lambda name: told()):
            engines["told"] = await stack.enter_async_context(Engine.open(settings))
        topic = await engines["asking"].topics.create("appends", PARTITIONS)
        batch = one_record_batch(b"x" * record_bytes)
        return await compare(
            lambda: turn(engines["asking"], topic, callers, seconds, batch, acks=-1),
            lambda: turn(engines["told"], topic, callers, seconds, batch, acks=-1),
        )


def asking(**arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(**arguments))


if __name__ == "__main__":
    run(asking)
