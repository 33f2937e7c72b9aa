"""The app on a real server: what a service's author and its operator rely on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from redbroker.client.app import RedBroker
from redbroker.client.context import Context
from redbroker.client.retries import Retry
from redbroker.config import SettingsError
from redbroker.engine import Engine
from redbroker.types import TopicPartition
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@dataclass
class Order:
    id: int


async def until(condition: Any, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def committed(engine: Engine, group: str) -> dict[TopicPartition, int]:
    return {place: found.offset for place, found in (await engine.offsets.fetch(group)).items()}


async def test_records_are_handled_retried_and_committed(valkey: Server) -> None:
    app, seen = RedBroker(valkey.url), []
    orders = app.topic("orders", key=str, value=Order, partitions=2)

    @orders.subscribe(group="billing", parallel_by_key=8, retry=Retry(backoff_s=0.05), dlq="dead")
    async def bill(order: Order, ctx: Context) -> None:
        if order.id == 3 and ctx.attempt < 3:
            raise ValueError("not yet")
        seen.append((order.id, ctx.attempt, ctx.origin.topic))

    async with app:
        for number in range(20):
            sent = await orders.send(Order(number), key=str(number))
            assert sent.topic == "orders"
        await until(lambda: len(seen) == 20)
        assert (3, 3, "orders") in seen
        assert app.health()["healthy"]
        engine = app.connection.engine
    async with RedBroker(valkey.url) as other:
        engine = other.connection.engine
        found = await committed(engine, "billing")
        assert sum(offset for place, offset in found.items() if place.topic == "orders") == 20
        assert sum(offset for place, offset in found.items() if "retry" in place.topic) == 2
        group = await engine.groups.get("billing")
        assert group is not None
        assert not group.members


async def test_a_handler_that_fails_without_retries_stops_the_app_and_commits_nothing_of_it(valkey: Server) -> None:
    app = RedBroker(valkey.url)
    orders = app.topic("orders", value=Order, partitions=1)

    @orders.subscribe(group="billing")
    def bill(order: Order) -> None:
        if order.id == 1:
            raise ValueError("no such customer")

    async with app:
        for number in range(3):
            await orders.send(Order(number))
        await until(lambda: app.failure is not None)
        health = app.health()
        assert not health["healthy"]
        assert health["failure"] == "no such customer"
    async with RedBroker(valkey.url) as other:
        assert await committed(other.connection.engine, "billing") == {TopicPartition("orders", 0): 1}


async def test_a_member_that_comes_takes_partitions_over_and_nothing_is_lost_or_out_of_order(valkey: Server) -> None:
    seen: list[tuple[int, int]] = []

    def service(number: int) -> RedBroker:
        app = RedBroker(valkey.url)

        @app.topic("orders", key=str, value=Order, partitions=4).subscribe(group="billing", parallel_by_key=4)
        async def bill(order: Order) -> None:
            await asyncio.sleep(0.001)
            seen.append((order.id, number))

        return app

    async with service(1) as first:
        for number in range(100):
            await first.topics["orders"].send(Order(number), key=str(number % 10))
        async with service(2) as second:
            await until(lambda: all(each.health()["subscriptions"][0]["partitions"] == 2 for each in (first, second)))
            for number in range(100, 200):
                await first.topics["orders"].send(Order(number), key=str(number % 10))
            await until(lambda: len({number for number, _ in seen}) == 200)
        await until(lambda: first.health()["subscriptions"][0]["partitions"] == 4)
    assert len(seen) == 200, "an orderly hand-over repeats nothing"
    for key in range(10):
        numbers = [number for number, _ in seen if number % 10 == key]
        assert numbers == sorted(numbers)
    assert {by for number, by in seen if number >= 100} == {1, 2}


SERVICE = """
import asyncio, sys
from redbroker.client.app import RedBroker

app = RedBroker(sys.argv[1])
work = app.topic("work", value=str, partitions=1)

@work.subscribe(group="workers")
async def handle(text: str) -> None:
    print("began", text, flush=True)
    await asyncio.sleep(0.3)
    print("ended", text, flush=True)

app.run()
print("left", flush=True)
"""


async def test_sigterm_finishes_what_runs_commits_it_and_leaves(valkey: Server) -> None:
    async with RedBroker(valkey.url) as sender:
        await sender.connection.engine.topics.create("work", 1)
        for text in ("one", "two"):
            await sender.send("work", text)
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", SERVICE, valkey.url], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}
        )
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "began one\n"
            process.send_signal(signal.SIGTERM)
            rest, _ = await asyncio.to_thread(process.communicate, None, 20)
        finally:
            process.kill()
            process.wait()
        assert rest.split("\n")[:-1] == ["ended one", "left"]
        assert process.returncode == 0
        engine = sender.connection.engine
        assert await committed(engine, "workers") == {TopicPartition("work", 0): 1}


async def test_dead_letters_have_room_where_they_were_declared_and_are_warned_of_where_not(
    valkey: Server, caplog: pytest.LogCaptureFixture
) -> None:
    app = RedBroker(valkey.url)
    app.topic("dead", value=dict)
    wide = app.topic("wide", partitions=5, configs={"max.message.bytes": "2000000"})
    narrow = app.topic("narrow", partitions=2)
    for each in (narrow, wide):
        each.subscribe(group="g", dlq="dead", retry=Retry(attempts=2))(lambda value: None)
    async with app:
        topics = app.connection.engine.topics
        made = {name: topics.get(name) for name in ("dead", "wide.g.retry-1", "narrow.g.retry-1")}
        sizes = {name: (found.partitions, found.max_message_bytes) for name, found in made.items() if found}
        assert sizes == {
            "dead": (5, 2_008_192), "wide.g.retry-1": (5, 2_008_192), "narrow.g.retry-1": (2, 1_056_780),
        }  # fmt: skip
        assert "max.message.bytes" not in caplog.text
        await topics.configure("dead", {"max.message.bytes": "1000"}, [])
    async with app:
        assert "Topic dead takes records of up to 1000 bytes" in caplog.text


# --- what is wrong is told before anything happens -------------------------------------------------------------


def test_an_app_refuses_what_cannot_work() -> None:
    app = RedBroker("redis://localhost:1")
    orders = app.topic("orders", value=Order)
    with pytest.raises(ValueError, match="declared already"):
        app.topic("orders")
    with pytest.raises(TypeError, match=r"retry = 3 is wrong: say how, as in Retry\(attempts=3\)"):
        orders.subscribe(group="billing", retry=3)(lambda order: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dlq = 'orders' is wrong"):
        orders.subscribe(group="g", dlq="orders")(print)
    with pytest.raises(ValueError, match="needs dlq"):
        orders.subscribe(group="g", undecodable="dead-letter")(print)
    with pytest.raises(ValueError, match="parallel_by_key = 0"):
        orders.subscribe(group="g", parallel_by_key=0)(print)
    with pytest.raises(ValueError, match="stuck_after_s = 0"):
        orders.subscribe(group="g", stuck_after_s=0)(print)
    with pytest.raises(
        SettingsError, match="paralel_by_key is not a setting of a consumer; did you mean parallel_by_key"
    ):
        orders.subscribe(group="g", paralel_by_key=4)(print)
    with pytest.raises(SettingsError, match="prefetch_bytes = 0 is wrong"):
        orders.subscribe(group="g", prefetch_bytes=0)(print)
    with pytest.raises(SettingsError, match="key_prefix is a setting of the connection"):
        orders.subscribe(group="g", key_prefix="other")(print)
    with pytest.raises(ValueError, match="enable_auto_commit is no setting of a subscription: it commits"):
        orders.subscribe(group="g", **{"enable.auto.commit": False})(print)
    orders.subscribe(group="g")(lambda order: None)
    with pytest.raises(ValueError, match="handles topic 'orders' already"):
        orders.subscribe(group="g")(lambda order: None)


async def test_sending_before_the_start_says_how_to_start() -> None:
    with pytest.raises(RuntimeError, match="async with app"):
        await RedBroker("redis://localhost:1").topic("orders").send(b"1")


# --- as a type checker sees it -----------------------------------------------------------------------------------

PROGRAM = """
import asyncio
from redbroker import Consumer, Context, Producer, RedBroker, Retry, Sent, blocking

app = RedBroker("redis://localhost:6379")
raw, lines = app.topic("raw"), app.topic("lines", value=str)
sums = app.topic("sums", key=str, value=list[int])


@lines.subscribe(group="g", retry=Retry(attempts=2), dlq="dead")
async def read(line: str, ctx: Context) -> None:
    await raw.send(line.encode(), key=b"k")
    await sums.send([len(line)], key=line)


async def main() -> None:
    async with Producer(linger_ms=5) as producer, Consumer("lines", group_id="g") as consumer:
        deliveries = [producer.send_nowait("lines", b"v", headers={"a": "b"}) for _ in range(3)]
        everywhere: list[Sent] = await asyncio.gather(*deliveries)
        first: Sent = await asyncio.wait_for(asyncio.shield(deliveries[0]), 1)
        deliveries[0].add_done_callback(lambda delivery: print(delivery.result().offset, first, everywhere))
        await asyncio.wait([asyncio.ensure_future(each) for each in deliveries])
        async for record in consumer:
            print(record.key, record.offset + 1)


def without_async() -> None:
    with blocking.Producer() as producer, blocking.Consumer("lines") as consumer:
        print(producer.send_nowait("lines", b"v").result().offset, consumer.commit_nowait().result())
"""


@pytest.mark.system
def test_a_program_that_mypy_checks_strictly_has_nothing_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.chdir(ROOT)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    said, wrong, code = api.run(["--strict", "--config-file", "pyproject.toml", str(program)])
    assert (code, wrong) == (0, ""), said
