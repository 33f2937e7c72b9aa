"""What a scrape tells of the cluster: each figure once, whatever the number of workers, and quickly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from redbroker.broker.server import Server as Worker
from redbroker.broker.server import serving
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append
from redbroker.engine.offsets import Commit
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.servers import Server
from tests.support.storages import until

pytestmark = pytest.mark.anyio

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]
ODD = 'odd "group"\n\\'


@contextlib.asynccontextmanager
async def workers(url: str, count: int, **settings: object) -> AsyncIterator[list[Worker]]:
    """Workers that know of each other."""
    async with contextlib.AsyncExitStack() as stack:
        served = []
        for _ in range(count):
            given = Settings.load(storage_url=url, port=0, metrics_age_ms=0, drain_ms=100, **settings)
            engine = await stack.enter_async_context(Engine.open(given))
            served.append(await stack.enter_async_context(serving(engine, given)))
        await until(lambda: all(len(each.engine.workers.live()) == count for each in served))
        yield served


async def fill(engine: Engine, topic: str, partitions: int, records: int, ago_s: float) -> None:
    """`records` records of `ago_s` ago, one batch each, in every partition."""
    made = await engine.topics.create(topic, partitions)
    now_ms = int((time.time() - ago_s) * 1000)
    for _ in range(records):
        batch = build_batch([Record(0, now_ms, None, b"value", [])])
        entries = [Append(made, number, batch, read_header(batch)) for number in range(partitions)]
        await engine.log.append(entries, acks=1, timeout_ms=5_000)


async def commit(engine: Engine, group: str, topic: str, partitions: int, offset: int) -> None:
    """A consumer that assigns itself commits."""
    wanted = [Commit(topic, number, offset) for number in range(partitions)]
    await engine.offsets.commit(group, wanted)
    await engine.groups.relist()


async def scraped(served: list[Worker]) -> Samples:
    """All samples of all workers, added up."""
    found: Samples = {}
    for worker in served:
        await worker.engine.groups.relist()
        for family in text_string_to_metric_families((await worker.observer.text()).decode()):
            for sample in family.samples:
                series = found.setdefault(sample.name, {})
                labels = frozenset(sample.labels.items())
                series[labels] = series.get(labels, 0) + sample.value
    return found


def labels(**given: object) -> frozenset[tuple[str, str]]:
    return frozenset((name, str(value)) for name, value in given.items())


async def test_each_figure_is_told_by_one_worker(valkey: Server) -> None:
    async with workers(valkey.url, 2) as served:
        engine = served[0].engine
        await fill(engine, "orders", 4, 3, ago_s=100)
        await served[1].engine.topics.reload()
        await commit(engine, ODD, "orders", 4, 1)
        found = await scraped(served)

    for number in range(4):
        at = {"topic": "orders", "partition": number}
        assert found["redbroker_partition_end_offset"][labels(**at)] == 3
        assert found["kafka_topic_partition_current_offset"][labels(**at)] == 3
        assert found["redbroker_partition_bytes"][labels(**at)] > 3 * 61
        assert found["redbroker_group_lag_records"][labels(group=ODD, **at)] == 2
        assert 100 <= found["redbroker_group_lag_seconds"][labels(group=ODD, **at)] < 130
        assert found["kafka_consumergroup_lag"][labels(consumergroup=ODD, **at)] == 2
    assert found["kafka_consumergroup_lag_sum"][labels(consumergroup=ODD, topic="orders")] == 8
    assert found["kafka_topic_partitions"][labels(topic="orders")] == 4
    assert found["kafka_brokers"][labels()] == 2
    assert sum(found["redbroker_redis_memory_used_bytes"].values()) > 100_000
    assert len(found["redbroker_redis_memory_used_bytes"]) == 1
    assert found["redbroker_redis_up"][labels()] == 2


async def test_a_replica_that_is_away_is_still_counted() -> None:
    with Server() as master, Server("--replicaof", f"127.0.0.1 {master.port}") as replica:
        await until(lambda: "state=online" in master.info("slave0"))
        async with workers(master.url, 1) as served:
            replica.kill()
            await until(lambda: master.info("connected_slaves") == "0")
            found = await scraped(served)
    at = labels(node=master.address)
    assert found["redbroker_redis_replicas"][at] == 0
    assert found["redbroker_redis_replicas_counted"][at] == 1


async def test_who_has_read_everything_has_no_lag(valkey: Server) -> None:
    async with workers(valkey.url, 1) as served:
        await fill(served[0].engine, "orders", 1, 2, ago_s=100)
        await commit(served[0].engine, "readers", "orders", 1, 2)
        found = await scraped(served)
    at = labels(group="readers", topic="orders", partition=0)
    assert (found["redbroker_group_lag_records"][at], found["redbroker_group_lag_seconds"][at]) == (0, 0)


async def test_a_trimmed_offset_counts_from_the_log_start(valkey: Server) -> None:
    async with workers(valkey.url, 1) as served:
        engine = served[0].engine
        await fill(engine, "orders", 1, 5, ago_s=10)
        await commit(engine, "readers", "orders", 1, 0)
        await engine.log.trim([(engine.topics.all()["orders"], 0, 3)])
        found = await scraped(served)
    assert found["redbroker_group_lag_records"][labels(group="readers", topic="orders", partition=0)] == 2


async def test_what_is_beyond_the_bounds_is_left_out_and_counted(valkey: Server) -> None:
    async with workers(valkey.url, 1, metrics_partitions_max=3, metrics_groups_max=1) as served:
        await fill(served[0].engine, "orders", 5, 1, ago_s=0)
        for name in ("one", "two", "three"):
            await commit(served[0].engine, name, "orders", 1, 0)
        found = await scraped(served)
    assert len(found["redbroker_partition_end_offset"]) == 3
    assert found["redbroker_metrics_left_out"][labels(kind="partitions")] == 2
    assert found["redbroker_metrics_left_out"][labels(kind="groups")] == 2


async def test_while_redis_stands_still_a_scrape_tells_what_was_known(valkey: Server) -> None:
    with Server() as own:
        async with workers(own.url, 1, metrics_timeout_ms=100) as served:
            await fill(served[0].engine, "orders", 1, 2, ago_s=0)
            assert b"redbroker_redis_up 1" in await served[0].observer.text()
            own.stop()
            try:
                began = time.perf_counter()
                text = await served[0].observer.text()
                assert time.perf_counter() - began < 2
            finally:
                own.cont()
            assert b"redbroker_redis_up 0" in text
            assert b'redbroker_partition_end_offset{topic="orders",partition="0"} 2' in text


@pytest.mark.system
async def test_a_thousand_partitions_and_a_hundred_groups_are_scraped_in_time(valkey: Server) -> None:
    async with workers(valkey.url, 1) as served:
        engine = served[0].engine
        await fill(engine, "orders", 1_000, 1, ago_s=5)
        for number in range(100):
            await commit(engine, f"group-{number}", "orders", 10, 0)
        took_ms, longest_ms = [], 0.0
        ended = asyncio.Event()

        async def pulse() -> None:
            nonlocal longest_ms
            while not ended.is_set():
                began = time.perf_counter()
                await asyncio.sleep(0)
                longest_ms = max(longest_ms, (time.perf_counter() - began) * 1000)

        beating = asyncio.create_task(pulse())
        for _ in range(5):
            began = time.perf_counter()
            text = await served[0].observer.text()
            took_ms.append((time.perf_counter() - began) * 1000)
        ended.set()
        await beating
    assert text.count(b"redbroker_group_lag_records{") == 1_000
    print(f"scrape {min(took_ms):.0f} ms, longest step of the loop {longest_ms:.0f} ms, {len(text):,} bytes")
    assert min(took_ms) < 200
