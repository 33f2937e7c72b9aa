"""A subscription under rebalances and stops: nothing is committed that is not done, and stops are bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redbroker.client.app import RedBroker
from redbroker.client.context import Context
from redbroker.client.retries import Retry
from redbroker.types import TopicPartition
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def until(condition: Any, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def committed(url: str, group: str) -> dict[TopicPartition, int]:
    async with RedBroker(url) as other:
        found = await other.connection.engine.offsets.fetch(group)
        return {place: each.offset for place, each in found.items()}


async def test_a_handler_that_does_not_end_is_cancelled_and_its_record_handled_again(valkey: Server) -> None:
    seen: list[tuple[str, str]] = []

    def service(name: str, *, hangs: bool) -> RedBroker:
        app = RedBroker(valkey.url)

        @app.topic("work", key=str, value=str, partitions=1).subscribe(group="g", parallel_by_key=4, drain_s=0.1)
        async def handle(text: str) -> None:
            seen.append((name, text))
            if hangs and text == "b":
                await asyncio.sleep(3600)

        return app

    async with service("first", hangs=True) as app:
        for text in "abc":
            await app.topics["work"].send(text, key=text)
        await until(lambda: len(seen) == 3)
    assert await committed(valkey.url, "g") == {TopicPartition("work", 0): 1}
    async with service("second", hangs=False):
        await until(lambda: len(seen) == 5)
    assert [text for name, text in seen if name == "second"] == ["b", "c"]
    assert await committed(valkey.url, "g") == {TopicPartition("work", 0): 3}


async def test_a_restart_keeps_what_waits_for_its_next_try(valkey: Server) -> None:
    attempts: list[int] = []

    def service() -> RedBroker:
        app = RedBroker(valkey.url)

        @app.topic("work", value=str, partitions=1).subscribe(group="g", retry=Retry(attempts=2, backoff_s=1))
        async def handle(text: str, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                raise ValueError("once")

        return app

    async with service() as app:
        await app.topics["work"].send("x")
        await until(lambda: attempts == [1] and bool(app.running[0].resting))
    async with service():
        await until(lambda: len(attempts) == 2)
    assert attempts == [1, 2]
    done = {TopicPartition("work", 0): 1}
    found = await committed(valkey.url, "g")
    assert {place: offset for place, offset in found.items() if place.topic == "work"} == done
    assert sum(offset for place, offset in found.items() if place.topic == "work.g.retry-1") == 1


async def test_no_more_is_in_flight_than_allowed_and_all_of_it_is_handled(valkey: Server) -> None:
    app, most, count = RedBroker(valkey.url), 0, 0

    @app.topic("work", key=str, value=str, partitions=2).subscribe(group="g", parallel_by_key=8)
    async def handle(text: str) -> None:
        nonlocal most, count
        most = max(most, app.running[0].lanes.in_flight)
        await asyncio.sleep(0)
        count += 1

    async with app:
        topic = app.topics["work"]
        for start in range(0, 3_000, 500):
            numbers = range(start, start + 500)
            await asyncio.gather(*(topic.send(str(number), key=str(number % 50)) for number in numbers))
        await until(lambda: count == 3_000)
    assert most <= app.subscriptions[0].in_flight_max
    assert sum((await committed(valkey.url, "g")).values()) == 3_000


async def test_a_handler_that_hangs_is_noticed_while_the_others_go_on(valkey: Server) -> None:
    app, seen, free = RedBroker(valkey.url), [], asyncio.Event()

    @app.topic("work", key=str, value=int, partitions=1).subscribe(group="g", parallel_by_key=4, stuck_after_s=0.3)
    async def handle(number: int) -> None:
        if number == 0:
            await free.wait()
        seen.append(number)

    async with app:
        await app.send("work", 0, key="hangs")
        await until(lambda: app.running[0].lanes.in_flight == 1)
        assert app.health()["healthy"]

        async def stuck() -> None:
            number = 0
            while app.health()["healthy"]:
                number += 1
                await app.send("work", number, key="works")
            await until(lambda: len(seen) == number)

        await asyncio.wait_for(stuck(), 10)
        [health] = app.health()["subscriptions"]
        assert (health["state"], health["in_flight"]) == ("stuck", 1)
        assert health["oldest_s"] > 0.3
        free.set()
        await until(lambda: 0 in seen)
        await until(lambda: app.health()["healthy"])


@pytest.mark.system
async def test_redis_that_dies_and_comes_back_loses_and_reorders_nothing() -> None:
    with Server("--appendonly", "yes", "--appendfsync", "always") as server:
        app, seen = RedBroker(server.url), []

        @app.topic("work", key=str, value=int, partitions=2).subscribe(group="g", parallel_by_key=4)
        async def handle(number: int) -> None:
            seen.append(number)

        async def send() -> None:
            for number in range(600):
                await app.topics["work"].send(number, key=str(number % 5))

        async with app:
            sending = asyncio.create_task(send())
            await until(lambda: len(seen) > 50)
            server.kill()
            server.restart()
            await asyncio.wait_for(sending, 60)
            await until(lambda: len(set(seen)) == 600, 60)
            assert app.failure is None
        for key in range(5):
            first = list(dict.fromkeys(number for number in seen if number % 5 == key))
            assert first == sorted(first)
