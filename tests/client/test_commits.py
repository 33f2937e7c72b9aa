"""Commits through the SDK on real servers: whose they are, what they cover, and when they are tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redbroker.client.connection import Connection
from redbroker.client.types import OffsetAndMetadata
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from tests.support.reading import FIRST, orders, reader, until, values

pytestmark = pytest.mark.anyio
MANUAL = {"group_id": "billing", "enable_auto_commit": False}


async def test_a_commit_covers_all_that_was_handed_out_or_what_is_named(connection: Connection) -> None:
    await orders(connection, b"a", b"b", b"c")
    async with reader(connection, **MANUAL) as consumer:
        consumer.assign([FIRST])
        assert await consumer.committed() == {FIRST: None}
        assert await values(consumer, 2) == [b"a", b"b"]
        await consumer.commit()
        assert await consumer.committed() == {FIRST: OffsetAndMetadata(2, "", 1)}
        await consumer.commit({FIRST: 1})
        assert await consumer.committed() == {FIRST: OffsetAndMetadata(1)}
        await consumer.commit({FIRST: OffsetAndMetadata(3, "by hand", 1)})
        assert await consumer.committed(FIRST) == {FIRST: OffsetAndMetadata(3, "by hand", 1)}
    async with reader(connection, **MANUAL) as consumer:
        consumer.assign([FIRST])
        assert await consumer.position(FIRST) == 3


async def test_a_commit_needs_a_group_and_a_member_commits_only_what_it_has(connection: Connection) -> None:
    await orders(connection, b"a", partitions=2)
    async with reader(connection) as consumer:
        consumer.assign([FIRST])
        for call in (consumer.commit({FIRST: 1}), consumer.committed(FIRST)):
            with pytest.raises(KafkaError, match="set group_id") as refused:
                await call
            assert refused.value.code is ErrorCode.INVALID_GROUP_ID
    async with reader(connection, "orders", **MANUAL) as member:
        await until(lambda: len(member.assignment()) == 2)
        with pytest.raises(KafkaError, match="orders-7 is not assigned") as refused:
            await member.commit({FIRST: 1, TopicPartition("orders", 7): 1})
        assert await member.committed(FIRST) == {FIRST: None}


async def test_automatic_commits_come_by_themselves_and_only_of_what_is_done(connection: Connection) -> None:
    await orders(connection, b"a", b"b")
    async with reader(connection, "orders", group_id="billing", auto_commit_interval_ms=10) as consumer:

        async def reached(offset: int) -> None:
            async with asyncio.timeout(10):
                while (found := (await consumer.committed(FIRST))[FIRST]) is None or found.offset < offset:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert found.offset == offset

        assert (await anext(consumer)).value == b"a"
        await reached(0)  # where it began: "latest" is not looked up anew after a restart
        await asyncio.sleep(0.05)
        await reached(0)
        assert (await anext(consumer)).value == b"b"
        await reached(1)


async def test_a_commit_in_the_background_is_waited_for_at_the_end_and_its_failure_logged(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await orders(connection, b"a")
    async with reader(connection, **MANUAL) as consumer:
        consumer.assign([FIRST])
        assert await values(consumer, 1) == [b"a"]
        consumer.commit_nowait()
    async with reader(connection, **MANUAL) as consumer:
        assert await consumer.committed(FIRST) == {FIRST: OffsetAndMetadata(1, "", 1)}
        task = consumer.commit_nowait({FIRST: OffsetAndMetadata(1, "x" * 100_000)})
        with pytest.raises(KafkaError) as refused:
            await task
        assert refused.value.code is ErrorCode.OFFSET_METADATA_TOO_LARGE
    assert "A commit failed" in caplog.text


async def test_a_commit_in_the_background_is_of_what_was_handed_out_before_it(
    connection: Connection,
) -> None:
    await orders(connection, b"a", b"b")
    async with reader(connection, **MANUAL) as consumer:
        consumer.assign([FIRST])
        assert await values(consumer, 1) == [b"a"]
        task = consumer.commit_nowait()
        assert len(await consumer.getmany()) == 1  # at hand: nothing is awaited
        await task
        assert await consumer.committed(FIRST) == {FIRST: OffsetAndMetadata(1, "", 1)}


@pytest.mark.parametrize("code", [ErrorCode.STALE_MEMBER_EPOCH, ErrorCode.COORDINATOR_NOT_AVAILABLE])
async def test_a_commit_is_tried_again_where_that_helps(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, code: ErrorCode
) -> None:
    await orders(connection, b"a")
    offsets, asked = connection.engine.offsets, 0
    commit = offsets.commit

    async def sometimes(*arguments: Any, **fields: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise KafkaError(code, "not now")
        return await commit(*arguments, **fields)

    async with reader(connection, "orders", **MANUAL) as consumer:
        assert await values(consumer, 1) == [b"a"]
        monkeypatch.setattr(offsets, "commit", sometimes)
        await consumer.commit()
        assert asked == 3
        assert await consumer.committed(FIRST) == {FIRST: OffsetAndMetadata(1, "", 1)}


async def test_a_refusal_that_will_stay_is_raised_at_once(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await orders(connection, b"a")
    asked = 0

    async def never(*arguments: Any, **fields: Any) -> Any:
        nonlocal asked
        asked += 1
        raise KafkaError(ErrorCode.GROUP_AUTHORIZATION_FAILED, "no")

    async with reader(connection, "orders", **MANUAL) as consumer:
        assert await values(consumer, 1) == [b"a"]
        monkeypatch.setattr(connection.engine.offsets, "commit", never)
        with pytest.raises(KafkaError, match="no"):
            await consumer.commit()
        assert asked == 1
