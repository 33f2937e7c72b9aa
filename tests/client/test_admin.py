"""Administration against a real Valkey: what is done shows, what cannot be done is told in a sentence."""

from __future__ import annotations

import pytest

from redbroker.client.admin import Admin
from redbroker.client.connection import Connection
from redbroker.client.producer import Producer
from redbroker.client.types import OffsetAndMetadata
from redbroker.engine.offsets import Commit
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_a_topic_from_its_making_to_its_end(valkey: Server) -> None:
    async with Connection(valkey.unix_url) as connection, Admin(connection) as admin, Producer(connection) as producer:
        await admin.create_topic("orders", 2, {"retention.ms": "1000"})
        await admin.create_topic("orders", if_not_exists=True)
        with pytest.raises(KafkaError) as taken:
            await admin.create_topic("orders")
        assert taken.value.code is ErrorCode.TOPIC_ALREADY_EXISTS
        await admin.create_topic("never", validate_only=True)
        assert await admin.list_topics() == {"orders": 2}

        for _ in range(3):
            await producer.send("orders", b"v", partition=1)
        described = await admin.describe_topic("orders")
        assert [(each.start, each.end) for each in described.partitions] == [(0, 0), (0, 3)]
        assert described.partitions[1].nbytes > 0 and described.configs == {"retention.ms": "1000"}

        await admin.add_partitions("orders", 3)
        assert len((await admin.describe_topic("orders")).partitions) == 3
        await admin.alter_configs("orders", {"retention.ms": None, "cleanup.policy": "compact"})
        assert await admin.configs("orders") == {"cleanup.policy": "compact"}
        assert (await admin.configs("orders", defaults=True))["retention.ms"] == "604800000"

        one = TopicPartition("orders", 1)
        assert await admin.trim({one: 2}) == {one: 2}
        with pytest.raises(KafkaError, match="orders-1 has offsets 2 to 3, not 9"):
            await admin.trim({one: 9})
        assert await admin.trim({one: "end"}) == {one: 3}
        await admin.delete_topic("orders")
        assert await admin.list_topics() == {}


async def test_what_is_not_there_is_told_with_what_is_close_to_it(valkey: Server) -> None:
    async with Admin(valkey.unix_url) as admin:
        await admin.create_topic("orders", 1)
        with pytest.raises(KafkaError, match="There is no topic order; did you mean orders"):
            await admin.delete_topic("order")
        with pytest.raises(KafkaError, match="orders has partitions 0 to 0, not 1"):
            await admin.trim({TopicPartition("orders", 1): 0})
        with pytest.raises(KafkaError) as wrong:
            await admin.alter_configs("orders", {"retention.mss": "1"})
        assert wrong.value.code is ErrorCode.INVALID_CONFIG
        with pytest.raises(KafkaError, match=r"There is no group billing\."):
            await admin.describe_group("billing")
        with pytest.raises(KafkaError) as unknown:
            await admin.delete_group("billing")
        assert unknown.value.code is ErrorCode.GROUP_ID_NOT_FOUND
    with pytest.raises(RuntimeError, match="not open"):
        await admin.list_topics()


async def test_a_groups_offsets_are_seen_moved_and_forgotten(valkey: Server) -> None:
    async with Connection(valkey.unix_url) as connection, Admin(connection) as admin, Producer(connection) as producer:
        for _ in range(5):
            await producer.send("orders", b"v", partition=0)
        await connection.engine.offsets.commit("billing", [Commit("orders", 0, 4, metadata="note")])
        zero = TopicPartition("orders", 0)
        assert await admin.offsets("billing") == {zero: OffsetAndMetadata(4, "note")}
        described = await admin.describe_group("billing")
        assert (described.state, described.lag_records, described.members) == ("Empty", 1, {})
        assert [each.name for each in await admin.list_groups()] == ["billing"]
        assert await admin.seek("billing", {zero: "start"}) == {zero: 0}
        assert (await admin.describe_group("billing")).lag_records == 5
        with pytest.raises(KafkaError, match="There is no group biling; did you mean billing"):
            await admin.describe_group("biling")
        await admin.delete_group("billing")
        assert await admin.list_groups() == []


async def test_the_cluster_describes_itself(valkey: Server) -> None:
    async with Admin(valkey.unix_url, {"client.id": "ops"}) as admin:
        described = await admin.describe_cluster()
        assert len(described.cluster_id) == 22 and described.workers == ()
        assert any("appendonly" in risk or "disk" in risk or "replica" in risk for risk in described.risks)
