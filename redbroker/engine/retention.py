"""Retention: old batches go, by `retention.ms` and `retention.bytes`, in steps that never stall Redis.

One script decides and trims (`retain.lua`), so no lease is needed: done twice, late, or by two, it does no harm.
Log starts move to their place at once; what lies below them is freed at `trim_entries_per_s`, all partitions in turn.
Topics that are only compacted keep their log start; what DeleteRecords left below it is still freed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from redbroker.engine.scripts import script
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.counts import JanitorCounts
    from redbroker.engine.partition import Partition
    from redbroker.engine.partitions import Partitions
    from redbroker.engine.pressure import Pressure
    from redbroker.engine.target import Address

log = logging.getLogger(__name__)

ROUND_S_MIN = 5.0
SCAN_BATCHES = 64
STEP_ENTRIES, STEP_BYTES = 250, 4 * 1024 * 1024
"""What one call frees at most: about half a millisecond in which Redis serves nobody else."""
HURRY = 10
"""So many times faster while memory is short."""
FOREVER = -1
AWAY = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT)


class Retention:
    """Trims partitions by the configs of their topics."""

    def __init__(
        self, storage: Storage, partitions: Partitions, settings: Settings, pressure: Pressure, counts: JanitorCounts
    ) -> None:
        self._storage, self._settings, self._pressure, self._counts = storage, settings, pressure, counts
        self._partitions = partitions
        self._script = script("retain")

    async def round(self, partitions: Iterable[Partition]) -> None:
        """Bring these partitions to where their topics' configs want them; what takes too long is left to the next.

        One step after another: between two of them Redis serves everybody else. A partition with more to free goes
        behind the others; those of a node that is away are passed over.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + max(ROUND_S_MIN, self._settings.retention_check_ms / 1000)
        due = deque(partitions)
        away: set[Address] = set()
        while due and loop.time() < ends_s:
            partition = due.popleft()
            master = self._storage.master_of(partition.keys.log)
            if master in away:
                continue
            try:
                freed, more = await self.step(partition)
            except KafkaError as refused:  # deleted meanwhile, or its node is away: the next round sees it again
                log.debug("%s could not be trimmed: %s", partition.name, refused)
                if refused.code in AWAY:
                    away.add(master)
                continue
            if more:
                due.append(partition)
            if freed:
                await asyncio.sleep(freed / self._rate)

    @property
    def _rate(self) -> int:
        return self._settings.trim_entries_per_s * (1 if self._pressure.calm else HURRY)

    async def step(self, partition: Partition) -> tuple[int, bool]:
        """One call: (entries freed, whether another call goes on).

        Where something stays because nobody has proved that replicas have it, that is tried, and another call goes on.
        """
        topic, keys = partition.topic, partition.keys
        ms, nbytes = (topic.retention_ms, topic.retention_bytes) if topic.deleting else (FOREVER, FOREVER)
        named = (keys.log, keys.state, keys.epochs, keys.times, *keys.compaction)
        words = (topic.hex, ms, nbytes, SCAN_BATCHES, STEP_ENTRIES, STEP_BYTES, *self._partitions.proof(partition))
        _, freed, gone, more, held = await self._storage.run(self._script, named, words)
        self._counts.trimmed_entries += freed
        self._counts.trimmed_bytes += gone
        self._counts.trim_steps += 1
        if held:
            before = partition.proved_in, partition.proved
            await self._partitions.prove(partition)
            more = more or (partition.proved_in, partition.proved) > before
        return int(freed), bool(more)
