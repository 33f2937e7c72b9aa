"""Groups of three members on two workers: they join, leave, crash and come back, while records keep coming."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Cluster
from tests.clients.groups import a_scene, members_come_and_go, node_modules


@pytest.mark.parametrize("client", ["confluent-kafka", "aiokafka", "kafka-python"])
def test_members_join_leave_crash_and_come_back(group_cluster: Cluster, topic: str, client: str) -> None:
    members_come_and_go(group_cluster, client, topic)


def test_members_of_kafkajs_join_leave_crash_and_come_back(group_cluster: Cluster, topic: str) -> None:
    found = node_modules()
    if isinstance(found, str):
        pytest.skip(found)
    members_come_and_go(group_cluster, "kafkajs", topic, node_modules=found)


def test_cooperative_members_keep_what_stays_theirs(cluster: Cluster, topic: str) -> None:
    with a_scene(cluster, "confluent-kafka", topic, strategy="cooperative-sticky", session_timeout_ms=6_000) as scene:
        first = scene.join()
        scene.settled(first)
        second = scene.join()
        scene.settled(first, second)
        kept = set(first.assigned)
        third = scene.join()
        scene.settled(first, second, third)
        assert set(first.assigned) < kept
        third.leave()
        scene.settled(first, second)
        scene.finish(first, second)


def test_a_static_member_that_restarts_in_time_moves_nothing(cluster: Cluster, topic: str) -> None:
    with a_scene(cluster, "confluent-kafka", topic, session_timeout_ms=10_000) as scene:
        first, second = scene.join(instance="pod-1"), scene.join(instance="pod-2")
        scene.settled(first, second)
        held, assignments = second.assigned, first.assignments
        second.kill()
        back = scene.join(instance="pod-2")
        scene.settled(first, back)
        assert back.assigned == held
        assert first.assignments == assignments
        scene.finish(first, back)
