"""kafka-python's admin client against two workers: it asks for the newest version of every admin API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import InvalidPartitionsError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from tests.clients.conftest import Cluster


@pytest.fixture
def admin(cluster: Cluster) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=cluster.bootstrap.split(","))
    yield client
    client.close()


def produce(cluster: Cluster, topic: str, records: int) -> None:
    producer = KafkaProducer(bootstrap_servers=cluster.bootstrap.split(","))
    try:
        for _ in range(records):
            producer.send(topic, b"x" * 100, partition=0).get(10)
    finally:
        producer.close(timeout=5)


def eventually(holds: Callable[[], bool]) -> bool:
    """Metadata is told from every worker's cache, which hears of other workers' changes milliseconds later."""
    return any(holds() or time.sleep(0.02) for _ in range(250))


def test_a_topic_is_made_grown_and_deleted(admin: KafkaAdminClient, topic: str) -> None:
    made = admin.create_topics({topic: {"num_partitions": 2, "configs": {"retention.ms": "60000"}}})["topics"][0]
    assert (made["num_partitions"], made["configs"]["retention.ms"]["value"]) == (2, "60000")
    with pytest.raises(TopicAlreadyExistsError):
        admin.create_topics([topic])
    admin.create_partitions({topic: 5})
    assert eventually(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == 5)
    with pytest.raises(InvalidPartitionsError):
        admin.create_partitions({topic: 5})
    admin.delete_topics([topic])
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.delete_topics([topic])


def test_configs_are_read_changed_and_reset(admin: KafkaAdminClient, topic: str) -> None:
    admin.create_topics([topic])

    def configs(which: str = "modified") -> dict[str, str]:
        asked = [ConfigResource(ConfigResourceType.TOPIC, topic)]
        found = admin.describe_configs(asked, include_synonyms=True, config_filter=which)["topic"][topic]
        return {name: config["value"] for name, config in found.items()}

    admin.alter_configs(
        [ConfigResource("topic", topic, {"retention.ms": "1", "cleanup.policy": ("APPEND", "compact")})]
    )
    assert configs() == {"retention.ms": "1", "cleanup.policy": "delete,compact"}
    assert len(configs("all")) > 30
    admin.alter_configs([ConfigResource("topic", topic, {"flush.ms": "7"})], incremental=False)
    assert configs()["flush.ms"] == "7"
    admin.reset_configs([ConfigResource("topic", topic, [])])
    assert configs() == {}
    refused = admin.alter_configs([ConfigResource("topic", topic, {"retention.ms": "soon"})], raise_on_unknown=False)
    assert "InvalidConfig" in repr(refused) and configs() == {}


def test_broker_configs_are_changed_through_a_node(admin: KafkaAdminClient) -> None:
    node = str(admin.describe_cluster()["brokers"][0]["broker_id"])

    def configs(which: str = "modified") -> dict[str, str]:
        found = admin.describe_configs([ConfigResource("broker", node)], config_filter=which)["broker"][node]
        return {name: config["value"] for name, config in found.items()}

    assert configs("all")["node.id"] == node
    admin.alter_configs([ConfigResource("broker", node, {"log.flush.interval.ms": "5000"})])
    try:
        assert configs() == {"log.flush.interval.ms": "5000"}
    finally:
        admin.reset_configs([ConfigResource("broker", node, ["log.flush.interval.ms"])])
    assert configs() == {}


def test_records_are_deleted_and_sizes_told(cluster: Cluster, admin: KafkaAdminClient, topic: str) -> None:
    admin.create_topics({topic: {"num_partitions": 1}})
    produce(cluster, topic, 10)
    zero = TopicPartition(topic, 0)

    def size() -> int:
        told = [
            partition["partition_size"]
            for broker in admin.describe_log_dirs({topic: [0]})
            for directory in broker["log_dirs"]
            for each in directory["topics"]
            for partition in each["partitions"]
        ]
        assert len(told) == 1, "a partition is told by exactly one broker"
        return int(told[0])

    assert size() > 1_000
    assert admin.delete_records({zero: 4})[zero]["low_watermark"] == 4
    assert admin.delete_records({zero: -1})[zero]["low_watermark"] == 10


def test_the_cluster_its_resources_and_partitions_are_described(
    cluster: Cluster, admin: KafkaAdminClient, topic: str
) -> None:
    admin.create_topics({topic: {"num_partitions": 3}})
    described = admin.describe_cluster()
    assert sorted(broker["port"] for broker in described["brokers"]) == sorted(cluster.ports)
    assert described["controller_id"] in {broker["broker_id"] for broker in described["brokers"]}
    resources = admin.list_config_resources(["topic", "broker"])
    assert topic in repr(resources)
    page = admin.describe_topic_partitions([topic], response_partition_limit=2)
    assert [each["partition_index"] for each in page["topics"][0]["partitions"]] == [0, 1]
    rest = admin.describe_topic_partitions([topic], cursor=page["next_cursor"])
    assert [each["partition_index"] for each in rest["topics"][0]["partitions"]] == [2]
    assert rest["next_cursor"] is None
    elected = admin.elect_leaders(0, {topic: [0, 1, 2]})
    assert elected is not None
