"""Kafka's config tables: what is refused, what is normalised, and where a value comes from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from redbroker.topic_config import (
    BROKER_CONFIGS,
    TOPIC_CONFIGS,
    ConfigSource,
    describe_broker,
    describe_topic,
    parse_broker_config,
    parse_config,
    parse_configs,
    static_configs,
    topic_default,
)


def refusal(name: str, value: str | None) -> str:
    with pytest.raises(KafkaError) as refused:
        parse_config(name, value)
    assert refused.value.code is ErrorCode.INVALID_CONFIG
    return refused.value.message


@pytest.mark.parametrize("table", [TOPIC_CONFIGS, BROKER_CONFIGS])
def test_every_default_passes_its_own_check(table):
    for config in table.values():
        if config.default is not None:
            assert config.check(config.default) == config.default


def test_every_synonym_is_a_broker_config():
    for config in TOPIC_CONFIGS.values():
        assert all(synonym.name in BROKER_CONFIGS for synonym in config.synonyms)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", "-2"), ("retention.ms", "soon"), ("retention.ms", "9223372036854775808"), ("retention.ms", ""),
        ("max.message.bytes", "2147483648"), ("segment.bytes", "1048575"), ("min.insync.replicas", "0"),
        ("cleanup.policy", "keep"), ("cleanup.policy", "delete,delete"), ("compression.type", "brotli"),
        ("message.timestamp.type", "logappendtime"), ("min.cleanable.dirty.ratio", "1.5"),
        ("min.cleanable.dirty.ratio", "nan"), ("preallocate", "yes"), ("remote.storage.enable", "true"),
        ("compression.gzip.level", "0"), ("compression.zstd.level", "23"),
        ("leader.replication.throttled.replicas", "0-1"), ("retention.ms", None),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_the_name_of_the_config(name, value):
    assert name in refusal(name, value)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("cleanup.policy", "compact, delete", "compact,delete"), ("preallocate", "TRUE", "true"),
        ("retention.ms", " +05 ", "5"), ("compression.gzip.level", "-1", "-1"),
        ("min.cleanable.dirty.ratio", "1", "1.0"),
        ("leader.replication.throttled.replicas", "0:1,1:2", "0:1,1:2"), ("retention.bytes", "-7", "-7"),
    ],
)  # fmt: skip
def test_a_good_value_is_normalised(name, value, stored):
    assert parse_config(name, value) == stored


def test_an_unknown_name_is_answered_with_the_nearest_right_one():
    assert "did you mean retention.ms" in refusal("retention.sm", "1")


def test_compaction_lags_that_contradict_each_other_are_refused():
    with pytest.raises(KafkaError, match=r"min\.compaction\.lag\.ms"):
        parse_configs({"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "5"})


@given(st.text(max_size=30))
def test_no_value_makes_a_check_fail_in_another_way(value):
    for name in TOPIC_CONFIGS:
        try:
            stored = parse_config(name, value)
        except KafkaError as refused:
            assert refused.code is ErrorCode.INVALID_CONFIG
        else:
            assert parse_config(name, stored) == stored


def test_a_read_only_broker_config_cannot_be_altered():
    with pytest.raises(KafkaError, match=r"num\.partitions cannot be changed"):
        parse_broker_config("num.partitions", "3")
    assert parse_broker_config("log.retention.ms", "60000") == "60000"


def test_a_topic_default_comes_from_the_dynamic_then_the_static_broker_config():
    assert topic_default("retention.ms", {}, {}) == "604800000"
    assert topic_default("retention.ms", {}, {"log.retention.hours": "2"}) == "7200000"
    assert topic_default("retention.ms", {"log.retention.ms": "5"}, {"log.retention.hours": "2"}) == "5"


def test_a_described_topic_lists_every_config_with_its_sources():
    described = {each.name: each for each in describe_topic({"retention.ms": "1"}, {"log.retention.ms": "2"}, {})}
    assert described.keys() == TOPIC_CONFIGS.keys()
    retention = described["retention.ms"]
    assert (retention.value, retention.source) == ("1", ConfigSource.TOPIC)
    assert [(each.name, each.value, each.source) for each in retention.synonyms] == [
        ("retention.ms", "1", ConfigSource.TOPIC),
        ("log.retention.ms", "2", ConfigSource.DYNAMIC_DEFAULT_BROKER),
        ("log.retention.hours", "168", ConfigSource.DEFAULT),
    ]
    assert described["preallocate"].source is ConfigSource.DEFAULT


def test_a_described_broker_shows_the_settings_of_the_worker():
    settings = Settings(num_partitions=7, auto_create_topics=False, message_bytes_max=1_048_588)
    static = static_configs(settings, node_id="3")
    described = {each.name: each for each in describe_broker({"log.retention.ms": "9"}, static)}
    assert described.keys() == BROKER_CONFIGS.keys()
    assert (described["num.partitions"].value, described["num.partitions"].source) == ("7", ConfigSource.STATIC_BROKER)
    assert described["num.partitions"].read_only
    assert described["auto.create.topics.enable"].value == "false"
    assert described["node.id"].value == "3"
    assert described["message.max.bytes"].source is ConfigSource.DEFAULT
    assert described["log.retention.ms"].source is ConfigSource.DYNAMIC_DEFAULT_BROKER
    assert not described["log.retention.ms"].read_only


def test_every_setting_named_by_a_broker_config_exists():
    named = {config.setting for config in BROKER_CONFIGS.values() if config.setting}
    assert named <= Settings.model_fields.keys()
