"""Members of a group through the SDK, on real servers: sharing, static members, and who is told what."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from redbroker.client.connection import Connection
from redbroker.client.consumer import Consumer, RebalanceListener
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.assignors import NONE
from redbroker.machines.consumer_group import ConsumerHeartbeat
from redbroker.machines.reconciliation import LEAVE_STATIC
from redbroker.types import TopicPartition
from tests.support.reading import FIRST, append, orders, reader, until, values
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_members_share_at_once_and_tell_their_listeners(connection: Connection) -> None:
    await orders(connection, partitions=4)
    told: list[tuple[str, int]] = []

    class Listener(RebalanceListener):
        async def on_revoked(self, partitions: Any) -> None:
            told.append(("revoked", len(partitions)))
            assert set(partitions) <= first.assignment()

        async def on_assigned(self, partitions: Any) -> None:
            told.append(("assigned", len(partitions)))

    async with reader(connection, group_id="billing") as first:
        first.subscribe(["orders"], listener=Listener())
        await until(lambda: len(first.assignment()) == 4)
        async with asyncio.timeout(2), reader(connection, "orders", group_id="billing") as second:
            await until(lambda: len(second.assignment()) == 2 and len(first.assignment()) == 2)
            assert not first.assignment() & second.assignment()
            assert second.health().state in ("joined", "rebalancing")
        await until(lambda: len(first.assignment()) == 4)
        assert told == [("assigned", 4), ("revoked", 2), ("assigned", 2)]


async def test_a_member_without_partitions_is_a_healthy_standby(connection: Connection) -> None:
    await orders(connection)
    async with reader(connection, "orders", group_id="billing") as first:
        await until(lambda: first.assignment())
        async with reader(connection, "orders", group_id="billing") as second:
            await until(lambda: second.health().state == "standby")
            assert second.health().healthy


async def test_topics_made_later_are_read_where_the_pattern_matches(connection: Connection) -> None:
    async with reader(connection, group_id="billing") as consumer:
        consumer.subscribe(pattern="ord.*")
        await asyncio.sleep(0.05)
        topic = await connection.engine.topics.create("orders", 1)
        await append(connection, topic, b"a")
        assert await values(consumer, 1) == [b"a"]


MEMBER = """
import asyncio, sys
from redbroker.client.consumer import Consumer
async def main():
    async with Consumer("orders", storage=sys.argv[1], group_id="billing", group_consumer_session_timeout_ms=1000,
                        group_tend_ms=100) as consumer:
        while len(consumer.assignment()) < 2:
            await consumer.getmany(timeout_ms=10)
        print("ready", flush=True)
        await consumer.getmany(timeout_ms=60_000)
asyncio.run(main())
"""


@pytest.mark.system
async def test_a_killed_process_is_noticed_where_only_the_sdk_runs(valkey: Server) -> None:
    settings = {"group_consumer_session_timeout_ms": 1_000, "group_tend_ms": 100}
    async with Connection(valkey.unix_url, **settings) as connection:
        await orders(connection, partitions=4)
        assert not connection.engine.workers.live()
        async with reader(connection, "orders", group_id="billing") as consumer:
            await until(lambda: len(consumer.assignment()) == 4)
            words = [sys.executable, "-c", MEMBER, valkey.unix_url]
            process = subprocess.Popen(words, stdout=subprocess.PIPE)  # noqa: ASYNC220
            assert process.stdout is not None
            with process.stdout as out:
                try:
                    assert await asyncio.to_thread(out.readline) == b"ready\n"
                    await until(lambda: len(consumer.assignment()) == 2)
                finally:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
            await until(lambda: len(consumer.assignment()) == 4, 20)


async def test_a_blocked_event_loop_is_told_with_its_cause(valkey: Server, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"group_consumer_session_timeout_ms": 500, "group_consumer_heartbeat_interval_ms": 100}
    async with Connection(valkey.unix_url, **settings) as connection:
        topic = await orders(connection)
        async with reader(connection, "orders", group_id="billing") as consumer:
            await until(lambda: consumer.health().state == "joined")
            time.sleep(0.7)  # noqa: ASYNC251 - that is the point
            await append(connection, topic, b"a")
            assert await values(consumer, 1) == [b"a"]
            await until(lambda: "the event loop was blocked" in caplog.text)


# --- static members ---------------------------------------------------------------------------------------------


class Told(RebalanceListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, set[TopicPartition]]] = []

    async def on_revoked(self, partitions: Any) -> None:
        self.said.append(("revoked", set(partitions)))

    async def on_assigned(self, partitions: Any) -> None:
        self.said.append(("assigned", set(partitions)))

    async def on_lost(self, partitions: Any) -> None:
        self.said.append(("lost", set(partitions)))


async def epoch(connection: Connection) -> int:
    group = await connection.engine.groups.get("billing")
    assert group is not None
    return group.epoch


def static(connection: Connection, name: str, *topics: str) -> Consumer:
    return reader(connection, *topics, group_id="billing", group_instance_id=name)


async def test_a_static_member_is_away_and_back_and_nobody_notices(connection: Connection) -> None:
    topic = await orders(connection, partitions=4)
    told = Told()
    async with static(connection, "pod-1") as other:
        other.subscribe(["orders"], listener=told)
        async with static(connection, "pod-0", "orders") as first:
            await until(lambda: len(first.assignment()) == len(other.assignment()) == 2)
            await until(lambda: "joined" == first.health().state == other.health().state)
            kept, others = first.assignment(), other.assignment()
            assert not kept & others
            [of_first, _] = sorted(kept)
            await append(connection, topic, b"a", partition=of_first.partition)
            assert await values(first, 1) == [b"a"]
        settled, said = await epoch(connection), list(told.said)
        await append(connection, topic, b"b", partition=of_first.partition)  # nobody reads it meanwhile
        assert await other.getmany(timeout_ms=100) == []
        async with static(connection, "pod-0", "orders") as back:
            assert await values(back, 1) == [b"b"]
            assert back.assignment() == kept
        assert await epoch(connection) == settled
        assert other.assignment() == others
        assert told.said == said


async def test_a_second_holder_of_a_static_name_is_refused_and_the_first_reads_on(
    connection: Connection, valkey: Server
) -> None:
    topic = await orders(connection)
    async with static(connection, "pod-0", "orders") as first:
        await until(lambda: first.assignment())
        before = await epoch(connection)
        impatient = {"group_consumer_session_timeout_ms": 500, "group_consumer_heartbeat_interval_ms": 100}
        async with Connection(valkey.unix_url, **impatient) as theirs, static(theirs, "pod-0", "orders") as second:
            with pytest.raises(KafkaError, match="'pod-0' is still used by member") as refused:
                await second.getmany(timeout_ms=20_000)
            assert refused.value.code is ErrorCode.UNRELEASED_INSTANCE_ID
            assert second.health().last_error is refused.value
            assert not second.assignment()
        await append(connection, topic, b"a")
        assert await values(first, 1) == [b"a"]
        assert await epoch(connection) == before


async def test_a_static_member_that_was_killed_has_its_place_back_when_its_session_is_over(valkey: Server) -> None:
    async with Connection(valkey.unix_url, group_tend_ms=50) as connection:
        topic = await orders(connection, b"a")
        dead = ConsumerHeartbeat(
            "dead", 0, "pod-0", rebalance_timeout_ms=1_000, topics=("orders",), owned=NONE,
            catalogue=connection.engine.topics.all(),
        )  # fmt: skip
        async with Connection(valkey.unix_url, group_consumer_session_timeout_ms=500) as other:
            await other.engine.topics.find(topic.name)
            await other.engine.heartbeats.hear("billing", dead)  # and never again
        async with static(connection, "pod-0", "orders") as back:
            await until(lambda: back.health().last_error is not None)
            assert await values(back, 1) == [b"a"]
            assert back.health().last_error is None


async def test_a_static_member_whose_name_went_to_another_is_fenced_for_good(valkey: Server) -> None:
    async with Connection(valkey.unix_url, group_consumer_heartbeat_interval_ms=100) as connection:
        await orders(connection)
        told, groups = Told(), connection.engine.groups
        async with static(connection, "pod-0") as fenced:
            fenced.subscribe(["orders"], listener=told)
            await until(lambda: fenced.health().state == "joined")
            assert fenced._membership is not None
            await groups.ask("billing", ConsumerHeartbeat(fenced._membership.member_id, LEAVE_STATIC, "pod-0"))
            await groups.ask(
                "billing",
                ConsumerHeartbeat(
                    "another", 0, "pod-0", rebalance_timeout_ms=1_000, topics=("orders",), owned=NONE,
                    catalogue=connection.engine.topics.all(),
                ),
            )  # fmt: skip
            with pytest.raises(KafkaError, match="another") as refused:
                await fenced.getmany(timeout_ms=20_000)
            assert refused.value.code is ErrorCode.FENCED_INSTANCE_ID
            assert not fenced.assignment()
            assert told.said == [("assigned", {FIRST}), ("lost", {FIRST})]
