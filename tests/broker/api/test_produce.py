"""Produce: what is written, what is refused, and that one broken partition never harms the others."""

from __future__ import annotations

import time
import uuid
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastcrc import crc32

from redbroker.broker.api.produce import API
from redbroker.broker.dispatch import Refused
from redbroker.engine.log import Read
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode
from redbroker.wire.records import iter_records, read_header
from redbroker.wire.schema import NULL_UUID
from tests.support.door import Door, a_batch, only

pytestmark = pytest.mark.anyio

Data, Part = API.request.struct("topic_data"), API.request.struct("topic_data.partition_data")


async def put(door: Door, *batches: bytes | None, topic: str = "orders", version: int = 9, **fields: Any) -> list[Any]:
    """One batch per partition, from 0 on; gives the partitions' results."""
    known = door.engine.topics.get(topic)
    data = Data(
        name=topic,
        topic_id=known.id if known and version >= 13 else NULL_UUID,
        partition_data=[Part(index, batch) for index, batch in enumerate(batches)],
    )
    answer = await door.ask(API, version, **{"acks": 1, "timeout_ms": 1000, "topic_data": [data]} | fields)
    return list(only(answer, "responses").partition_responses)


async def put_one(door: Door, batch: bytes | None, **fields: Any) -> Any:
    [result] = await put(door, batch, **fields)
    return result


async def stored(door: Door, topic: Topic, partition: int = 0) -> list[bytes]:
    [result] = await door.engine.log.read([Read(topic, partition, 0, 1 << 20)], max_bytes=1 << 20)
    return [each.batch for each in result.batches]  # type: ignore[union-attr]


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_offsets_are_told_in_every_version(door: Door, version: int) -> None:
    topic = await door.topic()
    first = await put_one(door, a_batch(b"a", b"b"), version=version)
    second = await put_one(door, a_batch(b"c"), version=version)
    assert [(each.error_code, each.base_offset) for each in (first, second)] == [(0, 0), (0, 2)]
    assert second.log_append_time_ms == -1
    assert second.log_start_offset == (0 if version >= 5 else -1)
    assert await stored(door, topic) == [a_batch(b"a", b"b"), a_batch(b"c")]


def test_version_0_is_advertised_so_that_librdkafka_keeps_compressing() -> None:
    assert API.advertised == (0, 13)
    assert (API.low, API.high) == (3, 13)


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_is_stored_as_it_was_sent(door: Door, codec: str) -> None:
    topic = await door.topic()
    batch = a_batch(b"v" * 1000, None, codec=codec)
    assert (await put_one(door, batch)).error_code == 0
    assert await stored(door, topic) == [batch]


@pytest.mark.parametrize("acks", [1, -1])
async def test_both_answered_levels_of_acks_write(door: Door, acks: int) -> None:
    topic = await door.topic()
    assert (await put_one(door, a_batch(), acks=acks)).error_code == 0
    assert len(await stored(door, topic)) == 1


@pytest.mark.parametrize("acks", [2, -2, 32767])
async def test_other_acks_are_refused_and_nothing_is_written(door: Door, acks: int) -> None:
    topic = await door.topic()
    result = await put_one(door, a_batch(), acks=acks)
    assert (result.error_code, result.base_offset) == (ErrorCode.INVALID_REQUIRED_ACKS, -1)
    assert await stored(door, topic) == []


async def test_acks_0_writes_and_answers_nothing(door: Door) -> None:
    topic = await door.topic()
    data = Data("orders", partition_data=[Part(0, a_batch())])
    assert await door.ask(API, 9, acks=0, timeout_ms=1000, topic_data=[data]) is None
    assert len(await stored(door, topic)) == 1


async def test_an_error_under_acks_0_closes_the_connection_after_writing_the_rest(door: Door) -> None:
    topic = await door.topic(partitions=2)
    broken = bytearray(a_batch())
    broken[-1] ^= 1
    data = Data("orders", partition_data=[Part(0, bytes(broken)), Part(1, a_batch())])
    with pytest.raises(Refused):
        await door.ask(API, 9, acks=0, timeout_ms=1000, topic_data=[data])
    assert await stored(door, topic, 0) == []
    assert len(await stored(door, topic, 1)) == 1


async def test_one_broken_partition_never_harms_the_others(door: Door) -> None:
    topic = await door.topic(partitions=3)
    broken = bytearray(a_batch())
    broken[-1] ^= 1
    results = await put(door, a_batch(b"a"), bytes(broken), a_batch(b"c"), a_batch(b"no such partition"))
    assert [each.error_code for each in results] == [
        ErrorCode.NONE, ErrorCode.CORRUPT_MESSAGE, ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]  # fmt: skip
    assert [each.base_offset for each in results] == [0, -1, 0, -1]
    assert [len(await stored(door, topic, index)) for index in range(3)] == [1, 0, 1]


async def test_an_unknown_topic_is_not_created_by_a_produce(door: Door) -> None:
    assert (await put_one(door, a_batch(), topic="nobody")).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert await door.engine.topics.find("nobody") is None


async def test_an_unknown_topic_id_is_told_as_such(door: Door) -> None:
    await door.topic()
    for topic_id in (uuid.uuid4(), NULL_UUID):
        data = Data(topic_id=topic_id, partition_data=[Part(0, a_batch())])
        answer = await door.ask(API, 13, acks=1, timeout_ms=1000, topic_data=[data])
        assert only(answer, "responses").topic_id == topic_id
        assert only(answer, "responses", "partition_responses").error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_a_topic_another_worker_made_a_moment_ago_is_known_here_at_once(doors: list[Door]) -> None:
    topic = await doors[0].topic()
    assert (await put_one(doors[1], a_batch())).error_code == 0
    data = Data(topic_id=topic.id, partition_data=[Part(0, a_batch())])
    answer = await doors[1].ask(API, 13, acks=1, timeout_ms=1000, topic_data=[data])
    assert only(answer, "responses", "partition_responses").base_offset == 1


@pytest.mark.parametrize("version", [9, 12, 13])
async def test_a_worker_that_has_not_heard_of_a_topic_made_again_sends_no_client_away_for_good(
    doors: list[Door], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    await doors[0].topic()
    await doors[1].engine.topics.reload()
    assert (await put_one(doors[1], a_batch(b"old"), version=version)).base_offset == 0
    with monkeypatch.context() as patch:
        patch.setattr(doors[1].engine.topics, "reload", anyio.lowlevel.checkpoint)
        await doors[0].engine.topics.delete("orders")
        again = await doors[0].topic()
        told = ErrorCode.UNKNOWN_TOPIC_ID if version >= 13 else ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert (await put_one(doors[1], a_batch(b"stale"), version=version)).error_code == told
    with anyio.fail_after(3):  # well before the backstop of metadata_refresh_ms
        while (await put_one(doors[1], a_batch(b"new"), version=version)).error_code:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    assert await stored(doors[0], again) == [a_batch(b"new")]


async def test_requests_of_one_connection_keep_their_order_when_one_names_an_unheard_of_topic(
    doors: list[Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    await doors[0].topic("orders")
    await doors[1].engine.topics.reload()
    topics, heard, found = doors[1].engine.topics, anyio.Event(), {}

    async def slow(name: str) -> Topic | None:
        await heard.wait()
        return None

    monkeypatch.setattr(topics, "find", slow)

    async def put_next(number: int) -> None:
        batch = a_batch(producer_id=9, producer_epoch=0, base_sequence=number)
        named = [
            Data(name, partition_data=[Part(0, batch)]) for name in (("new", "orders") if number == 1 else ("orders",))
        ]
        answer = await doors[1].ask(API, 9, acks=1, timeout_ms=1000, topic_data=named)
        found[number] = answer.responses[-1].partition_responses[0].base_offset

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(put_next, number)
            await anyio.sleep(0.05)
            assert list(found) == [0]
            heard.set()
    assert found == {number: number for number in range(4)}
    assert not doors[1].turnstile.busy


async def test_a_batch_above_max_message_bytes_is_too_large(door: Door) -> None:
    await door.topic(max_message_bytes="1000")
    assert (await put_one(door, a_batch(bytes(1000)))).error_code == ErrorCode.MESSAGE_TOO_LARGE
    assert (await put_one(door, a_batch(bytes(800)))).error_code == 0


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (None, ErrorCode.INVALID_RECORD),
        (b"", ErrorCode.INVALID_RECORD),
        (a_batch() + a_batch(), ErrorCode.INVALID_RECORD),
        (a_batch(producer_id=7, producer_epoch=0, base_sequence=0, control=True), ErrorCode.INVALID_RECORD),
        (a_batch()[:-1], ErrorCode.CORRUPT_MESSAGE),
        (a_batch()[:16] + b"\1" + a_batch()[17:], ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT),
    ],
    ids=["null", "empty", "two batches", "control", "cut", "magic 1"],
)
async def test_a_misshapen_batch_gets_its_own_error(door: Door, batch: bytes | None, error: ErrorCode) -> None:
    topic = await door.topic()
    result = await put_one(door, batch)
    assert result.error_code == error
    assert result.error_message
    assert await stored(door, topic) == []


async def test_zstd_needs_version_7(door: Door) -> None:
    await door.topic()
    batch = a_batch(codec="zstd")
    assert (await put_one(door, batch, version=6)).error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert (await put_one(door, batch, version=7)).error_code == 0


async def test_transactional_batches_are_refused_because_no_transaction_is_open(door: Door) -> None:
    topic = await door.topic()
    batch = a_batch(producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
    assert (await put_one(door, batch, transactional_id="t")).error_code == ErrorCode.INVALID_TXN_STATE
    assert (await put_one(door, batch)).error_code == ErrorCode.INVALID_TXN_STATE
    assert await stored(door, topic) == []


async def test_null_keys_on_a_compacted_topic_are_named_one_by_one(door: Door) -> None:
    topic = await door.topic(cleanup_policy="compact")
    result = await put_one(door, a_batch(b"a", b"b", key=None, codec="lz4"))
    assert result.error_code == ErrorCode.INVALID_RECORD
    assert [each.batch_index for each in result.record_errors] == [0, 1]
    assert result.record_errors[0].batch_index_error_message == result.error_message
    assert (await put_one(door, a_batch(b"a"))).error_code == 0
    assert len(await stored(door, topic)) == 1


async def test_a_timestamp_too_far_in_the_future_is_invalid(door: Door) -> None:
    await door.topic(message_timestamp_after_max_ms="60000")
    now_ms = int(time.time() * 1000)
    late = await put_one(door, a_batch(timestamp=now_ms + 120_000))
    assert late.error_code == ErrorCode.INVALID_TIMESTAMP
    assert (await put_one(door, a_batch(timestamp=now_ms + 30_000))).error_code == 0


async def test_a_timestamp_too_old_is_invalid_wherever_it_stands_in_the_batch(door: Door) -> None:
    await door.topic(message_timestamp_before_max_ms="60000")
    now_ms = int(time.time() * 1000)
    result = await put_one(door, a_batch(b"a", b"b", b"c", timestamp=now_ms, step=-50_000))
    assert result.error_code == ErrorCode.INVALID_TIMESTAMP
    assert [each.batch_index for each in result.record_errors] == [2]
    assert (await put_one(door, a_batch(b"a", b"b", timestamp=now_ms, step=-50_000))).error_code == 0
    assert (await put_one(door, a_batch(timestamp=-1))).error_code == 0


async def test_log_append_time_is_stamped_into_the_batch_and_told(door: Door) -> None:
    topic = await door.topic(message_timestamp_type="LogAppendTime", message_timestamp_after_max_ms="0")
    before_ms = int(time.time() * 1000)
    result = await put_one(door, a_batch(b"a", b"b", timestamp=before_ms + 10**9))
    assert result.error_code == 0
    assert before_ms <= result.log_append_time_ms <= time.time() * 1000
    [batch] = await stored(door, topic)
    assert read_header(batch).log_append_time
    assert {record.timestamp for record in iter_records(batch)} == {result.log_append_time_ms}
    assert read_header(batch).crc == crc32.iscsi(batch[21:])


async def test_a_duplicate_batch_gets_its_first_offset(door: Door) -> None:
    topic = await door.topic()
    batches = [a_batch(b"v%d" % number, producer_id=7, producer_epoch=0, base_sequence=number) for number in range(5)]
    for number, batch in enumerate(batches):
        assert (await put_one(door, batch)).base_offset == number
    for number, batch in enumerate(batches):
        again = await put_one(door, batch)
        assert (again.error_code, again.base_offset) == (0, number)
    assert len(await stored(door, topic)) == 5


async def test_a_gap_in_the_sequence_is_out_of_order(door: Door) -> None:
    await door.topic()
    assert (await put_one(door, a_batch(producer_id=7, producer_epoch=0, base_sequence=0))).error_code == 0
    result = await put_one(door, a_batch(producer_id=7, producer_epoch=0, base_sequence=2))
    assert (result.error_code, result.base_offset) == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)


async def test_requests_sent_without_waiting_keep_their_order(door: Door) -> None:
    topic = await door.topic()
    offsets: dict[int, int] = {}

    async def send(number: int) -> None:
        batch = a_batch(b"v%d" % number, producer_id=7, producer_epoch=0, base_sequence=number)
        offsets[number] = (await put_one(door, batch)).base_offset

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(send, number)
    assert offsets == {number: number for number in range(20)}
    assert len(await stored(door, topic)) == 20


@pytest.mark.parametrize(
    ("level", "error", "pause"), [(0, 0, 0), (1, 0, 500), (2, ErrorCode.KAFKA_STORAGE_ERROR, 1000)]
)
async def test_a_nearly_full_redis_slows_producers_down_and_then_refuses(
    door: Door, level: int, error: int, pause: int
) -> None:
    topic = await door.topic()
    pressure = door.engine.pressure
    [address] = map(str, door.engine.storage.masters)
    pressure.shares, pressure.levels, pressure.calm = {address: 0.85 + level * 0.05}, {address: level}, not level
    data = Data(name="orders", partition_data=[Part(0, a_batch())])
    answer = await door.ask(API, 9, acks=1, timeout_ms=1000, topic_data=[data])
    assert only(answer, "responses").partition_responses[0].error_code == error
    assert abs(answer.throttle_time_ms - pause) <= 1
    assert len(await stored(door, topic)) == (0 if error else 1)
