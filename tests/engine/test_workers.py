"""Workers against a real Valkey: node ids, heartbeats, expiry, and how work is spread over the live ones."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from redbroker.config import Settings
from redbroker.engine import workers as module
from redbroker.engine.connection import Storage
from redbroker.engine.keys import MetaKeys
from redbroker.engine.workers import Ring, Worker, Workers
from redbroker.errors import ErrorCode, KafkaError
from tests.support.servers import Server

TIMEOUT_MS = 60_000
KEYS = MetaKeys("rb")


@pytest.fixture
async def storage(valkey: Any) -> AsyncIterator[Storage]:
    storage = await Storage.open(Settings(storage_url=valkey.unix_url))
    yield storage
    await storage.close()


def workers(storage: Storage) -> Workers:
    return Workers(storage, KEYS, Settings(worker_timeout_ms=TIMEOUT_MS, worker_heartbeat_ms=50))


def age(valkey: Any, node_id: int, ms: int) -> None:
    """Make a worker's last beat older, as if it had been silent."""
    valkey.command("ZINCRBY", KEYS.beats, -ms, node_id)


# --- who is alive ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_address_keeps_its_small_node_id(storage):
    first, second = workers(storage), workers(storage)
    assert await first.register("127.0.0.1", 9092, "zone-a") == 1
    assert await second.register("127.0.0.1", 9093) == 2
    await first.deregister()
    assert first.node_id == -1
    assert await workers(storage).register("127.0.0.1", 9092) == 1
    await second.refresh()
    assert second.live() == (Worker(1, "127.0.0.1", 9092), Worker(2, "127.0.0.1", 9093))


@pytest.mark.anyio
async def test_that_a_worker_is_gone_is_told_once(storage):
    told = []
    first = Workers(storage, KEYS, Settings(worker_timeout_ms=TIMEOUT_MS), gone=lambda: told.append("gone"))
    second = workers(storage)
    await first.register("127.0.0.1", 9092)
    await second.register("127.0.0.1", 9093)
    await first.refresh()
    assert told == []
    await second.deregister()
    await first.refresh()
    await first.refresh()
    assert told == ["gone"]


@pytest.mark.anyio
async def test_a_worker_that_begins_beside_others_cannot_know_who_has_just_gone(storage):
    told = []
    settings = Settings(worker_timeout_ms=TIMEOUT_MS)
    first, second = (Workers(storage, KEYS, settings, gone=lambda n=n: told.append(n)) for n in (1, 2))
    await first.refresh()
    await first.register("127.0.0.1", 9092)
    assert told == []
    await second.refresh()
    await second.register("127.0.0.1", 9093)
    await first.refresh()
    assert told == [2]


@pytest.mark.anyio
async def test_many_that_register_at_once_get_different_ids(storage):
    each = [workers(storage) for _ in range(30)]
    async with anyio.create_task_group() as group:
        for port, worker in enumerate(each):
            group.start_soon(worker.register, "h", port + 1)
    assert sorted(worker.node_id for worker in each) == list(range(1, 31))
    await each[0].refresh()
    assert len(each[0].live()) == 30


@pytest.mark.anyio
async def test_addresses_without_a_worker_are_forgotten_when_there_are_too_many(storage, monkeypatch):
    monkeypatch.setattr(module, "NODES_MAX", 3)
    for port in (1, 2, 3):
        passing = workers(storage)
        await passing.register("h", port)
        if port != 2:
            await passing.deregister()
    assert await workers(storage).register("h", 9) == 1
    assert await storage.call(KEYS.nodes, "HGETALL", KEYS.nodes) == [b"h:2", b"2", b"h:9", b"1"]


@pytest.mark.anyio
async def test_a_silent_worker_is_removed_by_another_ones_beat(storage, valkey):
    alive, dead = workers(storage), workers(storage)
    await alive.register("h", 1)
    await dead.register("h", 2)
    await alive.refresh()
    assert len(alive.live()) == 2
    age(valkey, dead.node_id, TIMEOUT_MS - 10_000)
    await alive.refresh()
    assert len(alive.live()) == 2
    age(valkey, dead.node_id, 10_001)
    await alive.refresh()
    assert alive.live() == (Worker(1, "h", 1),)


@pytest.mark.anyio
async def test_one_taken_for_dead_by_mistake_joins_again_under_its_id(storage, valkey, caplog):
    slow, other = workers(storage), workers(storage)
    await slow.register("h", 1)
    await other.register("h", 2)
    age(valkey, slow.node_id, TIMEOUT_MS + 1)
    await other.refresh()
    assert other.live() == (Worker(2, "h", 2),)
    await slow.refresh()
    assert "silent for more than worker_timeout_ms" in caplog.text
    assert slow.node_id == 1
    await other.refresh()
    assert len(other.live()) == 2


@pytest.mark.anyio
async def test_nobody_is_removed_after_redis_was_away_or_its_clock_jumped_ahead(storage, valkey):
    first, second = workers(storage), workers(storage)
    await first.register("h", 1)
    await second.register("h", 2)
    for node_id in (1, 2):
        age(valkey, node_id, 3_600_000)
    await first.refresh()
    assert len(first.live()) == 2
    age(valkey, 2, TIMEOUT_MS + 1)  # but who stays silent now goes
    await first.refresh()
    assert first.live() == (Worker(1, "h", 1),)


@pytest.mark.anyio
async def test_a_clock_set_back_does_not_keep_the_dead_alive(storage, valkey):
    first, second = workers(storage), workers(storage)
    await first.register("h", 1)
    await second.register("h", 2)
    age(valkey, 2, -3_600_000)
    await first.refresh()
    score = int(valkey.command("ZSCORE", KEYS.beats, 2))
    assert abs(score - time.time() * 1000) < 5_000


@pytest.mark.anyio
async def test_the_newest_claim_of_an_address_wins_with_a_loud_warning(storage, caplog):
    old, new = workers(storage), workers(storage)
    await old.register("h", 1)
    assert await new.register("h", 1) == 1
    assert "h:1 (node 1)" in caplog.text
    caplog.clear()
    await old.refresh()
    assert "Another worker has taken the address h:1" in caplog.text
    caplog.clear()
    await old.refresh()
    await new.refresh()
    await old.deregister()
    assert caplog.text == ""
    await new.refresh()
    assert new.live() == (Worker(1, "h", 1),)


@pytest.mark.anyio
async def test_a_beat_tells_the_workers_only_when_they_changed(storage, valkey):
    one = workers(storage)
    await one.register("h", 1)
    version = await storage.call(KEYS.versions, "HGET", KEYS.versions, "workers")
    await one.refresh()
    assert await storage.call(KEYS.versions, "HGET", KEYS.versions, "workers") == version


@pytest.mark.anyio
async def test_a_process_that_is_no_worker_sees_them_all(storage):
    worker, onlooker = workers(storage), workers(storage)
    await worker.register("h", 1, "zone")
    await onlooker.refresh()
    assert onlooker.live() == (Worker(1, "h", 1, "zone"),)
    assert onlooker.node_id == -1


@pytest.mark.anyio
async def test_the_last_known_workers_stay_while_redis_is_away(valkey):
    storage = await Storage.open(Settings(storage_url=valkey.unix_url, storage_retry_ms=0))
    one = workers(storage)
    await one.register("h", 1)
    await storage.close()
    with pytest.raises(KafkaError):
        await one.refresh()
    assert one.live() == (Worker(1, "h", 1),)
    assert one.leader("t", 0).node_id == 1


@pytest.mark.anyio
async def test_who_left_is_named_for_a_moment_but_leads_nothing(storage, monkeypatch):
    one, two = workers(storage), workers(storage)
    await one.register("h", 1)
    await two.register("h", 2)
    await one.refresh()
    await two.deregister()
    await one.refresh()
    assert [worker.node_id for worker in one.named()] == [1, 2]
    assert [worker.node_id for worker in one.live()] == [1]
    assert {one.leader("t", partition).node_id for partition in range(20)} == {1}
    await two.register("h", 2)
    await one.refresh()
    assert [worker.node_id for worker in one.named()] == [1, 2]
    await two.deregister()
    await one.refresh()
    monkeypatch.setattr(module, "GONE_S", 0.0)
    assert [worker.node_id for worker in one.named()] == [1]


@pytest.mark.anyio
async def test_a_running_worker_beats_and_hears_of_changes(storage, valkey):
    one, two = workers(storage), workers(storage)
    await one.register("h", 1)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        before = float(valkey.command("ZSCORE", KEYS.beats, 1))
        await two.register("h", 2)
        one.changed()
        with anyio.fail_after(5):
            while True:
                if len(one.live()) == 2 and float(valkey.command("ZSCORE", KEYS.beats, 1)) > before:
                    break
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_who_hears_nothing_of_redis_sends_its_clients_to_the_others_until_it_does(monkeypatch):
    monkeypatch.setattr(module, "GONE_S", 0.0)
    with Server() as server:
        mine = Settings(storage_url=server.unix_url, worker_timeout_ms=400, worker_heartbeat_ms=50)
        storage, elsewhere = await Storage.open(mine), await Storage.open(mine)
        one, two = Workers(storage, KEYS, mine), Workers(elsewhere, KEYS, mine)
        await one.register("h", 1)
        await two.register("h", 2)
        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            await until(lambda: len(one.live()) == 1)  # the second does not beat
            await two.register("h", 2)
            group.start_soon(two.run)
            await until(lambda: len(one.live()) == 2)
            server.stop()
            try:
                await until(lambda: one.live() == (Worker(2, "h", 2),))
                assert one.leader("t", 0) == one.coordinator("g") == Worker(2, "h", 2)
                assert [worker.node_id for worker in one.named()] == [1, 2]  # the other may be dead by now
            finally:
                server.cont()
            await until(lambda: len(one.live()) == len(two.live()) == 2)
            group.cancel_scope.cancel()
        await storage.close()
        await elsewhere.close()


@pytest.mark.anyio
async def test_who_is_alone_keeps_its_clients_while_redis_is_silent():
    with Server() as server:
        mine = Settings(storage_url=server.unix_url, worker_timeout_ms=200, worker_heartbeat_ms=50)
        storage = await Storage.open(mine)
        one = Workers(storage, KEYS, mine)
        await one.register("h", 1)
        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            server.stop()
            await anyio.sleep(0.6)
            assert one.live() == (Worker(1, "h", 1),)
            server.cont()
            group.cancel_scope.cancel()
        await storage.close()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)


# --- who serves what ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_without_workers_nobody_leads(storage):
    nobody = workers(storage)
    for ask, code in (
        (lambda: nobody.leader("t", 0), ErrorCode.LEADER_NOT_AVAILABLE),
        (lambda: nobody.coordinator("g"), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (nobody.controller, ErrorCode.BROKER_NOT_AVAILABLE),
    ):
        with pytest.raises(KafkaError) as refused:
            ask()
        assert refused.value.code is code


@pytest.mark.anyio
async def test_all_workers_name_the_same_leaders(storage):
    one, two = workers(storage), workers(storage)
    await one.register("h", 1)
    await two.register("h", 2)
    await one.refresh()
    leaders = [one.leader("t", partition) for partition in range(100)]
    assert leaders == [two.leader("t", partition) for partition in range(100)]
    assert set(leaders) == set(one.live())
    assert one.coordinator("group") == two.coordinator("group")
    assert one.controller() == two.controller() == Worker(1, "h", 1)
    await two.deregister()
    await one.refresh()
    assert {one.leader("t", partition) for partition in range(100)} == {Worker(1, "h", 1)}


def a_ring(node_ids: set[int]) -> Ring:
    return Ring(Worker(node_id, "h", node_id) for node_id in node_ids)


PARTITIONS = [f"topic-{i % 7}:{i // 7}" for i in range(700)]


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(1, 2**31 - 1), min_size=2, max_size=12), st.data())
def test_when_a_worker_leaves_only_its_own_partitions_move(node_ids, data):
    gone = data.draw(st.sampled_from(sorted(node_ids)))
    before, after = a_ring(node_ids), a_ring(node_ids - {gone})
    for partition in PARTITIONS:
        if before.owner(partition).node_id != gone:
            assert before.owner(partition) == after.owner(partition)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_partitions_are_spread_evenly(count):
    ring = a_ring(set(range(1, count + 1)))
    owned = [0] * (count + 1)
    for i in range(10_000):
        owned[ring.owner(f"orders:{i}").node_id] += 1
    assert all(abs(share - 10_000 / count) < 5 * (10_000 / count) ** 0.5 for share in owned[1:])


def test_owners_never_change_between_releases():
    ring = a_ring({1, 2, 3})
    assert [ring.owner(f"orders:{i}").node_id for i in range(12)] == [3, 3, 3, 1, 1, 1, 3, 1, 2, 1, 2, 1]
