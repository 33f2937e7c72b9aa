"""Hash slots and who serves them.

A key's slot is CRC16/XMODEM of its hash tag (the part between the first `{` and the next `}`, when not empty) or of
the whole key, modulo 16384: the Redis Cluster specification. `binascii.crc_hqx` is that CRC, in C.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    """One master: its address, the slot ranges it serves (first and last, inclusive) and how many replicas it has."""

    address: Address
    ranges: tuple[tuple[int, int], ...]
    replicas: int


@dataclass(frozen=True, slots=True)
class Topology:
    """All masters, as one server saw them; without a cluster there is one master and one slot, 0.

    `knows_the_away` tells whether replicas that are away were counted.
    """

    cluster: bool
    masters: tuple[Master, ...]
    epoch: int = 0
    knows_the_away: bool = True


def read_cluster_slots(reply: Sequence[Any], asked: Address, epoch: int, configured: int | None = 0) -> Topology:
    """The topology in a CLUSTER SLOTS reply: `[[first, last, [host, port, id, …], replica…]…]`.

    An empty or null host means the host that was asked; "?" is a node whose name is not known yet. CLUSTER SLOTS is
    silent about replicas that are away, so a master has at least the `configured` ones (None: unknown).
    """
    ranges: dict[Address, list[tuple[int, int]]] = {}
    replicas: dict[Address, int] = {}
    for first, last, master, *others in reply:
        address = announced(master[0], master[1], asked)
        if address is None:
            continue
        ranges.setdefault(address, []).append((first, last))
        replicas[address] = min(replicas.get(address, len(others)), len(others))
    masters = (
        Master(address, tuple(spans), max(replicas[address], configured or 0)) for address, spans in ranges.items()
    )
    return Topology(True, tuple(masters), epoch, configured is not None)


def read_cluster_shards(reply: Sequence[Any]) -> int:
    """The fewest replicas of a master in a CLUSTER SHARDS reply, `[[slots, […], nodes, [node…]]…]`, dead ones included.

    A master that was replaced while away is in its successor's shard, or, on Redis 7.0, in one of its own without
    slots: then it counts where replicas are fewest.
    """
    shards = [dict(zip(shard[::2], shard[1::2], strict=True)) for shard in reply]
    replicas = sorted(len(shard[b"nodes"]) - 1 for shard in shards if shard[b"slots"])
    alone = [
        dict(zip(node[::2], node[1::2], strict=True))
        for shard in shards
        if not shard[b"slots"]
        for node in shard[b"nodes"]
    ]
    for _ in range(sum(node[b"health"] == b"fail" for node in alone) if replicas else 0):
        replicas[0] += 1
        replicas.sort()
    return replicas[0] if replicas else 0


def read_cluster_nodes(reply: bytes) -> int:
    """The same by CLUSTER NODES, `<id> <address> <flags> <master or -> … <link> [<slots>…]` a line."""
    replicas: dict[str, int] = {}
    followed, alone = [], 0
    for line in reply.decode().splitlines():
        node, _, flags, master, *_, state = line.split(" ", 7)
        marks = flags.split(",")
        if "handshake" in marks:
            continue
        if master != "-":
            followed.append(master)
        elif any(word[0] != "[" for word in state.split()[1:]):
            replicas[node] = 0
        else:
            alone += "fail" in marks
    for master in followed:
        if master in replicas:
            replicas[master] += 1
    fewest = sorted(replicas.values())
    for _ in range(alone if fewest else 0):
        fewest[0] += 1
        fewest.sort()
    return fewest[0] if fewest else 0


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
