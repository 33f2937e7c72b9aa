"""Compaction against a ten-line reference, and whatever may come between its steps."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redbroker.config import Settings
from redbroker.engine.compaction import Compaction, digest
from redbroker.engine.connection import Storage
from redbroker.engine.counts import JanitorCounts
from redbroker.engine.log import Append, Log, Read
from redbroker.engine.scripts import script
from redbroker.engine.tail import Tail
from redbroker.engine.topics import Topic
from redbroker.errors import KafkaError
from redbroker.wire.records import Record, build_batch, iter_records, read_header

pytestmark = pytest.mark.anyio

Row = tuple[int, bytes, bytes | None]


class Place:
    """One partition of one compacted topic, on a real server."""

    def __init__(self, storage: Storage, config: Settings, **configs: str) -> None:
        self.storage, self.config = storage, config
        self.tail = Tail(storage, config)
        self.log = Log(storage, self.tail, config)
        self.topic = Topic(f"t{uuid.uuid4().hex}", uuid.uuid4(), 1, {"cleanup.policy": "compact", **configs}, 1)
        self.partition = self.log.partitions.get(self.topic, 0)
        self.counts = JanitorCounts()

    async def put(self, rows: list[tuple[bytes | None, bytes | None]], codec: str = "none", time: int = 1000) -> None:
        batch = build_batch([Record(i, time + i, key, value, []) for i, (key, value) in enumerate(rows)], codec)
        [answer] = await self.log.append([Append(self.topic, 0, batch, read_header(batch))], acks=1, timeout_ms=1000)
        assert not isinstance(answer, KafkaError)

    def compaction(self) -> Compaction:
        return Compaction(self.storage, self.log.partitions, self.partition, self.config, self.counts)

    async def compact(self) -> None:
        while await self.compaction().run():
            pass

    async def rows(self, offset: int = 0) -> list[Row]:
        """Everything from an offset on, read the way a consumer does."""
        found: list[Row] = []
        while True:
            [result] = await self.log.read([Read(self.topic, 0, offset, 5_000)], max_bytes=5_000)
            assert not isinstance(result, KafkaError)
            for each in result.batches:
                shift = each.base_offset
                found += [
                    (record.offset + shift, record.key or b"", record.value)
                    for record in iter_records(each.batch)
                    if record.offset + shift >= offset
                ]
            if not result.batches:
                assert offset == result.next, "a reader would be stuck"
                return found
            last = result.batches[-1]
            offset = last.base_offset + read_header(last.batch).last_offset_delta + 1

    async def state(self, *fields: str) -> list[Any]:
        return list(await self.storage.call(self.partition.keys.state, "HMGET", self.partition.keys.state, *fields))


@contextlib.asynccontextmanager
async def a_place(url: str, configs: dict[str, str] | None = None, **given: Any) -> AsyncIterator[Place]:
    config = Settings(storage_url=url, compaction_cpu_share=1, **given)
    storage = await Storage.open(config)
    place = Place(storage, config, **(configs or {}))
    try:
        yield place
    finally:
        await place.log.close()
        await place.tail.close()
        await storage.close()


def reference(rows: list[Row], untouched: int, gone: frozenset[bytes] = frozenset()) -> list[Row]:
    """What compaction leaves of a log whose rows from `untouched` on it does not look at."""
    newest = {key: offset for offset, key, _ in rows if offset < untouched and key}
    return [row for row in rows if row[0] >= untouched or (newest.get(row[1]) == row[0] and row[1] not in gone)]


KEYS = [b"a", b"b", b"c", b"d" * 40, b"e" * 40]
BATCHES = st.lists(
    st.tuples(
        st.lists(
            st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=30))), min_size=1, max_size=6
        ),
        st.sampled_from(["none", "gzip", "lz4", "zstd", "snappy"]),
    ),
    min_size=2,
    max_size=25,
)


@pytest.mark.parametrize("keys_bytes", [1 << 26, 4_096])
def test_what_stays_is_the_newest_of_each_key_at_its_offset(valkey: Any, keys_bytes: int) -> None:
    async def agrees(rounds: list[list[Any]]) -> None:
        async with a_place(valkey.url, compaction_keys_bytes_max=keys_bytes) as place:
            for batches in rounds:
                for rows, codec in batches:
                    await place.put(rows, codec)
                before = await place.rows()
                tail = len(batches[-1][0])
                await place.compact()
                next_offset = int((await place.state("next"))[0])
                after = await place.rows()
                assert after == reference(before, next_offset - tail)
                for offset in range(next_offset):
                    assert await place.rows(offset) == [row for row in after if row[0] >= offset]
                [bounds] = await place.log.bounds([(place.topic, 0)])
                entries = await place.storage.call(
                    place.partition.keys.log, "XRANGE", place.partition.keys.log, "-", "+"
                )
                assert not isinstance(bounds, KafkaError)
                assert bounds.nbytes == sum(len(fields[1]) for _, fields in entries)

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(BATCHES, min_size=1, max_size=2))
    def model(rounds: list[list[Any]]) -> None:
        asyncio.run(agrees(rounds))

    model()


async def test_a_tombstone_goes_once_it_could_be_seen_for_long_enough(valkey: Any) -> None:
    async with a_place(valkey.url, {"delete.retention.ms": "0"}) as place:
        await place.put([(b"a", b"1"), (b"b", b"1"), (b"a", None)])
        await place.put([(b"z", b"end")])
        await place.compact()
        assert [row[:2] for row in await place.rows()] == [(1, b"b"), (2, b"a"), (3, b"z")]
        assert await place.state("tombstones") == [b"1"]
        await asyncio.sleep(0.01)
        await place.compact()
        assert [row[:2] for row in await place.rows()] == [(1, b"b"), (3, b"z")]
        assert await place.state("tombstones") == [b"0"]
    async with a_place(valkey.url, {"delete.retention.ms": "60000"}) as place:
        await place.put([(b"a", b"1"), (b"a", None)])
        await place.put([(b"z", b"end")])
        await place.compact()
        await place.compact()
        assert [row[:2] for row in await place.rows()] == [(1, b"a"), (2, b"z")]


async def test_young_and_transactional_batches_are_left_as_they_are(valkey: Any) -> None:
    async with a_place(valkey.url, {"min.compaction.lag.ms": "60000"}) as place:
        now = 1000 * int((await place.storage.on_masters("TIME"))[0][1][0])
        await place.put([(b"a", b"1"), (b"a", b"2")])
        await place.put([(b"a", b"3"), (b"a", b"4")], time=now)
        await place.put([(b"z", b"end")])
        await place.compact()
        assert [row[0] for row in await place.rows()] == [1, 2, 3, 4]
    async with a_place(valkey.url) as place:
        await place.put([(b"a", b"1"), (b"a", b"2")])
        batch = build_batch(
            [Record(0, 1, b"a", b"3", [])], producer_id=7, producer_epoch=0, base_sequence=0, transactional=True
        )
        await place.log.append([Append(place.topic, 0, batch, read_header(batch))], acks=1, timeout_ms=1000)
        await place.put([(b"a", b"4")])
        await place.put([(b"z", b"end")])
        await place.compact()
        assert [row[0] for row in await place.rows()] == [1, 2, 3, 4]


async def test_producers_windows_and_times_are_what_they_were(valkey: Any) -> None:
    async with a_place(valkey.url) as place:
        sent = [
            build_batch([Record(0, 5_000 - i, b"a", b"%d" % i, [])], producer_id=9, producer_epoch=0, base_sequence=i)
            for i in range(200)
        ]
        for batch in sent:
            await place.log.append([Append(place.topic, 0, batch, read_header(batch))], acks=1, timeout_ms=1000)
        await place.put([(b"z", b"end")])
        await place.log.bounds([(place.topic, 0)])
        epoch = place.partition.epoch
        assert await place.log.find_max_time([(place.topic, 0)]) == [(0, 5_000, epoch)]
        await place.compact()
        assert [row[0] for row in await place.rows()] == [199, 200]
        assert await place.log.find_max_time([(place.topic, 0)]) == [(199, 4_801, epoch)]
        assert await place.log.find_time([(place.topic, 0, 4_000)]) == [(199, 4_801, epoch)]
        [again] = await place.log.append(
            [Append(place.topic, 0, sent[-1], read_header(sent[-1]))], acks=1, timeout_ms=1000
        )
        assert not isinstance(again, KafkaError)
        assert (again.base_offset, again.duplicate) == (199, True)


async def test_the_largest_time_is_found_anew_when_its_record_is_gone(valkey: Any) -> None:
    async with a_place(valkey.url) as place:
        await place.put([(b"a", b"old")], time=9_000)
        await place.put([(b"b", b"kept"), (b"a", b"new")], time=5_000)
        await place.put([(b"c", b"kept"), (b"d", b"old")], time=9_998)
        await place.put([(b"d", b"new")], time=7_000)
        await place.put([(b"z", b"end")], time=1_000)
        [before] = await place.log.find_max_time([(place.topic, 0)])
        assert isinstance(before, tuple)
        assert before[:2] == (4, 9_999)
        await place.compact()
        [after] = await place.log.find_max_time([(place.topic, 0)])
        assert isinstance(after, tuple)
        assert after[:2] == (3, 9_998)


async def test_appends_and_readers_go_on_while_it_runs(valkey: Any) -> None:
    async with a_place(valkey.url) as place:
        for number in range(300):
            await place.put([(b"%d" % (number % 20), b"%d" % number)])
        done = asyncio.create_task(place.compact())
        written = 300
        while not done.done():
            await place.put([(b"new%d" % written, b"%d" % written)])
            written += 1
            got = await place.rows(150)
            assert got[-1][0] == written - 1
            assert [row[0] for row in got] == sorted({row[0] for row in got})
        await done
        rows = await place.rows()
        assert [row[0] for row in rows][-(written - 300) :] == list(range(300, written))
        assert {key: value for _, key, value in rows} == {
            **{b"%d" % (number % 20): b"%d" % number for number in range(300)},
            **{b"new%d" % number: b"%d" % number for number in range(300, written)},
        }


async def test_two_at_once_and_one_that_lost_its_lease_write_nothing(valkey: Any) -> None:
    async with a_place(valkey.url) as place:
        for number in range(50):
            await place.put([(b"k", b"%d" % number)])
        keys, paused = place.partition.keys, place.compaction()
        swap = paused._swap

        async def meanwhile(end: int) -> None:
            assert await place.compaction().run() is False, "another has the lease"
            assert place.counts.compactions == 0
            await place.storage.call(keys.janitor, "HSET", keys.janitor, "until", 1)  # paused until it ran out
            await place.compact()
            assert place.counts.compactions == 1
            for number in range(5):
                await place.put([(b"later", b"%d" % number)])
            await swap(end)

        paused._swap = meanwhile  # type: ignore[method-assign]
        assert await paused.run() is False
        assert (place.counts.compactions, place.counts.leases_lost) == (1, 1)
        assert [row[0] for row in await place.rows()] == [48, 49, 50, 51, 52, 53, 54]


async def test_a_failover_in_the_middle_ends_it_without_a_trace(valkey: Any) -> None:
    async with a_place(valkey.url) as place:
        for number in range(50):
            await place.put([(b"k", b"%d" % number)])
        before = await place.rows()
        paused = place.compaction()
        swap = paused._swap

        async def meanwhile(end: int) -> None:
            paused._lease = paused._lease._replace(rid=b"0" * 40)
            await swap(end)

        paused._swap = meanwhile  # type: ignore[method-assign]
        await paused.run()
        assert await place.rows() == before
        assert not await place.storage.call(place.partition.keys.log, "EXISTS", *place.partition.keys.compaction)


@pytest.mark.parametrize("step", ["compact_write", "compact_copy", "compact_index", "compact_swap"])
@pytest.mark.parametrize("executed", [False, True])
async def test_whoever_dies_at_a_step_leaves_what_the_next_one_removes(
    valkey: Any, step: str, executed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_place(valkey.url, janitor_lease_ms=200) as place:
        for number in range(150):
            await place.put([(b"%d" % (number % 70), b"%d" % number)])
        before = await place.rows()
        run, keys = place.storage.run, place.partition.keys

        def dies(called: Any, *words: Any, **more: Any) -> Any:
            if called.name == "release_lease" or (called is script(step) and not executed):
                raise ConnectionAbortedError
            answer = run(called, *words, **more)
            if called is script(step):
                monkeypatch.setattr(place.storage, "run", crash)
            return answer

        def crash(*words: Any, **more: Any) -> Any:
            raise ConnectionAbortedError

        monkeypatch.setattr(place.storage, "run", dies)
        with pytest.raises(ConnectionAbortedError):
            await place.compaction().run()
        monkeypatch.setattr(place.storage, "run", run)
        assert (await place.rows())[-1] == before[-1]
        await place.storage.on_masters("SCRIPT", "FLUSH")
        await place.storage.call(keys.janitor, "HSET", keys.janitor, "until", 1)
        await place.compact()
        assert await place.rows() == reference(before, 149)
        assert not await place.storage.call(keys.log, "EXISTS", *keys.compaction)


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
async def test_a_step_sent_again_changes_nothing(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_place(request.getfixturevalue(kind).url) as place:
        for number in range(150):
            await place.put([(b"%d" % (number % 70), b"%d" % number)])
        before, run = await place.rows(), place.storage.run

        async def twice(called: Any, *words: Any, **more: Any) -> Any:
            if called.name in ("compact_write", "compact_index", "compact_swap", "take_lease"):
                await run(called, *words, **more)
            return await run(called, *words, **more)

        monkeypatch.setattr(place.storage, "run", twice)
        await place.compact()
        monkeypatch.setattr(place.storage, "run", run)
        assert place.counts.compactions == 1
        assert await place.rows() == reference(before, 149)


async def test_records_without_a_key_go_and_what_cannot_be_decoded_stays(valkey: Any) -> None:
    async with a_place(valkey.url) as place:
        await place.put([(None, b"x"), (b"a", b"1"), (None, b"y")])
        good = bytearray(build_batch([Record(0, 1, b"k", b"v", [])]))
        good[61] = 200  # a length that reaches past the end
        await place.log.append([Append(place.topic, 0, bytes(good), read_header(good))], acks=1, timeout_ms=1000)
        await place.put([(b"z", b"end")])
        await place.compact()
        entries = await place.storage.call(place.partition.keys.log, "XRANGE", place.partition.keys.log, "-", "+")
        assert [id_.partition(b"-")[2] for id_, _ in entries] == [b"2", b"3", b"4"]
        assert entries[1][1][1] == bytes(good)


def test_long_keys_are_hashed_and_short_ones_stand_for_themselves() -> None:
    assert digest(b"short") == b"short"
    assert len({digest(b"x" * n) for n in range(40)}) == 40
    assert len(digest(b"x" * 1000)) == 16
