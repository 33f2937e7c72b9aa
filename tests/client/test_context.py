"""What a handler sees of the record it is called for."""

from __future__ import annotations

import pytest

from redbroker.client.app import RedBroker
from redbroker.client.context import Context
from redbroker.client.retries import Retry

pytestmark = pytest.mark.anyio


async def test_a_context_tells_attempt_origin_and_headers_and_sends() -> None:
    app, seen = RedBroker("redis://nowhere.invalid:1"), []
    work = app.topic("work", key=str, value=int, partitions=1)

    @work.subscribe(group="g", retry=Retry(attempts=2, backoff_s=1))
    async def handle(number: int, ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.record.topic, ctx.record.value, ctx.origin.topic, ctx.key, ctx.group))
        assert dict(ctx.headers)["trace"] == b"7f"
        await ctx.send("undeclared", {"n": number}, key="k")
        if ctx.attempt == 1:
            raise ValueError

    async with app.test() as t:
        await t.send("work", 5, key="a", headers=[("trace", b"7f")])
        await t.advance(1)
        assert seen == [(1, "work", 5, "work", "a", "g"), (2, "work.g.retry-1", 5, "work", "a", "g")]
        assert [(each.key, each.value) for each in await t.records("undeclared")] == [(b"k", b'{"n":5}')] * 2
