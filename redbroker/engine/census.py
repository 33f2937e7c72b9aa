"""How many replicas each master has, followed while the process lives: the most that were ever seen of it.

Redis may promote any replica of a master, so acks=all waits for all of them, also for one that was added a moment ago.
The count only rises: what is missing later is a replica that is away, or a master that was replaced.

    a, replicas b c      d, replica e                   a 2   d 1    (c has got its copy; before, it was not counted)
    b, replica c         d, replica e    a is dead      b 2   d 1    (b followed a, and has inherited its count)

A count belongs to node ids: whoever follows a master may be its successor. A replica counts from the first time that
it is in step, or acks=all would be refused while it loads its copy; of a master never seen before all replicas count.
One that was removed or moved to another master is forgotten when the process starts again.

A cluster and the Sentinels know their dead; a single server lists only replicas that are connected now. A worker that
started while one is away would take acks=all for acks=1. So what was seen there is kept in Redis too
(`rb:{meta}:replicas`), raised by whoever sees more, at start and every `metadata_refresh_ms`, and taken over by
everybody: it is forgotten by `DEL rb:{meta}:replicas` and a restart of the workers. The setting `replicas` counts more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from redbroker.engine.discovery import connected
from redbroker.engine.scripts import script
from redbroker.engine.slots import SLOTS
from redbroker.errors import KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.durability import Durability
    from redbroker.engine.keys import MetaKeys
    from redbroker.engine.slots import Master, Topology

ALL_SLOTS = ((0, SLOTS - 1),)

log = logging.getLogger(__name__)


class Census:
    """Keeps `durability` at the most replicas that were ever seen of each master."""

    def __init__(self, storage: Storage, keys: MetaKeys, settings: Settings, durability: Durability) -> None:
        self._storage, self._key, self._durability = storage, keys.replicas, durability
        self._pause_s = settings.metadata_refresh_ms / 1000
        self._known: dict[str, int] = {}  # by node id: the replicas of the master it is, or follows
        self._kept = 0  # the most in Redis
        self._all_wanted = settings.min_insync_replicas is None
        embedded = settings.storage_url.startswith("embedded:")
        self.needed = settings.replicas is None and not embedded

    async def start(self) -> None:
        """Count what is there, and from now on whatever the storage sees of the topology."""
        if not self._storage.knows_the_away:
            await self._keep(self._storage.replicas)
        self.count(self._storage.topology)
        self._storage.on_refresh(self.count)

    async def run(self) -> None:
        """Look again from time to time; never returns."""
        while True:
            await asyncio.sleep(self._pause_s)
            self._storage.refresh_soon()  # a single server has no topology to read
            if self._storage.knows_the_away:
                continue
            try:
                await self._keep(await self._in_step())
            except KafkaError as away:
                log.debug("The replicas could not be counted: %s", away)
            else:
                self.count(self._storage.topology)

    def count(self, topology: Topology) -> None:
        """Take over what a server told of its masters, where it is more than was known."""
        least = self._kept
        if not self._known:
            least = max(least, _fewest(topology))
        counts: dict[Master, int] = {}
        for master in topology.masters:
            known = self._known.get(master.nodes[0])
            seen = master.replicas if known is None else max(known, master.replicas - master.copying)
            counts[master] = max(seen, least)
        for master, replicas in counts.items():
            if self._all_wanted and replicas > self._known.get(master.nodes[0], replicas):
                copies = 1 + replicas
                log.warning("%s got a replica: acks=all waits for %d copies from now on.", master.address, copies)
            self._known.update(dict.fromkeys(master.nodes, replicas))
        self._durability.learn(
            (master.ranges if topology.cluster else ALL_SLOTS, replicas) for master, replicas in counts.items()
        )

    async def _keep(self, seen: int) -> None:
        """Note in Redis what is seen now, and take over what was."""
        self._kept = await self._storage.run(script("note_replicas"), (self._key,), (seen,))

    async def _in_step(self) -> int:
        """Those that have got their copy, where they can be told apart."""
        if self._storage.cluster:
            return self._storage.replicas
        replicas, copying = connected(await self._storage.call(self._key, "INFO", "replication"))
        return replicas - copying


def _fewest(topology: Topology) -> int:
    """The least that any master has. Whom the lost will follow nobody knows: they count where replicas are fewest."""
    fewest = sorted(master.replicas for master in topology.masters)
    for _ in topology.lost:
        fewest[0] += 1
        fewest.sort()
    return fewest[0]
