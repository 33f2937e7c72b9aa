"""The consumer protocol (KIP-848) with librdkafka on two workers: members come and go, and groups change protocols."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.clients.conftest import Cluster, two_workers
from tests.clients.groups import a_scene, members_come_and_go
from tests.support.clusters import Cluster as Nodes
from tests.support.servers import Server

HEARTBEAT_S = 0.5
SETTLE_S = 0.5
BUSY_S = 1.0
"""What two workers, a load and three members wait for each other on a machine of two cores."""
SETTINGS = {
    "GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "500",
    "GROUP_CONSUMER_SESSION_TIMEOUT_MS": "3000",
    "GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
}


@contextmanager
def quick_workers(storage_url: str) -> Iterator[Cluster]:
    """Two workers whose members heartbeat twice a second and are out after three seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(f"REDBROKER_{name}", value)
        with two_workers(storage_url) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def consumer_cluster() -> Iterator[Cluster]:
    """Such workers on one Valkey."""
    with Server() as storage, quick_workers(storage.unix_url) as cluster:
        yield cluster


def test_members_join_leave_are_killed_and_come_back(consumer_cluster: Cluster, topic: str) -> None:
    members_come_and_go(consumer_cluster, "confluent-kafka", topic, protocol="consumer")


def test_members_join_leave_and_are_killed_on_a_cluster_of_redis(cluster_nodes: Nodes, topic: str) -> None:
    cluster_nodes.heal()
    cluster_nodes.flush()
    with (
        quick_workers(cluster_nodes.url) as workers,
        a_scene(workers, "confluent-kafka", topic, protocol="consumer") as scene,
    ):
        first, second, third = (scene.join() for _ in range(3))
        scene.settled(first, second, third)
        third.leave()
        second.kill()
        scene.settled(first)
        scene.finish(first)


def test_who_stays_keeps_its_partitions_and_settles_within_a_heartbeat(consumer_cluster: Cluster, topic: str) -> None:
    with a_scene(consumer_cluster, "confluent-kafka", topic, protocol="consumer") as scene:
        first = scene.join()
        scene.settled(first)
        second = scene.join()
        scene.settled(first, second)
        kept, others = set(first.assigned), set(second.assigned)
        third = scene.join()
        trio = (first, second, third)
        scene.wait(lambda: all(len(each.assigned) == 2 for each in trio), "everybody has two partitions")
        scene.settled(*trio)
        assert set(first.assigned) < kept
        assert set(second.assigned) < others
        left_behind = set(third.assigned)
        left_at = time.time()
        third.leave()
        scene.settled(first, second)
        assert set(first.assigned) - left_behind < kept
        assert set(second.assigned) - left_behind < others
        took_s = max(first.assigned_at, second.assigned_at) - left_at
        assert took_s < HEARTBEAT_S + SETTLE_S + BUSY_S
        scene.finish(first, second)


def test_a_static_member_that_restarts_in_time_finds_its_partitions(consumer_cluster: Cluster, topic: str) -> None:
    with a_scene(consumer_cluster, "confluent-kafka", topic, protocol="consumer") as scene:
        first, second = scene.join(instance="pod-1"), scene.join(instance="pod-2")
        scene.settled(first, second)
        held, assignments = second.assigned, first.assignments
        second.leave()
        back = scene.join(instance="pod-2")
        scene.settled(first, back)
        assert back.assigned == held
        assert first.assignments == assignments
        scene.finish(first, back)


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_a_group_changes_to_the_consumer_protocol_and_back_while_it_runs(
    consumer_cluster: Cluster, topic: str, strategy: str
) -> None:
    with a_scene(consumer_cluster, "confluent-kafka", topic, strategy=strategy) as scene:
        old, older = scene.join(), scene.join()
        scene.settled(old, older)
        new = scene.join(protocol="consumer")
        scene.settled(old, older, new)
        older.leave()
        scene.settled(old, new)
        newer = scene.join(protocol="consumer")
        scene.settled(old, new, newer)
        old.leave()
        scene.settled(new, newer)
        back = scene.join()
        scene.settled(new, newer, back)
        newer.leave()
        new.leave()
        scene.settled(back)
        scene.finish(back)
