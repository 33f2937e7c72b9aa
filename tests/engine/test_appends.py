"""A batch that overtook the one before it, as one was refused for a moment that the other did not meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine import appends
from redbroker.engine.connection import Storage
from redbroker.engine.log import Append, Appended, Log
from redbroker.engine.tail import Tail
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import read_header
from tests.engine.test_log import a_batch, a_topic, get, put
from tests.support.servers import Server, started, wait_until
from tests.support.storages import opened, until

pytestmark = pytest.mark.anyio

NOWHERE = ("REPLICAOF", "127.0.0.1", "1")
ALONE = ("REPLICAOF", "NO", "ONE")


@pytest.fixture
async def storage(valkey: Any) -> AsyncIterator[Storage]:
    storage = await Storage.open(Settings(storage_url=valkey.url, storage_retry_ms=3_000))
    yield storage
    await storage.close()
    valkey.command(*ALONE)


@pytest.fixture
async def log(storage: Storage) -> AsyncIterator[Log]:
    tail = Tail(storage, Settings())
    log = Log(storage, tail, Settings())
    yield log
    await log.close()
    await tail.close()


def produced(sequence: int, producer: int = 7) -> bytes:
    return a_batch(producer_id=producer, producer_epoch=0, base_sequence=sequence)


async def refused_meanwhile(storage: Storage, log: Log, topic: Topic, *batches: bytes) -> list[Appended | KafkaError]:
    """Append batches, each in a call of its own, all on their way at once; the server refuses only the first."""
    [node] = storage._nodes.values()
    answers = []
    await storage.call(b"", *NOWHERE)
    for batch in batches:
        answers += log.submit([Append(topic, 0, batch, read_header(batch))], acks=1, timeout_ms=5_000)
        log._appends._flush()
        if len(answers) == 1:
            assert node.calls.errand(*ALONE) is not None  # on the same connection: between the two
    return await asyncio.gather(*answers)


def places(answers: list[Appended | KafkaError]) -> list[Any]:
    return [answer.base_offset if isinstance(answer, Appended) else answer.code for answer in answers]


async def test_batches_that_overtook_a_refused_one_are_stored_behind_it(log: Log, storage: Storage) -> None:
    topic = a_topic()
    await put(log, topic, produced(0))
    answers = await refused_meanwhile(storage, log, topic, *map(produced, range(1, 6)))
    assert places(answers) == [1, 2, 3, 4, 5]
    assert len((await get(log, topic, 0)).batches) == 6
    assert places([await put(log, topic, produced(6))]) == [6]


async def test_the_first_batch_of_a_producer_is_stored_first(log: Log, storage: Storage) -> None:
    topic = a_topic()
    await put(log, topic, a_batch())
    answers = await refused_meanwhile(storage, log, topic, produced(0), produced(1), produced(0, 8), produced(2))
    assert places(answers) == [2, 3, 1, 4]  # another producer's is free to pass


async def test_a_gap_is_told_though_the_batch_was_not_alone(log: Log, storage: Storage) -> None:
    topic = a_topic()
    await put(log, topic, produced(0))
    answers = await refused_meanwhile(storage, log, topic, produced(1), produced(3), produced(4))
    assert places(answers) == [1] + 2 * [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER]


async def test_a_producer_whose_records_expired_goes_on_where_it_was(log: Log) -> None:
    topic = a_topic()
    assert places([await put(log, topic, produced(70))]) == [0]
    answers = await asyncio.gather(*(put(log, topic, produced(5, producer)) for producer in (8, 9)))
    assert places(answers) == [1, 2]


async def test_what_follows_a_failed_first_batch_fails_too(
    log: Log, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = a_topic()
    await put(log, topic, a_batch())
    storage.settings = Settings(storage_retry_ms=0)
    monkeypatch.setattr("redbroker.engine.connection.HOPS_MIN", 0)
    answers = await refused_meanwhile(storage, log, topic, produced(0), produced(1), produced(2))
    assert places(answers) == 3 * [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    late = await put(log, topic, produced(1))  # it left before its producer heard
    assert places([late]) == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert places([await put(log, topic, produced(n)) for n in range(3)]) == [1, 2, 3]
    monkeypatch.setattr(appends, "UNSURE_S", 0.0)
    assert places([await put(log, topic, produced(4, 8))]) == [4]


async def test_what_follows_a_failed_batch_is_told_to_try_again_and_not_that_it_is_out_of_order(
    log: Log, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = a_topic()
    await put(log, topic, produced(0))
    storage.settings = Settings(storage_retry_ms=0)
    monkeypatch.setattr("redbroker.engine.connection.HOPS_MIN", 0)
    answers = await refused_meanwhile(storage, log, topic, produced(1), produced(2), produced(3))
    assert places(answers) == 3 * [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert places([await put(log, topic, produced(2))]) == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert places([await put(log, topic, produced(n)) for n in (1, 2, 3)]) == [1, 2, 3]
    monkeypatch.setattr(appends, "UNSURE_S", 0.0)
    assert places([await put(log, topic, produced(5))]) == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER]


async def test_a_batch_that_may_be_stored_is_not_told_that_it_is_not() -> None:
    server = Server()
    with started([server]):
        async with opened(server.url, storage_retry_ms=200) as storage:
            log = Log(storage, tail := Tail(storage, Settings()), Settings())
            topic = a_topic()
            await put(log, topic, produced(0))
            server.stop()
            [sent] = log.submit([Append(topic, 0, produced(1), read_header(produced(1)))], acks=1, timeout_ms=5_000)
            await asyncio.sleep(0.05)
            server.kill()
            [never] = log.submit([Append(topic, 1, produced(0), read_header(produced(0)))], acks=1, timeout_ms=5_000)
            assert places([await sent]) == [ErrorCode.REQUEST_TIMED_OUT]
            assert places([await never]) in ([ErrorCode.NOT_LEADER_OR_FOLLOWER], [ErrorCode.REQUEST_TIMED_OUT])
            assert places([await put(log, topic, produced(0), partition=2)]) == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
            await log.close()
            await tail.close()


async def test_a_refusal_does_not_tell_of_what_may_be_stored_already_that_it_is_not() -> None:
    master = Server()
    replica = Server("--replicaof", f"127.0.0.1 {master.port}")
    with started([master, replica]):
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
        wait_until(lambda: master.commands(("SET", "step", "1"), ("WAIT", 1, 500))[-1] == 1, what="replica is in step")
        async with opened(master.url) as storage:
            log = Log(storage, tail := Tail(storage, Settings()), Settings(), copies=lambda topic, slot: 2)
            topic = a_topic()
            assert places([await put(log, topic, produced(0), acks=-1)]) == [0]
            replica.stop()
            [sent] = log.submit([Append(topic, 0, produced(1), read_header(produced(1)))], acks=-1, timeout_ms=9_000)
            await until(lambda: bool(master.command("XLEN", log.partitions.get(topic, 0).keys.log) == 2))
            replica.kill()
            wait_until(lambda: master.info("connected_slaves") == "0", what="replica is missed")
            await asyncio.to_thread(master.command, "CLIENT", "KILL", "TYPE", "normal")
            assert places([await sent]) == [ErrorCode.REQUEST_TIMED_OUT]
            assert places([await put(log, topic, produced(2), acks=-1)]) == [ErrorCode.NOT_ENOUGH_REPLICAS]
            await log.close()
            await tail.close()


async def test_the_first_batch_is_stored_first_where_the_partition_is_opened_between_it_and_the_next(log: Log) -> None:
    topic = a_topic()
    answers = []
    for batch in map(produced, range(3)):
        answers += log.submit([Append(topic, 0, batch, read_header(batch))], acks=1, timeout_ms=5_000)
        log._appends._flush()
        if len(answers) == 1:
            opening = asyncio.ensure_future(log.partitions.open(topic, 0))
            await asyncio.sleep(0)  # sent on the same connection: between the two
    assert places(await asyncio.gather(*answers)) == [0, 1, 2]
    await opening


async def test_what_follows_a_batch_whose_partition_could_not_be_opened_is_told_to_try_again(storage: Storage) -> None:
    async def away(topic: Topic) -> bool:
        raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "Redis is away.")

    log = Log(storage, tail := Tail(storage, Settings()), Settings(), exists=away)
    topic = a_topic()
    assert places([await put(log, topic, produced(0))]) == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    await log.partitions.open(topic, 0)
    assert places([await put(log, topic, produced(1))]) == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert places([await put(log, topic, produced(n)) for n in (0, 1)]) == [0, 1]
    await log.close()
    await tail.close()


async def test_closing_ends_what_waits(log: Log, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = a_topic()
    await put(log, topic, produced(0))
    monkeypatch.setattr(log._appends, "_go_behind", lambda partition: None)
    waiting = asyncio.ensure_future(refused_meanwhile(storage, log, topic, produced(1), produced(2)))
    async with asyncio.timeout(5):
        while not log._appends._overtaking:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
    await log.close()
    assert places(await waiting) == [1, ErrorCode.NOT_LEADER_OR_FOLLOWER]


async def test_a_batch_may_follow_one_at_a_worker_that_hangs(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = a_topic()
    await put(log, topic, produced(0))
    assert places([await put(log, topic, produced(2))]) == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER]
    log.worker_gone()
    assert places([await put(log, topic, produced(n)) for n in (2, 1, 2)]) == [ErrorCode.NOT_LEADER_OR_FOLLOWER, 1, 2]
    monkeypatch.setattr(log._appends, "_clock", lambda: asyncio.get_running_loop().time() + appends.UNANSWERED_S)
    assert places([await put(log, topic, produced(4))]) == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER]
