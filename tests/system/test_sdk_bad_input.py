"""What a service is handed that it cannot use, and what happens to it meanwhile, on real servers.

Values that cannot be read, written or stored, topics that are not there, partitions that go while a handler runs, a
blocked event loop, a Redis that is silent, cancelled tasks. A master that is killed in the middle of a send:
tests/client/test_producer.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from redbroker import Consumer, Context, DeliveryError, Producer, RedBroker, Retry
from redbroker.client.connection import Connection
from redbroker.client.types import ConsumerRecord
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from tests.support.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROOT = Path(__file__).parents[2]
WORK = TopicPartition("work", 0)


async def until(condition: Any, timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def other(valkey: Server) -> AsyncIterator[Connection]:
    """Somebody else's connection, to look at what is stored."""
    async with Connection(valkey.url) as connection:
        yield connection


async def committed(connection: Connection, group: str = "g") -> int:
    """What a group has committed of the one partition of `work`."""
    found = await connection.engine.offsets.fetch(group, [WORK])
    return found[WORK].offset


async def stored(connection: Connection, topic: str) -> list[ConsumerRecord]:
    """Every record of a topic that exists."""
    async with Consumer(topic, storage=connection, auto_offset_reset="earliest") as consumer:
        await until(consumer.assignment)
        ends = await consumer.end_offsets()
        return [record for _ in range(sum(ends.values())) for record in await consumer.getmany(1, 10_000)]


# --- values that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["skip", "dead-letter"])
async def test_what_cannot_be_decoded_is_passed_over_as_it_was_allowed(
    valkey: Server, other: Connection, policy: Any
) -> None:
    app, seen, registry = RedBroker(valkey.url), [], CollectorRegistry()
    app.metrics(registry)
    dlq = "dead" if policy == "dead-letter" else None

    @app.topic("work", value=int, partitions=1).subscribe(group="g", undecodable=policy, dlq=dlq)
    async def handle(number: int) -> None:
        seen.append(number)

    async with app:
        for value in (b"1", b"\xff{", b"3"):
            await app.send_bytes("work", value)
        await until(lambda: seen == [1, 3])
        label = {"topic": "work", "group": "g"}
        counted = [
            registry.get_sample_value(f"redbroker_client_records_{name}_total", label)
            for name in ("handled", "skipped", "dead")
        ]
    assert counted == [2, 1, 0] if policy == "skip" else counted == [2, 0, 1]
    assert await committed(other) == 3
    if policy == "dead-letter":
        [dead] = await stored(other, "dead")
        headers = dict(dead.headers)
        assert dead.value == b"\xff{"
        assert (headers["redbroker-origin"] or b"").startswith(b"work/0/1/")
        assert b"The value of work-0 at offset 1 cannot be decoded" in (headers["redbroker-cause"] or b"")


async def test_what_cannot_be_decoded_stops_the_app_before_it(valkey: Server, other: Connection) -> None:
    app = RedBroker(valkey.url)
    app.topic("work", value=int, partitions=1).subscribe(group="g")(lambda number: None)
    async with app:
        for value in (b"1", b"\xff{", b"3"):
            await app.send_bytes("work", value)
        await until(lambda: app.failure is not None)
        assert "The value of work-0 at offset 1" in app.health()["failure"]
        assert any("undecodable" in note for note in app.failure.__notes__)
    assert await committed(other) == 1


# --- values that cannot be written ------------------------------------------------------------------------------------


async def test_what_a_handler_cannot_send_is_its_failure_and_told_in_the_dead_letter(
    valkey: Server, other: Connection
) -> None:
    """Not serialisable, over the limit, to a topic that is not there: each is one dead letter, and the rest goes on."""
    app, done = RedBroker(valkey.url, auto_create_topics=False), []
    app.topic("results", value=dict, partitions=1, configs={"max.message.bytes": "10000"})

    @app.topic("work", value=str, partitions=1).subscribe(group="g", dlq="dead", to="results")
    async def handle(text: str, ctx: Context) -> Any:
        done.append(text)
        if text == "unserialisable":
            return {"a": object()}
        if text == "no topic":
            await ctx.send("ressults", {"a": 1})
        return {"a": "x" * (20_000 if text == "large" else 1)}

    texts = ["1", "unserialisable", "large", "no topic", "5"]
    async with app:
        for text in texts:
            await app.send("work", text)
        await until(lambda: app.running[0].counts.dead == 3 and app.running[0].counts.handled == 2)
        assert app.health()["healthy"]
    assert await committed(other) == 5
    assert len(await stored(other, "results")) == 2
    dead = {str(record.value, "utf-8"): dict(record.headers) for record in await stored(other, "dead")}
    causes = {text: (headers["redbroker-cause"] or b"").decode() for text, headers in dead.items()}
    assert list(causes) == ["unserialisable", "large", "no topic"]
    assert (
        "SerializationError: " in causes["unserialisable"]
        and "value of a record for results" in causes["unserialisable"]
    )
    assert "exceeds max.message.bytes of results, 10000" in causes["large"]
    assert "ressults" in causes["no topic"] and "auto_create_topics" in causes["no topic"]


@pytest.mark.parametrize("retry", [Retry(attempts=1), Retry(attempts=2, backoff_s=0.01)], ids=["dead", "retried"])
async def test_a_record_as_large_as_its_topic_allows_has_room_among_the_dead_ones(
    valkey: Server, other: Connection, retry: Retry
) -> None:
    """Its cause and origin come on top of what filled its topic's limit."""
    app, headers = RedBroker(valkey.url), [("h", b"x" * 1_000)]
    work = app.topic("work", value=bytes, partitions=1, configs={"max.message.bytes": "3000000"})

    @work.subscribe(group="g", dlq="dead", retry=retry)
    async def handle(value: bytes) -> None:
        raise ValueError("é" * 5_000)

    value = b"v" * 2_998_850  # with its header, a batch of it is within 3,000,000 bytes
    async with app:
        await work.send(value, headers=headers)
        with pytest.raises(DeliveryError, match=r"exceeds max\.message\.bytes of work"):
            await work.send(value + b"v" * 200, headers=headers)
        await until(lambda: app.running[0].counts.dead == 1 or app.failure is not None)
        assert app.failure is None
    assert [record.value for record in await stored(other, "dead")] == [value]


async def test_a_topic_that_is_not_there_is_waited_for(valkey: Server, other: Connection) -> None:
    async with Consumer("later", storage=other, group_id="g", auto_offset_reset="earliest") as consumer:
        assert await consumer.getmany(1, 50) == []
        assert consumer.health().state in ("standby", "rebalancing")
        async with Producer(valkey.url, num_partitions=1) as producer:
            await producer.send("later", b"1")
        assert [record.value for record in await consumer.getmany(1, 10_000)] == [b"1"]


# --- partitions that go while a handler runs --------------------------------------------------------------------------

SERVICE = """
import asyncio, logging, sys, time
from redbroker import RedBroker

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="log %(message)s")
app = RedBroker(
    sys.argv[1], group_consumer_session_timeout_ms=1_000, group_consumer_heartbeat_interval_ms=200, group_tend_ms=100
)

@app.topic("work", value=int, partitions=1).subscribe(group="g")
async def handle(number: int) -> None:
    print("began", number, flush=True)
    if sys.argv[2] == "blocks" and number == 1:
        time.sleep(4)
    await asyncio.sleep(0.05)
    print("ended", number, flush=True)

app.run()
"""


class Service:
    """A process that handles `work`; `said` are its lines so far."""

    def __init__(self, url: str, how: str) -> None:
        words = [sys.executable, "-c", SERVICE, url, how]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ})
        self.said: list[str] = []
        self._listening = asyncio.create_task(asyncio.to_thread(self._listen))

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())

    def numbers(self, what: str) -> list[int]:
        return [int(line.split()[1]) for line in self.said if line.startswith(what)]

    async def close(self) -> None:
        self.process.kill()
        self.process.wait()
        await self._listening
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.asynccontextmanager
async def services(url: str) -> AsyncIterator[list[Service]]:
    """Services that are added meanwhile, killed at the end."""
    running: list[Service] = []
    try:
        yield running
    finally:
        for each in running:
            await each.close()


@pytest.mark.parametrize("how", ["stopped", "blocks"])
async def test_what_a_frozen_member_had_goes_to_another_and_is_never_stolen_back(
    valkey: Server, other: Connection, how: str
) -> None:
    """It wakes up in the middle of a record that was handled elsewhere long ago: nothing of it is committed."""
    await other.engine.topics.create("work", 1)
    offsets: list[int] = []

    async def watch() -> None:
        while True:
            offsets.append(await committed(other))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    try:
        async with services(valkey.url) as running, Producer(other) as producer:
            frozen = Service(valkey.url, how)
            running.append(frozen)
            await producer.send("work", b"0")
            await until(lambda: frozen.numbers("ended") == [0] and offsets[-1] == 1)
            await producer.send("work", b"1")
            await until(lambda: frozen.numbers("began") == [0, 1])
            if how == "stopped":
                frozen.process.send_signal(signal.SIGSTOP)
            heir = Service(valkey.url, "works")
            running.append(heir)
            await until(lambda: heir.numbers("ended") == [1])
            for number in (2, 3):
                await producer.send("work", b"%d" % number)
            await until(lambda: offsets[-1] == 4)
            assert heir.numbers("ended") == [1, 2, 3]
            frozen.process.send_signal(signal.SIGCONT)
            await until(lambda: any("the event loop was blocked" in line for line in frozen.said))
            await until(lambda: any("goes on without member" in line for line in frozen.said))
            await producer.send("work", b"4")
            await until(lambda: offsets[-1] == 5)
            assert sum(each.numbers("ended").count(4) for each in running) == 1
            assert offsets == sorted(offsets), "a commit of what went to another member was taken"
            assert frozen.process.poll() is None, "it lives on as a standby"
    finally:
        watching.cancel()


# --- cancelled tasks, and a Redis that is silent ----------------------------------------------------------------------


async def test_whatever_is_cancelled_an_acknowledged_record_is_stored_and_none_twice(
    valkey: Server, other: Connection
) -> None:
    chance, acknowledged = random.Random(7), set[int]()

    async with Producer(valkey.url, num_partitions=2, buffer_bytes=20_000) as producer:

        async def send(number: int) -> None:
            await producer.send("work", b"%d" % number, key=b"%d" % (number % 5))
            acknowledged.add(number)

        sending = []
        for number in range(3_000):
            sending.append(asyncio.create_task(send(number)))
            if chance.random() < 0.3:
                chance.choice(sending[-100:]).cancel()
            if chance.random() < 0.02:
                await asyncio.sleep(chance.random() / 2_000)
        done = await asyncio.wait_for(asyncio.gather(*sending, return_exceptions=True), 30)
        cancelled = sum(isinstance(each, asyncio.CancelledError) for each in done)
        assert cancelled > 300 and len(acknowledged) == 3_000 - cancelled
        assert await asyncio.wait_for(producer.send("work", b"3000"), 5)  # the room of the cancelled ones is free again
    numbers = [int(record.value) for record in await stored(other, "work")]
    assert len(numbers) == len(set(numbers))
    assert acknowledged <= set(numbers)


@pytest.fixture
def silent() -> Iterator[Server]:
    """A server of the test's own, to be stopped."""
    with Server() as server:
        yield server
        server.cont()


STUBBORN = """
import asyncio, sys
from redbroker import RedBroker

app = RedBroker(sys.argv[1], storage_timeout_ms=500)
work = app.topic("work", value=str, partitions=1)

@work.subscribe(group="g", drain_s=1)
async def handle(how: str) -> None:
    print("began", flush=True)
    if how == "sends":
        await asyncio.to_thread(sys.stdin.readline)
        print("sends", flush=True)
        await work.send("more")

app.run()
"""


@pytest.mark.parametrize("how", ["commits", "sends"])
async def test_a_service_ends_in_time_though_redis_is_silent(silent: Server, how: str) -> None:
    """What it could not send or commit is handled again."""
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", STUBBORN, silent.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        async with Connection(silent.url) as connection:
            await connection.engine.topics.create("work", 1)
            async with Producer(connection) as producer:
                await producer.send("work", how.encode())
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "began\n"
        silent.stop()
        if how == "sends":
            assert process.stdin is not None
            await asyncio.to_thread(print, file=process.stdin, flush=True)
            assert await asyncio.to_thread(process.stdout.readline) == "sends\n"
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, told = await asyncio.to_thread(process.communicate, None, 60)
        assert process.returncode == 0, told
        assert time.monotonic() - asked < 15
    finally:
        process.kill()
        process.wait()


HANGS = """
import sys, time
from redbroker import RedBroker

app = RedBroker(sys.argv[1])

@app.topic("work", value=str, partitions=1).subscribe(group="g", drain_s=0.5)
def handle(how: str) -> None:
    print("began", flush=True)
    time.sleep(300)

app.run()
"""


async def test_a_service_ends_in_time_though_a_handler_hangs_in_its_thread(valkey: Server, other: Connection) -> None:
    await other.engine.topics.create("work", 1)
    async with Producer(other) as producer:
        await producer.send("work", b"x")
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", HANGS, valkey.url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "began\n"
        process.send_signal(signal.SIGTERM)
        told, _ = await asyncio.to_thread(process.communicate, None, 20)
        assert (process.returncode, told) == (0, "")
        assert await committed(other) == -1
    finally:
        process.kill()
        process.wait()


async def test_a_commit_that_redis_does_not_answer_is_told_as_one(silent: Server) -> None:
    """And an app whose commits wait for Redis goes on when it is back."""
    settings: dict[str, Any] = {"storage_timeout_ms": 300}
    app, seen = RedBroker(silent.url, **settings), []

    @app.topic("work", value=int, partitions=1).subscribe(group="g", default_api_timeout_ms=500)
    async def handle(number: int) -> None:
        seen.append(number)

    async with app:
        await app.send("work", 0)
        await until(lambda: seen == [0])
        silent.stop()
        await asyncio.sleep(2)
        with pytest.raises(KafkaError, match="default_api_timeout_ms") as late:
            await app.running[0].consumer.commit({WORK: 1})
        assert late.value.code is ErrorCode.REQUEST_TIMED_OUT
        silent.cont()
        assert app.failure is None
        await app.send("work", 1)
        await until(lambda: seen == [0, 1])
        assert app.health()["healthy"]
