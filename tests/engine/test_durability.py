"""How many copies acks=all waits for."""

from __future__ import annotations

import uuid

from redbroker.config import Settings
from redbroker.engine.durability import Durability
from redbroker.engine.topics import Topic


def topic(**configs: str) -> Topic:
    return Topic("t", uuid.uuid4(), 1, {name.replace("_", "."): value for name, value in configs.items()})


def test_all_replicas_seen_at_start_and_the_master_are_waited_for():
    assert Durability(Settings(), 2).copies(topic()) == 3
    assert Durability(Settings(), 0).copies(topic()) == 1


def test_the_configured_number_of_replicas_counts_more_than_the_seen_one():
    durability = Durability(Settings(replicas=2), 1)
    assert durability.copies(topic()) == 3
    assert durability.replication_factor == 3


def test_the_setting_and_above_it_the_topic_decide():
    durability = Durability(Settings(min_insync_replicas=2), 2)
    assert durability.copies() == 2
    assert durability.copies(topic()) == 2
    assert durability.copies(topic(min_insync_replicas="1")) == 1
