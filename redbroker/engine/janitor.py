"""The janitor: every worker looks after the partitions it leads; where no worker lives, a process after all of them.

    trims      every retention_check_ms each partition       one script decides and does: no lease (`retention.py`)
    compacts   the dirtiest first, one at a time              under a lease, every step fenced (`compaction.py`)

Who leads what is only a hint that spreads the work (`workers.py`): when a worker dies, the next leader finds the lease
run out and begins anew. Two that believe the same do no harm.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from redbroker.engine.compaction import Compaction, pairs
from redbroker.engine.counts import JanitorCounts
from redbroker.engine.resp import ImpatientCall
from redbroker.engine.retention import HURRY, Retention
from redbroker.engine.scripts import script
from redbroker.errors import KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.partition import Partition
    from redbroker.engine.partitions import Partitions
    from redbroker.engine.pressure import Pressure
    from redbroker.engine.topics import Topics
    from redbroker.engine.workers import Workers

log = logging.getLogger(__name__)


class Dirt(NamedTuple):
    """What look_dirty.lua tells."""

    now_ms: int
    written: int
    trimmed: int
    cleaned_written: int
    ready: int
    first_ms: int
    tombstones: int
    horizons: bytes

    @property
    def dirty_bytes(self) -> int:
        """Bytes a compaction would look at for the first time."""
        return max(0, self.ready - max(self.cleaned_written, self.trimmed))

    @property
    def ratio(self) -> float:
        """Their share of all it would look at: what min.cleanable.dirty.ratio is compared with."""
        clean = max(0, self.cleaned_written - self.trimmed)
        return self.dirty_bytes / max(1, clean + self.dirty_bytes)


class Janitor:
    """Trims and compacts until the engine closes; `counts` tell what it has done."""

    def __init__(
        self,
        storage: Storage,
        partitions: Partitions,
        topics: Topics,
        workers: Workers,
        settings: Settings,
        pressure: Pressure,
    ) -> None:
        self._storage, self._partitions, self._settings = storage, partitions, settings
        self._topics, self._workers, self._pressure = topics, workers, pressure
        self.counts = JanitorCounts()
        self.retention = Retention(storage, partitions, settings, pressure, self.counts)

    async def run(self) -> None:
        """Trim and compact side by side, more often while memory is short; never returns."""
        await asyncio.gather(self._every(self._settings.retention_check_ms, self.trim),
                             self._every(self._settings.compaction_check_ms, self.compact))  # fmt: skip

    async def _every(self, interval_ms: int, work: object) -> None:
        while True:
            hurry = 1 if self._pressure.calm else HURRY
            await asyncio.sleep(interval_ms / 1000 / hurry * random.uniform(0.8, 1.2))
            try:
                await work()  # type: ignore[operator]
            except KafkaError as away:
                log.debug("The janitor's round was cut short: %s", away)
            except Exception:
                log.exception("The janitor's round failed")

    def ours(self) -> Iterator[Partition]:
        """The partitions this process looks after."""
        here, alive = self._workers.node_id, bool(self._workers.live())
        for topic in list(self._topics.all().values()):
            for number in range(topic.partitions):
                if not alive or self._workers.leader(topic.name, number).node_id == here:
                    partition = self._partitions.get(topic, number)
                    partition.topic = topic  # its configs may have changed
                    yield partition

    async def trim(self) -> None:
        """One round of retention."""
        await self.retention.round(list(self.ours()))

    async def compact(self) -> None:
        """Compact what is dirty enough, the dirtiest first."""
        found: list[tuple[float, str, Partition]] = []
        for partition in list(self.ours()):
            if not partition.topic.compacted:
                continue
            try:
                ratio = await self.dirtiness(partition)
            except KafkaError as away:
                log.debug("%s could not be looked at: %s", partition.name, away)
                continue
            if ratio is not None:
                found.append((ratio, str(partition.name), partition))
        for _, _, partition in sorted(found, key=lambda each: -each[0]):
            await self.compact_one(partition)

    async def dirtiness(self, partition: Partition) -> float | None:
        """The dirty share of a partition that is due to be compacted; None where it is not."""
        topic, keys = partition.topic, partition.keys
        named = (keys.log, keys.state, keys.epochs, keys.times)
        dirt = Dirt._make(
            await self._storage.run(
                script("look_dirty"), named, (topic.hex, topic.min_compaction_lag_ms), kind=ImpatientCall
            )
        )
        seen = [ms for _, ms in pairs(dirt.horizons)]
        waits_ms = dirt.now_ms - seen[-1] if seen and dirt.tombstones else -1
        if waits_ms > topic.delete_retention_ms:
            return dirt.ratio
        if dirt.first_ms < 0:
            return None
        overdue = dirt.first_ms and dirt.now_ms - dirt.first_ms > topic.max_compaction_lag_ms
        enough = dirt.dirty_bytes >= self._settings.compaction_dirty_bytes_min
        if overdue or (enough and dirt.ratio > topic.min_cleanable_dirty_ratio):
            return dirt.ratio
        return None

    async def compact_one(self, partition: Partition) -> bool:
        """Compact one partition now, until all its keys were seen; False where that failed (a later round tries again).

        It needs room for what it keeps, so where records are refused nothing is begun.
        """
        if self._pressure.refusal(partition.keys.log) is not None:
            log.warning("%s is not compacted now: Redis has no room for the second copy.", partition.name)
            return False
        try:
            while await Compaction(self._storage, self._partitions, partition, self._settings, self.counts).run():
                pass
        except KafkaError as fault:
            self.counts.compactions_failed += 1
            log.warning("%s could not be compacted: %s", partition.name, fault)
            return False
        return True
