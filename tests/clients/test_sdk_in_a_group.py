"""The SDK's consumers and apps in a group: alone, with confluent-kafka members of both protocols, and with kills."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Cluster
from tests.clients.groups import a_scene, members_come_and_go
from tests.clients.test_consumer_protocol import quick_workers
from tests.support.servers import Server
from tests.system.test_coordinator import two_workers

pytestmark = pytest.mark.system


def test_sdk_members_join_leave_are_killed_and_come_back(group_cluster: Cluster, topic: str) -> None:
    members_come_and_go(group_cluster, "sdk", topic)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_sdk_and_confluent_kafka_members_share_a_group_and_survive_kills(topic: str, protocol: str) -> None:
    with (
        Server() as storage,
        quick_workers(storage.unix_url) as workers,
        a_scene(workers, "confluent-kafka", topic, protocol=protocol, session_timeout_ms=6_000) as scene,
    ):
        theirs = scene.join()
        scene.settled(theirs)
        ours, killed = scene.join(client="sdk"), scene.join(client="sdk")
        scene.settled(theirs, ours, killed)
        killed.kill()
        scene.settled(theirs, ours)
        back = scene.join(client="sdk")
        scene.settled(theirs, ours, back)
        theirs.leave()
        scene.settled(ours, back)
        scene.finish(ours, back)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_what_a_killed_app_had_is_handled_by_confluent_kafka_members(topic: str, protocol: str) -> None:
    with (
        Server() as storage,
        quick_workers(storage.unix_url) as workers,
        a_scene(workers, "confluent-kafka", topic, protocol=protocol, session_timeout_ms=6_000) as scene,
    ):
        theirs, app = scene.join(), scene.join(client="sdk-app")
        scene.settled(theirs, app)
        scene.wait(lambda: len(app.records) > 100, "the app handles records")
        app.kill()
        scene.settled(theirs)
        back = scene.join(client="sdk-app")
        scene.settled(theirs, back)
        theirs.leave()
        scene.settled(back)
        scene.finish(back)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_mixed_group_survives_the_kill_of_a_worker(
    monkeypatch: pytest.MonkeyPatch, topic: str, protocol: str
) -> None:
    with (
        two_workers(monkeypatch) as (cluster, workers),
        a_scene(cluster, "confluent-kafka", topic, protocol=protocol, session_timeout_ms=6_000) as scene,
    ):
        theirs, ours = scene.join(), scene.join(client="sdk")
        scene.settled(theirs, ours)
        workers[0].kill()
        another = scene.join(client="sdk")
        scene.settled(theirs, ours, another)
        ours.kill()
        scene.settled(theirs, another)
        scene.finish(theirs, another)
