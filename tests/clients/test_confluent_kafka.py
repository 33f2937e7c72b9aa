"""confluent-kafka (librdkafka) against two workers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.clients.conftest import Cluster

PARTITIONS = 4
TIME_MS = 1_700_000_000_123
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def producer_of(cluster: Cluster, **config: Any) -> Producer:
    return Producer({"bootstrap.servers": cluster.bootstrap, "linger.ms": 5, "message.timeout.ms": 20_000} | config)


@contextmanager
def consuming(cluster: Cluster, *wanted: TopicPartition, **config: Any) -> Iterator[Consumer]:
    """A consumer with a manual assignment."""
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap, "group.id": "unused", "enable.auto.commit": False,
            "enable.partition.eof": True, "auto.offset.reset": "error", "allow.auto.create.topics": True,
        } | config
    )  # fmt: skip
    try:
        consumer.assign(list(wanted))
        yield consumer
    finally:
        consumer.close()


def send(producer: Producer, topic: str, messages: Sequence[dict[str, Any]]) -> list[Any]:
    """Produces and waits; gives the delivered messages, and fails on any error."""
    delivered: list[Any] = []
    failed: list[Any] = []

    def done(error: Any, message: Any) -> None:
        (failed if error else delivered).append(error or message)

    for message in messages:
        producer.produce(topic, on_delivery=done, **message)
    assert producer.flush(30) == 0
    assert not failed
    return delivered


def read_to_end(cluster: Cluster, *wanted: TopicPartition, **config: Any) -> list[Any]:
    """Every message from the assigned offsets to the end of each partition."""
    messages, open_partitions = [], {one.partition for one in wanted}
    deadline = time.monotonic() + 30
    with consuming(cluster, *wanted, **config) as consumer:
        while open_partitions:
            assert time.monotonic() < deadline, f"partitions {open_partitions} did not end"
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error():
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                open_partitions.discard(message.partition())
            else:
                messages.append(message)
    return messages


def all_partitions(topic: str, offset: int = OFFSET_BEGINNING) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for partition in range(PARTITIONS)]


@pytest.mark.parametrize("codec", CODECS)
def test_keys_headers_null_values_and_large_records_come_back_under_every_codec(
    cluster: Cluster, topic: str, codec: str
) -> None:
    sent = [
        {"key": b"k", "value": b"v" * 500, "headers": [("a", b"1"), ("b", None), ("a", b"")], "timestamp": TIME_MS},
        {"key": None, "value": b"no key"},
        {"key": b"tombstone", "value": None},
        {"key": b"", "value": b""},
        {"key": b"large", "value": bytes(range(256)) * 3600},
    ]  # fmt: skip
    send(producer_of(cluster, **{"compression.type": codec}), topic, [{**one, "partition": 0} for one in sent])
    received = read_to_end(cluster, TopicPartition(topic, 0, OFFSET_BEGINNING))
    assert [(one.key(), one.value()) for one in received] == [(one["key"], one["value"]) for one in sent]
    assert received[0].headers() == sent[0]["headers"]
    assert received[0].timestamp()[1] == TIME_MS
    assert [one.offset() for one in received] == list(range(len(sent)))


@pytest.mark.parametrize("idempotent", [False, True])
def test_many_records_over_all_partitions_and_both_workers_arrive_once_and_in_order(
    cluster: Cluster, topic: str, idempotent: bool
) -> None:
    producer = producer_of(cluster, **{"enable.idempotence": idempotent, "batch.num.messages": 100, "acks": "all"})
    sent = [{"key": b"%d" % (number % 97), "value": b"%d" % number} for number in range(10_000)]
    delivered = send(producer, topic, sent)
    assert len({(one.partition(), one.offset()) for one in delivered}) == len(sent)
    received = read_to_end(cluster, *all_partitions(topic))
    by_key: dict[bytes, list[int]] = {}
    for one in received:
        by_key.setdefault(one.key(), []).append(int(one.value()))
    assert len(received) == len(sent)
    for key, numbers in by_key.items():
        assert numbers == list(range(int(key), len(sent), 97))


def test_both_workers_lead_partitions_and_name_each_other(cluster: Cluster, topic: str) -> None:
    send(producer_of(cluster), topic, [{"value": b"v"}])
    leaders = []
    for port in cluster.ports:
        metadata = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}).list_topics(topic, timeout=10)
        assert {broker.port for broker in metadata.brokers.values()} == set(cluster.ports)
        leaders.append({index: part.leader for index, part in metadata.topics[topic].partitions.items()})
    assert leaders[0] == leaders[1]
    assert set(leaders[0].values()) <= set(metadata.brokers)


def test_an_auto_created_topic_has_the_partitions_of_the_settings(cluster: Cluster, topic: str) -> None:
    [message] = send(producer_of(cluster), topic, [{"value": b"v"}])
    assert message.offset() == 0
    metadata = AdminClient({"bootstrap.servers": cluster.bootstrap}).list_topics(topic, timeout=10)
    assert len(metadata.topics[topic].partitions) == PARTITIONS


def test_an_empty_topic_ends_at_once(cluster: Cluster, topic: str) -> None:
    send(producer_of(cluster), topic, [{"value": b"v", "partition": 0}])
    assert read_to_end(cluster, *all_partitions(topic)[1:]) == []


def test_seek_by_time_finds_the_record_and_the_end(cluster: Cluster, topic: str) -> None:
    start_ms = 1_700_000_000_000
    sent = [{"value": b"%d" % number, "partition": 0, "timestamp": start_ms + 1000 * number} for number in range(20)]
    send(producer_of(cluster, **{"batch.num.messages": 7, "compression.type": "lz4"}), topic, sent)
    with consuming(cluster) as consumer:
        for wanted_ms, offset in [
            (0, 0),
            (start_ms + 5500, 6),
            (start_ms + 19_000, 19),
            (start_ms + 10**6, OFFSET_END),
        ]:
            [found] = consumer.offsets_for_times([TopicPartition(topic, 0, wanted_ms)], timeout=10)
            assert (found.error, found.offset) == (None, offset)
        assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10) == (0, 20)
    received = read_to_end(cluster, TopicPartition(topic, 0, 6))
    assert [one.offset() for one in received] == list(range(6, 20))


def test_reading_from_the_end_gives_only_what_comes_later_and_within_milliseconds(cluster: Cluster, topic: str) -> None:
    producer = producer_of(cluster, **{"linger.ms": 0})
    send(producer, topic, [{"value": b"old", "partition": 0}])
    wait = {"fetch.wait.max.ms": 10_000, "fetch.min.bytes": 1}
    with consuming(cluster, TopicPartition(topic, 0, OFFSET_END), **wait) as consumer:
        assert consumer.poll(1.5) is None  # by now it waits at the end
        started_s = time.monotonic()
        send(producer, topic, [{"value": b"new", "partition": 0}])
        message = consumer.poll(10)
        assert message.value() == b"new"
        assert time.monotonic() - started_s < 2


def test_a_read_beyond_the_end_is_told_as_out_of_range(cluster: Cluster, topic: str) -> None:
    send(producer_of(cluster), topic, [{"value": b"v", "partition": 0}])
    with consuming(cluster, TopicPartition(topic, 0, 1000)) as consumer:
        message = consumer.poll(10)
        assert message.error().code() == KafkaError._AUTO_OFFSET_RESET


def test_a_record_above_max_message_bytes_is_refused_and_the_next_one_goes_on(cluster: Cluster, topic: str) -> None:
    producer = producer_of(cluster, **{"message.max.bytes": 5_000_000})
    errors: list[Any] = []
    producer.produce(topic, bytes(2_000_000), partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(20) == 0
    assert errors[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert send(producer, topic, [{"value": b"v", "partition": 0}])[0].offset() == 0


def test_a_transactional_producer_is_told_that_transactions_are_not_offered(cluster: Cluster, topic: str) -> None:
    producer = producer_of(cluster, **{"transactional.id": topic, "message.timeout.ms": 2000})
    with pytest.raises(KafkaException) as refused:
        producer.init_transactions(3)
    assert refused.value.args[0].code() in (KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE)


def test_acks_0_reaches_the_log(cluster: Cluster, topic: str) -> None:
    send(producer_of(cluster, acks=0), topic, [{"value": b"%d" % number, "partition": 0} for number in range(100)])
    deadline = time.monotonic() + 10
    received: list[Any] = []
    while len(received) < 100 and time.monotonic() < deadline:
        received = read_to_end(cluster, TopicPartition(topic, 0, OFFSET_BEGINNING))
    assert [int(one.value()) for one in received] == list(range(100))


def test_librdkafka_sees_the_leader_epoch_in_what_it_reads(cluster: Cluster, topic: str) -> None:
    send(producer_of(cluster), topic, [{"value": b"v", "partition": 0}])
    [message] = read_to_end(cluster, TopicPartition(topic, 0, OFFSET_BEGINNING))
    assert message.leader_epoch() is not None
    assert message.leader_epoch() > 0


def test_statistics_show_no_request_that_timed_out(cluster: Cluster, topic: str) -> None:
    seen: list[dict[str, Any]] = []
    producer = producer_of(
        cluster, **{"statistics.interval.ms": 200, "stats_cb": lambda text: seen.append(json.loads(text))}
    )
    send(producer, topic, [{"value": b"v"} for _ in range(100)])
    deadline = time.monotonic() + 5
    while not seen and time.monotonic() < deadline:
        producer.poll(0.1)
    assert seen
    assert sum(broker["req_timeouts"] for broker in seen[-1]["brokers"].values()) == 0
