"""Fetch: what comes back, how long it waits, and what each error tells."""

from __future__ import annotations

import time
import uuid
from typing import Any

import anyio
import pytest

from redbroker.broker.api import metadata, produce
from redbroker.broker.api.fetch import API
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from redbroker.wire import schema
from redbroker.wire.records import read_header
from redbroker.wire.schema import NULL_UUID
from tests.support.cuts import cut_back, keep
from tests.support.door import Door, a_batch, only, records_of

pytestmark = pytest.mark.anyio

Wanted, Part = API.request.struct("topics"), API.request.struct("topics.partitions")
Forgotten = API.request.struct("forgotten_topics_data")
VERSIONS = range(API.low, API.high + 1)


async def put(door: Door, batch: bytes, partition: int = 0, topic: str = "orders") -> int:
    data = produce.API.request.struct("topic_data")
    part = produce.API.request.struct("topic_data.partition_data")
    wanted = [data(topic, partition_data=[part(partition, batch)])]
    answer = await door.ask(produce.API, 9, acks=1, timeout_ms=1000, topic_data=wanted)
    result = only(answer, "responses", "partition_responses")
    assert result.error_code == ErrorCode.NONE
    return int(result.base_offset)


async def fetch(door: Door, *parts: Any, version: int = 12, topic: Topic | None = None, **fields: Any) -> Any:
    """Fetches partitions of `orders`; the defaults answer at once."""
    topic = topic or door.engine.topics.get("orders")
    by_id = version >= 13 and topic is not None
    wanted = Wanted("orders", topic.id if by_id and topic else NULL_UUID, list(parts))
    return await door.ask(API, version, **{"max_wait_ms": 0, "min_bytes": 1, "topics": [wanted]} | fields)


def part(index: int = 0, offset: int = 0, max_bytes: int = 1 << 20, **fields: Any) -> Any:
    return Part(index, fetch_offset=offset, partition_max_bytes=max_bytes, **fields)


async def fetch_one(door: Door, offset: int = 0, **fields: Any) -> Any:
    return only(await fetch(door, part(offset=offset), **fields), "responses", "partitions")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ErrorCode.REQUEST_TIMED_OUT, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.KAFKA_STORAGE_ERROR),
        (ErrorCode.CLUSTER_AUTHORIZATION_FAILED, ErrorCode.UNKNOWN_SERVER_ERROR),
    ],
)
async def test_only_errors_that_consumers_expect_are_told(
    door: Door, monkeypatch: pytest.MonkeyPatch, error: ErrorCode, told: ErrorCode
) -> None:
    await door.topic()

    async def failing(reads: Any, **_: Any) -> list[KafkaError]:
        return [KafkaError(error) for _ in reads]

    monkeypatch.setattr(door.engine.log, "read", failing)
    assert (await fetch_one(door)).error_code == told


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_produced_comes_back_in_every_version(door: Door, version: int) -> None:
    topic = await door.topic()
    await put(door, a_batch(b"a", b"b"))
    await put(door, a_batch(b"c", None, codec="gzip"))
    answer = await fetch(door, part(), version=version)
    assert only(answer, "responses").topic == ("orders" if version < 13 else "")
    assert only(answer, "responses").topic_id == (NULL_UUID if version < 13 else topic.id)
    told = only(answer, "responses", "partitions")
    assert (told.error_code, told.high_watermark, told.last_stable_offset) == (ErrorCode.NONE, 4, 4)
    assert told.log_start_offset == (0 if version >= 5 else -1)
    assert told.preferred_read_replica == -1
    assert [(record.offset, record.value) for record in records_of(told)] == [
        (0, b"a"),
        (1, b"b"),
        (2, b"c"),
        (3, None),
    ]
    assert read_header(told.records).partition_leader_epoch > 0


async def test_an_offset_inside_a_batch_gives_the_whole_batch(door: Door) -> None:
    await door.topic()
    await put(door, a_batch(b"a", b"b", b"c"))
    await put(door, a_batch(b"d"))
    told = await fetch_one(door, offset=1)
    assert [record.offset for record in records_of(told)] == [0, 1, 2, 3]


async def test_a_large_batch_arrives_whole_also_through_joined_segments(door: Door) -> None:
    await door.topic()
    values = [bytes([number]) * 900_000 for number in range(2)]
    for value in values:
        await put(door, a_batch(value))
    told = only(await fetch(door, part(max_bytes=1 << 22)), "responses", "partitions")
    assert [record.value for record in records_of(told)] == values


async def test_an_empty_partition_has_empty_records_not_null(door: Door) -> None:
    await door.topic()
    told = await fetch_one(door)
    assert (told.error_code, told.high_watermark) == (ErrorCode.NONE, 0)
    assert told.records is not None
    assert len(told.records) == 0


@pytest.mark.parametrize(("isolation_level", "aborted"), [(0, None), (1, [])])
async def test_the_aborted_list_is_null_for_read_uncommitted_and_empty_for_read_committed(
    door: Door, isolation_level: int, aborted: list[Any] | None
) -> None:
    await door.topic()
    assert (await fetch_one(door, isolation_level=isolation_level)).aborted_transactions == aborted


async def test_tagged_fields_that_hold_defaults_are_left_out(door: Door) -> None:
    await door.topic()
    told = await fetch_one(door, version=16)
    bare = schema.encoder(API.response, 16, True)
    parts: list[bytes] = []
    bare(API.Response(responses=[API.response.struct("responses")(partitions=[told])]), parts.append)
    # Head: throttle 4, error 2, session 4, count 1, topic id 16, count 1. Partition: index 4, error 2, offsets 24,
    # null aborted list 1, replica 4, empty records 1. Then three empty tagged sections of one byte.
    assert len(b"".join(parts)) == 28 + 36 + 3


# --- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(10, 1 << 20), (1 << 20, 10), (0, 0)])
async def test_one_batch_is_delivered_even_above_the_byte_limits(door: Door, limits: tuple[int, int]) -> None:
    await door.topic()
    await put(door, a_batch(bytes(5000)))
    await put(door, a_batch(bytes(5000)))
    answer = await fetch(door, part(max_bytes=limits[0]), max_bytes=limits[1])
    assert [record.offset for record in records_of(only(answer, "responses", "partitions"))] == [0]


async def test_max_bytes_bounds_the_whole_answer_in_the_order_asked(door: Door) -> None:
    await door.topic(partitions=3)
    for index in range(3):
        for _ in range(4):
            await put(door, a_batch(bytes(1000)), index)
    size = len(a_batch(bytes(1000)))
    answer = await fetch(door, *[part(index) for index in (2, 0, 1)], max_bytes=5 * size)
    told = {each.partition_index: len(records_of(each)) for each in only(answer, "responses").partitions}
    assert told[2] == 4
    assert told[0] >= 1
    assert told[1] == 0


async def test_partition_max_bytes_bounds_each_partition(door: Door) -> None:
    await door.topic()
    for _ in range(4):
        await put(door, a_batch(bytes(1000)))
    size = len(a_batch(bytes(1000)))
    answer = await fetch(door, part(max_bytes=2 * size))
    assert len(records_of(only(answer, "responses", "partitions"))) == 2


# --- waiting --------------------------------------------------------------------------------------------------


async def test_a_waiting_fetch_is_woken_by_the_append_at_once(doors: list[Door]) -> None:
    await doors[0].topic()
    woken_s: list[float] = []

    async def wait() -> None:
        told = await fetch_one(doors[0], max_wait_ms=20_000)
        woken_s.append(time.monotonic())
        assert [record.value for record in records_of(told)] == [b"a"]

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.3)
            put_s = time.monotonic()
            await put(doors[1], a_batch(b"a"))
    assert woken_s[0] - put_s < 1


async def test_a_fetch_waits_until_min_bytes_are_there(door: Door) -> None:
    await door.topic()
    size = len(a_batch(bytes(100)))

    async def feed() -> None:
        for _ in range(3):
            await anyio.sleep(0.1)
            await put(door, a_batch(bytes(100)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed)
            told = await fetch_one(door, max_wait_ms=20_000, min_bytes=3 * size)
    assert len(records_of(told)) == 3


async def test_a_fetch_that_waited_in_vain_gives_what_there_is_when_its_time_is_over(door: Door) -> None:
    await door.topic()
    await put(door, a_batch(b"a"))
    started_s = time.monotonic()
    told = await fetch_one(door, max_wait_ms=300, min_bytes=1 << 20)
    assert 0.29 < time.monotonic() - started_s < 2
    assert len(records_of(told)) == 1


async def test_an_error_is_told_at_once(door: Door) -> None:
    await door.topic(partitions=1)
    with anyio.fail_after(5):
        answer = await fetch(door, part(0), part(1), max_wait_ms=20_000)
    assert [each.error_code for each in only(answer, "responses").partitions] == [
        ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]  # fmt: skip


async def test_that_a_redis_master_does_not_answer_is_told_at_the_end_of_the_wait_with_what_others_gave(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, it would bring the client back at once."""
    await door.topic(partitions=2)
    read, epoch_end = door.engine.log.read, door.engine.log.epoch_end

    async def unanswered(reads: Any, **how: Any) -> list[Any]:
        results = await read(reads, **how)
        refusal = KafkaError(ErrorCode.REQUEST_TIMED_OUT)
        return [refusal if each.partition == 1 else result for each, result in zip(reads, results, strict=True)]

    async def unanswered_end(wants: Any, **how: Any) -> list[Any]:
        ends = await epoch_end(wants, **how)
        refusal = KafkaError(ErrorCode.REQUEST_TIMED_OUT)
        return [refusal if want[1] == 1 else end for want, end in zip(wants, ends, strict=True)]

    async def told_of(*parts: Any) -> tuple[float, list[int], int]:
        started_s = time.monotonic()
        answers = only(await fetch(door, *parts, max_wait_ms=600), "responses").partitions
        codes = [each.error_code for each in answers]
        return time.monotonic() - started_s, codes, len(records_of(answers[0]))

    monkeypatch.setattr(door.engine.log, "read", unanswered)
    monkeypatch.setattr(door.engine.log, "epoch_end", unanswered_end)
    both = [ErrorCode.NONE, ErrorCode.NOT_LEADER_OR_FOLLOWER]
    for parts in ((part(0), part(1)), (part(0, last_fetched_epoch=1), part(1, last_fetched_epoch=1))):
        took_s, codes, _ = await told_of(*parts)
        assert (took_s > 0.5, codes) == (True, both)
    took_s, codes, _ = await told_of(part(1, last_fetched_epoch=1))
    assert (took_s > 0.5, codes) == (True, both[1:])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(put_soon, door)
        took_s, codes, count = await told_of(part(0), part(1))
    assert (took_s < 0.5, codes, count) == (True, both, 1)


async def put_soon(door: Door) -> None:
    await anyio.sleep(0.1)
    await put(door, a_batch(b"a"))


async def test_a_draining_worker_answers_waiting_fetches_at_once(door: Door) -> None:
    await door.topic()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0.2)
            tasks.start_soon(lambda: fetch_one(door, max_wait_ms=60_000))
            await anyio.sleep(0.2)
            door.broker.drain()
        assert (await fetch_one(door, max_wait_ms=60_000)).error_code == ErrorCode.NONE


# --- errors ---------------------------------------------------------------------------------------------------


async def test_an_offset_out_of_range_tells_the_logs_range(door: Door) -> None:
    topic = await door.topic()
    for _ in range(3):
        await put(door, a_batch(b"a", b"b"))
    assert await door.engine.log.trim([(topic, 0, 2)]) == [2]
    for offset in (1, 7, -1):
        told = await fetch_one(door, offset=offset)
        assert told.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
        assert (told.log_start_offset, told.high_watermark, len(told.records)) == (2, 6, 0)
    assert (await fetch_one(door, offset=6)).error_code == ErrorCode.NONE


async def test_a_fenced_client_finds_the_new_epoch_in_metadata_at_once(door: Door) -> None:
    topic = await door.topic()
    await put(door, a_batch())
    asked = metadata.API.request.struct("topics")(name="orders")

    async def told() -> int:
        answer = await door.ask(metadata.API, 9, topics=[asked])
        return int(only(answer, "topics", "partitions").leader_epoch)

    before = await told()
    state = f"{door.broker.settings.key_prefix}:{{orders:0}}:state"
    await door.engine.storage.call(state.encode(), "HSET", state, "rid", "0" * 40)  # as if another master had written
    assert (await fetch_one(door, offset=1)).error_code == ErrorCode.NONE
    fenced = await fetch(door, part(offset=1, current_leader_epoch=before), topic=topic)
    assert only(fenced, "responses", "partitions").error_code == ErrorCode.FENCED_LEADER_EPOCH
    assert await told() > before


async def test_an_older_leader_epoch_is_fenced_and_told_who_leads_now(door: Door) -> None:
    await door.topic()
    await put(door, a_batch())
    epoch = read_header((await fetch_one(door)).records).partition_leader_epoch
    answer = await fetch(door, part(current_leader_epoch=epoch - 1), version=16)
    told = only(answer, "responses", "partitions")
    assert told.error_code == ErrorCode.FENCED_LEADER_EPOCH
    assert (told.current_leader.leader_id, told.current_leader.leader_epoch) == (door.broker.node_id, epoch)
    assert only(answer, "node_endpoints").port == 19_092
    newer = only(await fetch(door, part(current_leader_epoch=epoch + 1)), "responses", "partitions")
    assert newer.error_code == ErrorCode.UNKNOWN_LEADER_EPOCH
    same = only(await fetch(door, part(current_leader_epoch=epoch)), "responses", "partitions")
    assert same.error_code == ErrorCode.NONE


async def test_a_last_fetched_epoch_that_ended_earlier_tells_where(door: Door) -> None:
    await door.topic()
    await put(door, a_batch(b"a", b"b"))
    epoch = read_header((await fetch_one(door)).records).partition_leader_epoch
    told = only(await fetch(door, part(offset=2, last_fetched_epoch=epoch)), "responses", "partitions")
    assert (told.error_code, told.diverging_epoch.epoch) == (ErrorCode.NONE, -1)
    told = only(await fetch(door, part(offset=5, last_fetched_epoch=epoch)), "responses", "partitions")
    assert (told.error_code, len(told.records)) == (ErrorCode.NONE, 0)
    assert (told.diverging_epoch.epoch, told.diverging_epoch.end_offset) == (epoch, 2)
    told = only(await fetch(door, part(last_fetched_epoch=epoch + 1)), "responses", "partitions")
    assert told.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_a_log_cut_back_while_a_client_waits_is_told_to_it_though_it_knows_no_leader_epoch(door: Door) -> None:
    storage, first = door.engine.storage, TopicPartition("orders", 0)
    topic = await door.topic()
    await put(door, a_batch(b"a", b"b"))
    await keep(storage, first)
    await put(door, a_batch(b"c"))
    await put(door, a_batch(b"d"))
    epoch = read_header((await fetch_one(door)).records).partition_leader_epoch
    waiting = part(offset=4, last_fetched_epoch=epoch)
    told: list[Any] = []

    async def wait() -> None:
        told.append(only(await fetch(door, waiting, topic=topic, max_wait_ms=5_000), "responses", "partitions"))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0.1)
        await cut_back(storage, first)
        for value in (b"e", b"f", b"g"):
            await put(door, a_batch(value))
    assert (told[0].error_code, records_of(told[0])) == (ErrorCode.FENCED_LEADER_EPOCH, [])
    told = [only(await fetch(door, waiting, topic=topic), "responses", "partitions")]
    assert (told[0].diverging_epoch.epoch, told[0].diverging_epoch.end_offset) == (epoch, 2)


async def test_an_unknown_topic_has_its_own_error_by_name_and_by_id(door: Door) -> None:
    answer = await fetch(door, part())
    told = only(answer, "responses", "partitions")
    assert (told.error_code, told.high_watermark) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)
    for topic_id in (uuid.uuid4(), NULL_UUID):
        answer = await door.ask(API, 13, max_wait_ms=0, min_bytes=1, topics=[Wanted("", topic_id, [part()])])
        assert only(answer, "responses").topic_id == topic_id
        assert only(answer, "responses", "partitions").error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_zstd_needs_version_10(door: Door) -> None:
    await door.topic()
    await put(door, a_batch(codec="zstd"))
    assert (await fetch_one(door, version=9)).error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert (await fetch_one(door, version=10)).error_code == ErrorCode.NONE


# --- sessions -------------------------------------------------------------------------------------------------


async def test_an_incremental_fetch_tells_only_what_changed(door: Door) -> None:
    await door.topic(partitions=3)
    full = await fetch(door, *[part(index) for index in range(3)], session_epoch=0)
    assert full.session_id > 0
    assert len(only(full, "responses").partitions) == 3
    idle = await door.ask(API, 12, max_wait_ms=0, min_bytes=1, session_id=full.session_id, session_epoch=1)
    assert (idle.error_code, idle.session_id, idle.responses) == (0, full.session_id, [])
    await put(door, a_batch(b"a"), 1)
    news = await door.ask(API, 12, max_wait_ms=0, min_bytes=1, session_id=full.session_id, session_epoch=2)
    told = only(news, "responses", "partitions")
    assert (told.partition_index, len(records_of(told))) == (1, 1)


async def test_a_forgotten_partition_is_told_no_more(door: Door) -> None:
    await door.topic(partitions=2)
    full = await fetch(door, part(0), part(1), session_epoch=0)
    await put(door, a_batch(), 0)
    await put(door, a_batch(), 1)
    answer = await door.ask(
        API, 12, max_wait_ms=0, min_bytes=1, session_id=full.session_id, session_epoch=1,
        forgotten_topics_data=[Forgotten("orders", partitions=[0])],
    )  # fmt: skip
    assert only(answer, "responses", "partitions").partition_index == 1


async def test_an_unknown_session_and_a_wrong_epoch_are_the_whole_answer(door: Door) -> None:
    await door.topic()
    unknown = await fetch(door, part(), session_id=4711, session_epoch=3)
    assert (unknown.error_code, unknown.session_id) == (ErrorCode.FETCH_SESSION_ID_NOT_FOUND, 0)
    assert not unknown.responses
    full = await fetch(door, part(), session_epoch=0)
    wrong = await fetch(door, part(), session_id=full.session_id, session_epoch=3)
    assert (wrong.error_code, wrong.responses) == (ErrorCode.INVALID_FETCH_SESSION_EPOCH, [])


async def test_without_a_session_the_session_id_is_0(door: Door) -> None:
    await door.topic()
    assert (await fetch(door, part(), session_epoch=-1)).session_id == 0


async def test_a_session_keeps_the_id_of_a_topic_that_was_made_again(door: Door) -> None:
    topic = await door.topic()
    full = await fetch(door, part(), version=13, session_epoch=0)
    await door.engine.topics.delete("orders")
    await door.topic()
    await put(door, a_batch())
    answer = await door.ask(API, 13, max_wait_ms=0, min_bytes=1, session_id=full.session_id, session_epoch=1)
    assert only(answer, "responses").topic_id == topic.id
    assert only(answer, "responses", "partitions").error_code == ErrorCode.UNKNOWN_TOPIC_ID
