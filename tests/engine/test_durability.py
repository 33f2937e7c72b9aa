"""How many copies acks=all waits for."""

from __future__ import annotations

import uuid

from redbroker.config import Settings
from redbroker.engine.durability import Durability
from redbroker.engine.slots import SLOTS
from redbroker.engine.topics import Topic


def topic(**configs: str) -> Topic:
    return Topic("t", uuid.uuid4(), 1, {name.replace("_", "."): value for name, value in configs.items()})


def test_all_replicas_seen_at_start_and_the_master_are_waited_for():
    assert Durability(Settings(), 2).copies(topic(), 0) == 3
    assert Durability(Settings(), 0).copies(None, SLOTS - 1) == 1


def test_a_slot_has_the_replicas_of_its_master():
    durability = Durability(Settings(), 1, "cluster")
    assert str(durability) == "2 copies (1 replica by the cluster)"
    durability.learn([(((0, 5), (9, 9)), 2), (((6, 8), (10, SLOTS - 1)), 1)])
    assert [durability.copies(topic(), slot) for slot in range(5, 11)] == [3, 2, 2, 2, 3, 2]
    assert str(durability) == "2 to 3 copies (1 to 2 replicas by the cluster)"
    assert (durability.copies_default, durability.replication_factor) == (2, 2)
    durability.learn([(((0, 4), (9, 9)), 2), (((5, 8), (10, SLOTS - 1)), 1)])  # slot 5 has moved
    assert [durability.replicas(slot) for slot in (4, 5, 6)] == [2, 1, 1]


def test_the_configured_number_of_replicas_counts_more_than_the_seen_one():
    durability = Durability(Settings(replicas=2), 1)
    assert durability.copies(topic(), 7) == 3
    assert durability.replication_factor == 3
    assert str(durability) == "3 copies (2 replicas by the setting replicas)"


def test_the_setting_and_above_it_the_topic_decide():
    durability = Durability(Settings(min_insync_replicas=2), 2)
    assert durability.copies(None, 0) == 2
    assert durability.copies(topic(), 0) == 2
    assert durability.copies(topic(min_insync_replicas="1"), 0) == 1
    assert str(durability) == "2 copies (min_insync_replicas)"
