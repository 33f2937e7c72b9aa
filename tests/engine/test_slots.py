"""Hash slots as the cluster specification has them, and what nodes announce about themselves."""

from __future__ import annotations

import pytest

from redbroker.engine.slots import (
    Master,
    Shards,
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


def test_ranges_and_replicas_of_one_master_are_gathered() -> None:
    one, two, spare = [b"h1", 1, b"a"], [b"", 2, b"b"], [b"h3", 3, b"c"]
    topology = read_cluster_slots([[0, 5, one, spare], [6, 9, two], [10, 12, one, spare]], ASKED, 4, None)
    assert topology.masters == (
        Master(Address("h1", 1), ((0, 5), (10, 12)), 1, nodes=("a", "c")),
        Master(Address("asked", 2), ((6, 9),), 0, nodes=("b",)),
    )
    assert (topology.epoch, topology.knows_the_away) == (4, False)
    shards = Shards((("c", "a", "d", "e"), ("b", "f")), frozenset("df"), ("g",))
    topology = read_cluster_slots([[0, 5, one, spare], [6, 9, two]], ASKED, 4, shards)
    assert topology.masters == (
        Master(Address("h1", 1), ((0, 5),), 3, 1, ("a", "c", "d", "e")),
        Master(Address("asked", 2), ((6, 9),), 1, 1, ("b", "f")),
    )
    assert (topology.knows_the_away, topology.lost) == (True, ("g",))


def test_cluster_shards_tells_who_belongs_together_who_copies_and_who_is_lost() -> None:
    def node(name: bytes, health: bytes = b"online") -> list[bytes]:
        return [b"id", name, b"health", health]

    def shard(slots: list[int], *nodes: list[bytes]) -> list[object]:
        return [b"slots", slots, b"nodes", list(nodes)]

    assert read_cluster_shards([]) == Shards()
    full = [shard([0, 5], node(b"a"), node(b"b", b"fail")), shard([6, 9], node(b"c"), node(b"d", b"loading"))]
    assert read_cluster_shards(full) == Shards((("a", "b"), ("c", "d")), frozenset("d"))
    alone = [shard([], node(b"e", b"fail")), shard([], node(b"f"))]  # f is a new master that has no slots yet
    assert read_cluster_shards(full + alone).lost == ("e",)


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
    others = node("e", "master,fail") + node("f", "master") + node("g", "handshake", "a")
    assert read_cluster_nodes(b"") == Shards()
    assert read_cluster_nodes((of_b + a + b + of_a).encode()) == Shards((("a", "c"), ("b", "d")))
    assert read_cluster_nodes((a + b + of_b + others).encode()) == Shards((("a",), ("b", "d")), lost=("e",))
