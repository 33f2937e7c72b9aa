"""Topics against a real Valkey: one winner per name, compare and set, caches that hear of changes."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anyio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.config import Settings
from redbroker.engine import topics as module
from redbroker.engine.connection import Storage
from redbroker.engine.durability import Durability
from redbroker.engine.keys import MetaKeys
from redbroker.engine.topics import Topic, Topics, check_name
from redbroker.errors import ErrorCode, KafkaError
from redbroker.topic_config import TOPIC_CONFIGS

KEYS = MetaKeys("rb")


class Opened:
    """Stands for the log: notes which partitions it was asked to open and to drop."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, range]] = []
        self.dropped: list[Topic] = []
        self.away = False

    async def open(self, topic: Topic, first: int) -> None:
        if self.away:
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "away")
        self.opened.append((topic.name, range(first, topic.partitions)))

    async def drop(self, topic: Topic) -> None:
        if self.away:
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "away")
        self.dropped.append(topic)


@pytest.fixture
async def storage(valkey: Any) -> AsyncIterator[Storage]:
    storage = await Storage.open(Settings(storage_url=valkey.unix_url))
    yield storage
    await storage.close()


@pytest.fixture
def log() -> Opened:
    return Opened()


def worker(storage: Storage, log: Opened, **settings: Any) -> Topics:
    """The topics as one process sees them."""
    made = Settings(**settings)
    return Topics(storage, KEYS, made, Durability(made, 0), log.open, log.drop)


@pytest.fixture
def topics(storage: Storage, log: Opened) -> Topics:
    return worker(storage, log)


async def code_of(awaitable: Any) -> ErrorCode:
    with pytest.raises(KafkaError) as refused:
        await awaitable
    return refused.value.code


# --- create ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_created_topic_is_known_at_once_and_to_others_after_a_reload(storage, topics, log):
    topic = await topics.create("orders", 3, {"retention.ms": "1000", "cleanup.policy": "compact"})
    assert (topic.name, topic.partitions, topic.configs["retention.ms"]) == ("orders", 3, "1000")
    assert topics.get("orders") is topic
    assert topics.by_id(topic.id) is topic
    assert log.opened == [("orders", range(3))]
    other = worker(storage, log)
    assert other.get("orders") is None
    await other.reload()
    assert other.get("orders") == topic
    assert other.by_id(topic.id) == topic
    assert dict(other.all()) == {"orders": topic}


@pytest.mark.anyio
async def test_the_typed_view_follows_configs_broker_configs_and_settings(storage, log):
    topics = worker(storage, log, message_bytes_max=2_000)
    plain = await topics.create("plain")
    assert (plain.partitions, plain.max_message_bytes, plain.log_append_time) == (4, 2_000, False)
    assert (plain.compacted, plain.deleting, plain.min_insync_replicas) == (False, True, None)
    await topics.configure_broker({"message.max.bytes": "3000", "min.insync.replicas": "2"})
    plain = topics.get("plain")
    assert plain is not None
    assert (plain.max_message_bytes, plain.min_insync_replicas) == (3_000, 2)
    own = {"max.message.bytes": "4000", "message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact"}
    made = await topics.create("own", configs=own)
    assert (made.max_message_bytes, made.log_append_time, made.compacted, made.deleting) == (4_000, True, True, False)
    await topics.configure_broker({}, ["message.max.bytes", "min.insync.replicas"])
    plain = topics.get("plain")
    assert plain is not None
    assert (plain.max_message_bytes, plain.min_insync_replicas) == (2_000, None)
    assert topics.broker_configs == {}


@pytest.mark.anyio
async def test_of_many_that_create_one_name_exactly_one_wins(storage, log):
    workers = [worker(storage, log) for _ in range(10)]
    made: list[Topic] = []
    refused: list[ErrorCode] = []

    async def create(topics: Topics) -> None:
        try:
            made.append(await topics.create("orders"))
        except KafkaError as error:
            refused.append(error.code)

    async with anyio.create_task_group() as group:
        for each in workers:
            group.start_soon(create, each)
    assert len(made) == 1
    assert refused == [ErrorCode.TOPIC_ALREADY_EXISTS] * 9


@pytest.mark.anyio
async def test_all_that_ensure_one_name_get_the_same_topic(storage, log):
    workers = [worker(storage, log) for _ in range(10)]
    got: list[Topic] = []

    async def ensure(topics: Topics) -> None:
        got.append(await topics.ensure("orders"))

    async with anyio.create_task_group() as group:
        for each in workers:
            group.start_soon(ensure, each)
    assert len(got) == 10
    assert len({topic.id for topic in got}) == 1
    assert len(log.opened) == 1


@pytest.mark.anyio
async def test_a_creation_sent_twice_is_made_once(topics, storage):
    sent = ("orders", uuid.uuid4().hex, 1, b"{}", 10)
    keys = (KEYS.topics, KEYS.versions, KEYS.changes)
    first = await storage.run(module.script("create_topic"), keys, sent)
    assert await storage.run(module.script("create_topic"), keys, sent) == first


@pytest.mark.anyio
async def test_a_change_sent_twice_still_writes_so_that_wait_covers_it(topics, storage, valkey):
    topic = await topics.create("orders", 3)
    stored = await storage.call(KEYS.topics, "HGET", KEYS.topics, "orders")
    named = (KEYS.topics, KEYS.versions, KEYS.changes)
    for name, args in (
        ("create_topic", ("orders", topic.hex, 3, b"{}", 100)),
        ("swap_topic", ("orders", b"before", stored)),
    ):
        before = int(valkey.info("rdb_changes_since_last_save"))
        await storage.run(module.script(name), named, args)
        assert int(valkey.info("rdb_changes_since_last_save")) > before
    assert await storage.call(KEYS.topics, "HGET", KEYS.topics, "orders") == stored


@pytest.mark.anyio
async def test_a_deletion_sent_twice_still_writes_so_that_wait_covers_it(topics, storage, valkey):
    topic = await topics.create("orders", 3)
    named, sent = (KEYS.topics, KEYS.deleted, KEYS.versions, KEYS.changes), ("orders", topic.hex)
    assert int(await storage.run(module.script("delete_topic"), named, sent)) > 0
    before = int(valkey.info("rdb_changes_since_last_save"))
    assert await storage.run(module.script("delete_topic"), named, sent) == b"0"
    assert int(valkey.info("rdb_changes_since_last_save")) > before
    assert await storage.call(KEYS.deleted, "HKEYS", KEYS.deleted) == [topic.hex]


@pytest.mark.anyio
async def test_a_storage_node_that_is_away_does_not_undo_a_creation(topics, log, caplog):
    log.away = True
    assert (await topics.create("orders")).name == "orders"
    assert "not all of its logs are open yet" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "partitions", "configs", "code"),
    [
        ("a b", 1, {}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("orders", 0, {}, ErrorCode.INVALID_PARTITIONS),
        ("orders", -2, {}, ErrorCode.INVALID_PARTITIONS),
        ("orders", 11, {}, ErrorCode.POLICY_VIOLATION),
        ("orders", 1, {"retention.ms": "soon"}, ErrorCode.INVALID_CONFIG),
        ("old.one", 1, {}, ErrorCode.TOPIC_ALREADY_EXISTS),
        ("old_one", 1, {}, ErrorCode.INVALID_TOPIC_EXCEPTION),
    ],
)
@pytest.mark.parametrize("validate_only", [False, True])
async def test_what_kafka_refuses_is_refused_with_its_code(
    storage, log, name, partitions, configs, code, validate_only
):
    topics = worker(storage, log, partitions_max=10)
    await topics.create("old.one")
    assert await code_of(topics.create(name, partitions, configs, validate_only=validate_only)) is code
    assert list(topics.all()) == ["old.one"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "other"),
    [("a.b_c", "a_b.c"), ("._", "_."), ("..a", "__a"), ("a_", "a."), ("a.b.c.d.e.f.g.h", "a_b.c.d_e.f.g.h")],
)
async def test_names_that_differ_only_in_dots_and_underscores_collide(topics, name, other):
    await topics.create(name)
    with pytest.raises(KafkaError, match=re.escape(f"collides with existing topic {name}")) as refused:
        await topics.create(other)
    assert refused.value.code is ErrorCode.INVALID_TOPIC_EXCEPTION
    assert await code_of(topics.create(name)) is ErrorCode.TOPIC_ALREADY_EXISTS
    await topics.create(other.replace("a", "x") + "1")


@pytest.mark.anyio
async def test_more_than_topics_max_are_refused(storage, log):
    topics = worker(storage, log, topics_max=2)
    await topics.create("a")
    await topics.create("b")
    assert await code_of(topics.create("c", validate_only=True)) is ErrorCode.POLICY_VIOLATION
    assert await code_of(topics.ensure("c")) is ErrorCode.POLICY_VIOLATION
    assert (await topics.ensure("b")).name == "b"


@pytest.mark.anyio
async def test_a_validated_creation_changes_nothing(topics, storage, log):
    assert (await topics.create("orders", 2, validate_only=True)).partitions == 2
    assert topics.get("orders") is None
    assert log.opened == []
    assert await storage.call(KEYS.topics, "EXISTS", KEYS.topics) == 0


# --- delete ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_topic_made_again_has_another_id_and_a_later_time(topics, storage, log):
    first = await topics.create("orders")
    await topics.delete("orders")
    assert topics.get("orders") is None
    assert topics.by_id(first.id) is None
    assert log.dropped == [first]
    assert await storage.call(KEYS.deleted, "HLEN", KEYS.deleted) == 0
    second = await topics.create("orders")
    assert second.id != first.id
    assert second.created_ms > first.created_ms + 1  # the log's marker of the deletion is the old time plus one
    assert await topics.exists(second)
    assert not await topics.exists(first)


@pytest.mark.anyio
async def test_deleting_an_unknown_topic_is_refused(topics):
    assert await code_of(topics.delete("orders")) is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.anyio
async def test_of_many_that_delete_one_topic_none_fails_in_another_way(storage, topics, log):
    made = await topics.create("orders")

    async def delete(topics: Topics) -> None:
        try:
            await topics.delete("orders")
        except KafkaError as late:
            assert late.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(delete, worker(storage, log))
    await topics.reload()
    assert topics.get("orders") is None
    assert set(log.dropped) == {made}


@pytest.mark.anyio
async def test_a_deletion_cut_short_is_finished_by_whoever_notices(storage, topics, log, monkeypatch, caplog):
    made = await topics.create("orders", 3)
    log.away = True
    await topics.delete("orders")
    assert "not all of its logs are dropped yet" in caplog.text
    log.away = False
    other = worker(storage, log, metadata_refresh_ms=100)
    monkeypatch.setattr(module, "LEFTOVER_S", 0.0)
    async with anyio.create_task_group() as group:
        group.start_soon(other.run)
        with anyio.fail_after(5):
            while True:
                if log.dropped:
                    break
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert [(topic.id, topic.partitions, topic.created_ms) for topic in log.dropped] == [(made.id, 3, made.created_ms)]
    assert await storage.call(KEYS.deleted, "HLEN", KEYS.deleted) == 0


@pytest.mark.anyio
async def test_a_deletion_that_two_finish_at_once_ends_nothing_else(storage, topics, log, monkeypatch):
    await topics.create("orders")
    log.away = True
    await topics.delete("orders")
    monkeypatch.setattr(module, "LEFTOVER_S", 0.0)
    await topics.reload()

    async def drop(topic: Topic) -> None:
        monkeypatch.undo()
        await storage.call(KEYS.deleted, "HDEL", KEYS.deleted, topic.hex)  # another worker was faster
        await worker(storage, log).create("payments")
        await topics.reload()

    log.away = False
    monkeypatch.setattr(topics, "_drop_partitions", drop)
    await topics._finish_deletions()
    assert topics._leftovers == {}


# --- change ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_topic_grows_and_never_shrinks(topics, log):
    before = await topics.create("orders", 2)
    assert (await topics.grow("orders", 5, validate_only=True)).partitions == 5
    assert topics.get("orders") is before
    after = await topics.grow("orders", 5)
    assert (after.id, after.partitions) == (before.id, 5)
    assert log.opened[-1] == ("orders", range(2, 5))
    for count in (5, 4, 0):
        assert await code_of(topics.grow("orders", count)) is ErrorCode.INVALID_PARTITIONS
    assert await code_of(topics.grow("orders", 10_001)) is ErrorCode.POLICY_VIOLATION
    assert await code_of(topics.grow("unknown", 2)) is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.anyio
async def test_configs_are_set_unset_and_replaced(topics):
    await topics.create("orders", configs={"retention.ms": "1", "segment.ms": "2"})
    changed = await topics.configure("orders", {"retention.bytes": "3"}, ["segment.ms", "not.a.config"])
    assert changed.configs == {"retention.ms": "1", "retention.bytes": "3"}
    assert (changed.retention_ms, changed.retention_bytes) == (1, 3)
    replaced = await topics.configure("orders", {"retention.ms": "9"}, TOPIC_CONFIGS)
    assert replaced.configs == {"retention.ms": "9"}
    assert await code_of(topics.configure("orders", {"retention.ms": "x"})) is ErrorCode.INVALID_CONFIG
    await topics.configure("orders", {"retention.ms": "7"}, validate_only=True)
    assert topics.get("orders") is replaced


@pytest.mark.anyio
async def test_changes_made_at_once_are_all_kept(storage, topics, log):
    await topics.create("orders", 1)
    names = ["retention.ms", "retention.bytes", "segment.ms", "flush.ms", "max.message.bytes", "delete.retention.ms"]
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(worker(storage, log).configure, "orders", {name: "77"})
        group.start_soon(worker(storage, log).grow, "orders", 8)
    await topics.reload()
    topic = topics.get("orders")
    assert topic is not None
    assert (dict(topic.configs), topic.partitions) == (dict.fromkeys(names, "77"), 8)


@pytest.mark.anyio
@pytest.mark.parametrize("change", ["create", "grow"])
async def test_a_change_whose_copies_take_their_time_hides_no_later_one(storage, topics, log, monkeypatch, change):
    other, run_acked = worker(storage, log), storage.run_acked
    if change == "grow":
        await topics.create("orders", 1)

    async def late(*words: Any, **options: Any) -> Any:
        reply = await run_acked(*words, **options)
        monkeypatch.undo()
        await other.grow("orders", 5)
        await topics.reload()
        return reply

    monkeypatch.setattr(storage, "run_acked", late)
    await (topics.create("orders", 1) if change == "create" else topics.grow("orders", 3))
    await topics.reload()
    assert topics.get("orders").partitions == 5


@pytest.mark.anyio
async def test_broker_configs_are_checked_and_reach_other_workers(storage, topics, log):
    await topics.configure_broker({"log.retention.ms": "5"})
    assert await code_of(topics.configure_broker({"node.id": "5"})) is ErrorCode.INVALID_CONFIG
    await topics.configure_broker({"log.retention.ms": "6"}, validate_only=True)
    other = worker(storage, log)
    await other.reload()
    assert dict(other.broker_configs) == {"log.retention.ms": "5"}


@pytest.mark.anyio
async def test_a_change_that_too_few_replicas_hold_is_told(storage, log):
    settings = Settings(replicas=1, storage_timeout_ms=100)
    topics = Topics(storage, KEYS, settings, Durability(settings, 0), log.open, log.drop)
    assert await code_of(topics.create("orders")) is ErrorCode.REQUEST_TIMED_OUT


# --- the cache ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_topic_object_stays_the_same_while_nothing_changes(topics):
    orders = await topics.create("orders")
    await topics.create("others")
    await topics.reload()
    assert topics.get("orders") is orders


@pytest.mark.anyio
async def test_an_unchanged_version_is_not_read_again(topics, storage):
    await topics.create("orders")
    await topics.reload()
    await storage.call(KEYS.topics, "DEL", KEYS.topics)  # not through a script: the version stays
    await topics.reload()
    assert topics.get("orders") is not None


@pytest.mark.anyio
async def test_topics_lost_by_the_storage_are_forgotten(topics, storage):
    await topics.create("orders")
    await topics.reload()
    await storage.call(KEYS.topics, "FLUSHALL")
    await topics.reload()
    assert dict(topics.all()) == {}


@pytest.mark.anyio
async def test_find_asks_redis_for_what_the_cache_does_not_know(storage, topics, log):
    made = await worker(storage, log).create("orders")
    assert topics.get("orders") is None
    assert await topics.find("orders") == made
    assert topics.get("orders") == made
    assert await topics.find("unknown") is None


@pytest.mark.anyio
async def test_an_announced_change_is_heard_at_once(storage, log):
    topics = worker(storage, log, metadata_refresh_ms=60_000)
    async with anyio.create_task_group() as group:
        group.start_soon(topics.run)
        await worker(storage, log).create("orders")
        topics.changed()
        with anyio.fail_after(5):
            while True:
                if topics.get("orders"):
                    break
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_is_stored_is_readable_json(topics, storage):
    topic = await topics.create("orders", 2, {"retention.ms": "5"})
    stored = orjson.loads(await storage.call(KEYS.topics, "HGET", KEYS.topics, "orders"))
    assert stored == {
        "id": topic.id.hex, "partitions": 2, "configs": {"retention.ms": "5"}, "created_ms": topic.created_ms,
    }  # fmt: skip


# --- names ----------------------------------------------------------------------------------------------------


@given(st.text(max_size=260) | st.from_regex(r"[A-Za-z0-9._-]{0,260}", fullmatch=True))
def test_exactly_kafkas_names_are_legal(name):
    legal = bool(re.fullmatch("[a-zA-Z0-9._-]{1,249}", name)) and name not in (".", "..")
    try:
        check_name(name)
    except KafkaError as refused:
        assert refused.code is ErrorCode.INVALID_TOPIC_EXCEPTION
        assert not legal
    else:
        assert legal


def test_topic_ids_can_stand_on_a_command_line(monkeypatch):
    ids = [uuid.UUID(int=62 << 122), uuid.UUID(int=61 << 122)]
    monkeypatch.setattr(uuid, "uuid4", lambda: ids.pop(0))
    assert module.new_topic_id() == uuid.UUID(int=61 << 122)
