"""Hash slots as the cluster specification has them, and what nodes announce about themselves."""

from __future__ import annotations

import pytest

from redbroker.engine.slots import (
    Master,
    announced,
    key_slot,
    read_cluster_nodes,
    read_cluster_shards,
    read_cluster_slots,
    read_redirect,
)
from redbroker.engine.target import Address
from tests.support.clusters import Cluster

ASKED = Address("asked", 7000)


@pytest.mark.parametrize("key", [b"foo", b"", b"rb:{orders:0}:log", b"{}whole", b"{a}{b}", b"x{", b"}{y}", b"{{z}}"])
def test_a_keys_slot_is_the_one_the_server_computes(cluster: Cluster, key: bytes) -> None:
    assert key_slot(key) == cluster.nodes[0].command("CLUSTER", "KEYSLOT", key)


def test_ranges_of_one_master_are_gathered_and_the_fewest_replicas_count() -> None:
    one, two, spare = [b"h1", 1, b"id"], [b"", 2, b"id"], [b"h3", 3, b"id"]
    topology = read_cluster_slots([[0, 5, one, spare, spare], [6, 9, two], [10, 12, one, spare]], ASKED, 4)
    assert topology.masters == (
        Master(Address("h1", 1), ((0, 5), (10, 12)), 1),
        Master(Address("asked", 2), ((6, 9),), 0),
    )
    assert topology.epoch == 4


def test_replicas_that_are_away_count_and_a_replaced_master_counts_where_they_are_fewest() -> None:
    up, down = [b"id", b"x", b"health", b"online"], [b"id", b"y", b"health", b"fail"]

    def shard(slots: list[int], *nodes: list[bytes]) -> list[object]:
        return [b"slots", slots, b"nodes", list(nodes)]

    assert read_cluster_shards([]) == 0
    assert read_cluster_shards([shard([0, 5], up, down), shard([6, 9], up, up)]) == 1
    assert read_cluster_shards([shard([0, 5], up), shard([6, 9], up, up), shard([], down)]) == 1
    assert read_cluster_shards([shard([0, 5], up), shard([6, 9], up), shard([], down)]) == 0
    assert read_cluster_shards([shard([0, 5], up), shard([], up)]) == 0  # a new master that has no slots yet
    topology = read_cluster_slots([[0, 5, [b"h1", 1, b"id"]]], ASKED, 4, 1)
    assert topology.masters == (Master(Address("h1", 1), ((0, 5),), 1),)


def test_an_empty_host_is_the_host_that_was_asked_and_a_question_mark_is_nobody() -> None:
    assert announced(b"", 1, ASKED) == announced(None, 1, ASKED) == Address("asked", 1)
    assert announced(b"?", 1, ASKED) is None
    assert read_redirect("MOVED 17 :7001", ASKED) == (17, Address("asked", 7001))
    assert read_redirect("ASK 17 ::1:7001", ASKED) == (17, Address("::1", 7001))


def test_cluster_nodes_tells_the_same_of_those_that_are_away() -> None:
    def node(name: str, flags: str, master: str = "-", slots: str = "") -> str:
        return f"{name} 127.0.0.1:1@2,,shard-id=x {flags} {master} 0 0 1 connected{slots}\n"

    a, b = node("a", "myself,master", slots=" 0-5"), node("b", "master", slots=" 6-9 [3->-c]")
    of_a, of_b = node("c", "slave,fail", "a"), node("d", "slave", "b")
    assert read_cluster_nodes(b"") == 0
    assert read_cluster_nodes((a + b + of_a + of_b).encode()) == 1
    assert read_cluster_nodes((a + b + of_b).encode()) == 0
    assert read_cluster_nodes((a + b + of_b + node("e", "master,fail")).encode()) == 1
    assert read_cluster_nodes((a + b + of_b + node("e", "master")).encode()) == 0  # a new master without slots yet
    assert read_cluster_nodes((a + b + of_b + node("e", "handshake", "a")).encode()) == 0
