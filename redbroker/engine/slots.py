"""Hash slots and who serves them.

A key's slot is CRC16/XMODEM of its hash tag (the part between the first `{` and the next `}`, when not empty) or of
the whole key, modulo 16384: the Redis Cluster specification. `binascii.crc_hqx` is that CRC, in C.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redbroker.engine.target import Address

SLOTS = 16_384


def key_slot(key: bytes) -> int:
    """The hash slot of a key."""
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) & (SLOTS - 1)


@dataclass(frozen=True, slots=True)
class Master:
    """One master: its address, the slot ranges it serves (first and last, inclusive) and how many replicas it has.

    `copying` of them have yet to get their copy. `nodes` are the ids of all, the master's first, in a cluster.
    """

    address: Address
    ranges: tuple[tuple[int, int], ...]
    replicas: int
    copying: int = 0
    nodes: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class Topology:
    """All masters, as one server saw them; without a cluster there is one master and one slot, 0.

    `knows_the_away` tells whether replicas that are away were counted, `lost` dead masters that serve no slots: they
    were replaced while away, and on Redis 7.0 nobody knows by whom.
    """

    cluster: bool
    masters: tuple[Master, ...]
    epoch: int = 0
    knows_the_away: bool = True
    lost: tuple[str, ...] = ()


class Shards(NamedTuple):
    """Node ids, those that are away included: the masters that serve slots, each with its replicas; who of them has yet
    to get a copy; and who is lost.
    """

    nodes: tuple[tuple[str, ...], ...] = ()
    copying: frozenset[str] = frozenset()
    lost: tuple[str, ...] = ()


def read_cluster_slots(reply: Sequence[Any], asked: Address, epoch: int, shards: Shards | None) -> Topology:
    """The topology in a CLUSTER SLOTS reply: `[[first, last, [host, port, id, …], replica…]…]`.

    An empty or null host means the host that was asked; "?" is a node whose name is not known yet. CLUSTER SLOTS is
    silent about replicas that are away, so those in `shards` are added (None: unknown).
    """
    known = shards or Shards()
    ranges: dict[Address, list[tuple[int, int]]] = {}
    nodes: dict[Address, dict[str, None]] = {}
    for first, last, *those in reply:
        address = announced(those[0][0], those[0][1], asked)
        if address is None:
            continue
        ranges.setdefault(address, []).append((first, last))
        nodes.setdefault(address, {}).update((node[2].decode(), None) for node in those)
    masters = []
    for address, spans in ranges.items():
        listed = nodes[address]
        first_id = next(iter(listed))
        listed.update((node, None) for shard in known.nodes if first_id in shard for node in shard)
        copying = len(known.copying & listed.keys())
        masters.append(Master(address, tuple(spans), len(listed) - 1, copying, tuple(listed)))
    return Topology(True, tuple(masters), epoch, shards is not None, known.lost)


def read_cluster_shards(reply: Sequence[Any]) -> Shards:
    """Who belongs together in a CLUSTER SHARDS reply, `[[slots, […], nodes, [[id, …, health, …]…]]…]`.

    A master that was replaced while away is in its successor's shard; on Redis 7.0 in one of its own, without slots.
    """
    shards: list[tuple[str, ...]] = []
    copying: set[str] = set()
    lost: list[str] = []
    for fields in reply:
        shard = dict(zip(fields[::2], fields[1::2], strict=True))
        nodes = [dict(zip(node[::2], node[1::2], strict=True)) for node in shard[b"nodes"]]
        health = {node[b"id"].decode(): node[b"health"] for node in nodes}
        if shard[b"slots"]:
            shards.append(tuple(health))
            copying.update(node for node, state in health.items() if state == b"loading")
        else:
            lost += [node for node, state in health.items() if state == b"fail"]
    return Shards(tuple(shards), frozenset(copying), tuple(lost))


def read_cluster_nodes(reply: bytes) -> Shards:
    """The same by CLUSTER NODES, `<id> <address> <flags> <master or -> … <link> [<slots>…]` a line: nobody copies."""
    replicas: dict[str, list[str]] = {}
    masters, lost = [], []
    for line in reply.decode().splitlines():
        node, _, flags, master, *_, state = line.split(" ", 7)
        marks = flags.split(",")
        if "handshake" in marks:
            continue
        if master != "-":
            replicas.setdefault(master, []).append(node)
        elif any(word[0] != "[" for word in state.split()[1:]):
            masters.append(node)
        elif "fail" in marks:
            lost.append(node)
    return Shards(tuple((master, *replicas.get(master, ())) for master in masters), lost=tuple(lost))


def announced(host: bytes | str | None, port: int, asked: Address) -> Address | None:
    """The address a node announces, seen from the server that was asked."""
    name = host.decode() if isinstance(host, bytes) else host
    if name == "?":
        return None
    return Address(name or asked.host, int(port))


def read_redirect(text: str, asked: Address) -> tuple[int, Address | None]:
    """Slot and address of `MOVED 3999 host:port` or `ASK …`."""
    _, slot, place = text.split(" ")[:3]
    host, _, port = place.rpartition(":")
    return int(slot), announced(host, int(port), asked)
