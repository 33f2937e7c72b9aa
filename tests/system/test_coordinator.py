"""kill -9 the worker that coordinates a group under load: its members go on at another one as if nothing had been."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from examples.clients import QUIET
from examples.processes import Process, stop_all
from tests.clients.conftest import Cluster
from tests.clients.groups import PARTITIONS, SESSION_MS, Scene, a_scene
from tests.support.group_members import Member
from tests.support.servers import Server

pytestmark = pytest.mark.system

GAP_S = 2.0
"""What it may cost: the dead worker is noticed after 800 ms, and the clients look around."""


@contextmanager
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, list[Process]]]:
    """Two workers that soon notice each other's death."""
    monkeypatch.setenv("REDBROKER_GROUP_MIN_SESSION_TIMEOUT_MS", "1000")
    monkeypatch.setenv("REDBROKER_WORKER_HEARTBEAT_MS", "200")
    monkeypatch.setenv("REDBROKER_WORKER_TIMEOUT_MS", "800")
    monkeypatch.setenv("REDBROKER_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "300")
    monkeypatch.setenv("REDBROKER_GROUP_CONSUMER_SESSION_TIMEOUT_MS", str(SESSION_MS))
    processes: list[Process] = []
    with Server() as storage:
        try:
            for _ in range(2):
                processes += [Process("worker", "--storage", storage.unix_url, "--port", "0")]
            ports = tuple(int(each.address.rpartition(":")[2]) for each in processes)
            yield Cluster(storage.unix_url, ports), processes
        finally:
            stop_all(processes)


def described(scene: Scene) -> Any:
    """The group as an admin client sees it."""
    admin = AdminClient({"bootstrap.servers": scene.cluster.bootstrap}, logger=QUIET)
    return admin.describe_consumer_groups([scene.group])[scene.group].result(20)


def at_rest(scene: Scene, members: list[Member]) -> bool:
    """Whether all have equal shares and are at the group's epoch, where a heartbeat takes who keeps its partitions."""
    if {len(each.assigned) for each in members} != {PARTITIONS // len(members)}:
        return False
    epoch, epochs = scene.epochs()
    return set(epochs.values()) <= {epoch, -1}


def longest_pause(times: list[float]) -> float:
    """The longest time without a record."""
    return max(later - earlier for earlier, later in pairwise(times))


@pytest.mark.parametrize(
    ("client", "protocol"), [("confluent-kafka", "classic"), ("aiokafka", "classic"), ("confluent-kafka", "consumer")]
)
def test_a_killed_coordinator_costs_no_rebalance_and_no_record(
    monkeypatch: pytest.MonkeyPatch, client: str, protocol: str
) -> None:
    with (
        two_workers(monkeypatch) as (cluster, workers),
        a_scene(cluster, client, "orders", protocol=protocol) as scene,
    ):
        members = [scene.join() for _ in range(3)]
        scene.settled(*members)
        scene.wait(lambda: at_rest(scene, members), "every member is at the group's epoch")
        before = described(scene)
        assignments = [each.assignments for each in members]
        held = [each.assigned for each in members]
        epochs = scene.epochs()
        coordinator = next(each for each in workers if each.address.endswith(f":{before.coordinator.port}"))

        killed_at = time.time()
        coordinator.kill()
        time.sleep(SESSION_MS / 1_000 + 2)  # long enough for every session to end if nobody beat

        after = described(scene)
        assert after.coordinator.port != before.coordinator.port
        assert {each.member_id for each in after.members} == {each.member_id for each in before.members}
        assert scene.epochs() == epochs
        assert [each.assigned for each in members] == held
        assert [each.assignments for each in members] == assignments
        scene.finish(*members)
        times = sorted(at for each in members for at in each.times if at > killed_at - 1)
        print(f"{client}, {protocol}: {longest_pause(times):.3f} s without a record")
        assert longest_pause(times) <= GAP_S
        assert not [number for each in members for number in each.doubtful]
