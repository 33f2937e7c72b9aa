"""confluent-kafka's AdminClient (librdkafka, which most languages' clients share) against two workers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from tests.clients.conftest import Cluster

WAIT_S = 20


@pytest.fixture
def admin(cluster: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap})


def outcome(futures: dict[Any, Any]) -> Any:
    (future,) = futures.values()
    return future.result(WAIT_S)


def refusal(futures: dict[Any, Any]) -> int:
    with pytest.raises(KafkaException) as refused:
        outcome(futures)
    return int(refused.value.args[0].code())


def has_partitions(admin: AdminClient, topic: str, count: int) -> bool:
    """Metadata is told from every worker's cache, which hears of other workers' changes milliseconds later."""
    for _ in range(250):
        if len(admin.list_topics(topic, timeout=WAIT_S).topics[topic].partitions) == count:
            return True
        time.sleep(0.02)
    return False


def test_a_topic_is_made_grown_and_deleted(admin: AdminClient, topic: str) -> None:
    outcome(admin.create_topics([NewTopic(topic, 2, 3)]))
    assert refusal(admin.create_topics([NewTopic(topic, 2, 1)])) == KafkaError.TOPIC_ALREADY_EXISTS
    outcome(admin.create_partitions([NewPartitions(topic, 4)]))
    assert has_partitions(admin, topic, 4)
    assert refusal(admin.create_partitions([NewPartitions(topic, 4)])) == KafkaError.INVALID_PARTITIONS
    outcome(admin.delete_topics([topic]))
    assert refusal(admin.delete_topics([topic])) == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_what_is_wrong_with_a_new_topic_is_told(admin: AdminClient, topic: str) -> None:
    assert refusal(admin.create_topics([NewTopic("no good", 1)])) == KafkaError.TOPIC_EXCEPTION
    assert refusal(admin.create_topics([NewTopic(topic, 0)])) == KafkaError.INVALID_PARTITIONS
    assert refusal(admin.create_topics([NewTopic(topic, 1, 9)])) == KafkaError.INVALID_REPLICATION_FACTOR
    wrong = NewTopic(topic, 1, config={"retention.ms": "soon"})
    assert refusal(admin.create_topics([wrong])) == KafkaError.INVALID_CONFIG
    outcome(admin.create_topics([NewTopic(topic, 1)], validate_only=True))
    assert refusal(admin.delete_topics([topic])) == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_manual_assignment_is_taken(admin: AdminClient, topic: str) -> None:
    nodes = sorted(admin.list_topics(timeout=WAIT_S).brokers)
    outcome(admin.create_topics([NewTopic(topic, 3, replica_assignment=[nodes, nodes, nodes])]))
    assert has_partitions(admin, topic, 3)


def test_configs_are_read_and_changed_one_by_one(admin: AdminClient, topic: str) -> None:
    outcome(admin.create_topics([NewTopic(topic, 1, config={"retention.ms": "60000"})]))

    def config(name: str) -> ConfigEntry:
        found = outcome(admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]))
        assert len(found) > 30
        return found[name]

    assert (config("retention.ms").value, config("retention.ms").source) == (
        "60000",
        ConfigSource.DYNAMIC_TOPIC_CONFIG.value,
    )
    assert config("segment.bytes").is_default
    edits = [
        ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND),
        ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=edits)
    outcome(admin.incremental_alter_configs([resource]))
    assert config("cleanup.policy").value == "delete,compact"
    assert config("retention.ms").is_default
    unknown = ConfigResource(ConfigResource.Type.TOPIC, f"{topic}-unknown")
    assert refusal(admin.describe_configs([unknown])) == KafkaError.UNKNOWN_TOPIC_OR_PART


@pytest.mark.filterwarnings("ignore:.*alter_configs.*")
def test_configs_are_replaced_as_a_whole(admin: AdminClient, topic: str) -> None:
    outcome(admin.create_topics([NewTopic(topic, 1, config={"retention.ms": "60000"})]))
    kind = ConfigResource.Type.TOPIC
    outcome(admin.alter_configs([ConfigResource(kind, topic, set_config={"flush.ms": "12345678"})]))
    found = outcome(admin.describe_configs([ConfigResource(kind, topic)]))
    assert (found["flush.ms"].value, found["retention.ms"].is_default) == ("12345678", True)


def test_a_broker_tells_its_configs(admin: AdminClient) -> None:
    for node in admin.list_topics(timeout=WAIT_S).brokers:
        found = outcome(admin.describe_configs([ConfigResource(ConfigResource.Type.BROKER, str(node))]))
        assert (found["node.id"].value, found["num.partitions"].value) == (str(node), "4")
        assert found["node.id"].is_read_only


def test_the_cluster_is_described(cluster: Cluster, admin: AdminClient) -> None:
    described = admin.describe_cluster().result(WAIT_S)
    assert sorted(node.port for node in described.nodes) == sorted(cluster.ports)
    assert described.cluster_id and described.controller.id in {node.id for node in described.nodes}


def test_topics_are_described_with_their_ids(admin: AdminClient, topic: str) -> None:
    outcome(admin.create_topics([NewTopic(topic, 2)]))
    described = outcome(admin.describe_topics(TopicCollection([topic])))
    assert (described.name, len(described.partitions)) == (topic, 2)
    assert all(partition.leader and partition.isr for partition in described.partitions)


def test_records_are_deleted(cluster: Cluster, admin: AdminClient, topic: str) -> None:
    outcome(admin.create_topics([NewTopic(topic, 1)]))
    producer = Producer({"bootstrap.servers": cluster.bootstrap})
    for number in range(10):
        producer.produce(topic, str(number), partition=0)
    assert producer.flush(WAIT_S) == 0
    deleted = outcome(admin.delete_records([TopicPartition(topic, 0, 10)]))
    assert deleted.low_watermark == 10
    earliest = outcome(admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.earliest()}))
    assert earliest.offset == 10
    assert refusal(admin.delete_records([TopicPartition(topic, 0, 99)])) == KafkaError.OFFSET_OUT_OF_RANGE


def test_there_is_no_election_to_hold(admin: AdminClient, topic: str) -> None:
    from confluent_kafka import ElectionType

    outcome(admin.create_topics([NewTopic(topic, 1)]))
    zero = TopicPartition(topic, 0)
    told = admin.elect_leaders(ElectionType.PREFERRED, [zero]).result(WAIT_S)
    assert told[zero].code() == KafkaError.ELECTION_NOT_NEEDED
