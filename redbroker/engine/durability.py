"""How many copies of a batch acks=all waits for.

A copy is the Redis master itself or one of its replicas. acks=all succeeds when the topic's `min.insync.replicas`
copies hold the batch; unset, all copies must (one plus the replicas of the master that has it), because Redis' own
election may promote any replica: with fewer, an acknowledged batch can be lost. `docs/durability.md` tells what each
level promises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from redbroker.engine.slots import SLOTS

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.topics import Topic


Source = Literal["setting", "cluster", "sentinel", "seen"]
"""Who tells how many replicas there are; `seen`: nobody but what was connected at some time (see `census.py`)."""

KNOWN_FROM = {
    "setting": "by the setting replicas",
    "cluster": "by the cluster",
    "sentinel": "by Sentinel",
    "seen": "seen so far",
}


class Durability:
    """The copies a topic asks for. A slot has as many replicas as the master that serves it (see `census.py`)."""

    __slots__ = ("_by_slot", "_min_insync_replicas", "replicas_max", "replicas_min", "source")

    def __init__(self, settings: Settings, replicas_seen: int, source: Source = "seen") -> None:
        self.replicas_min = self.replicas_max = replicas_seen if settings.replicas is None else settings.replicas
        """Of the master that has the fewest, and of the one that has the most."""
        self.source: Source = source if settings.replicas is None else "setting"
        self._by_slot = [self.replicas_min] * SLOTS
        self._min_insync_replicas = settings.min_insync_replicas

    def learn(self, masters: Iterable[tuple[Sequence[tuple[int, int]], int]]) -> None:
        """Take over how many replicas each master has: the ranges of its slots, and the number."""
        replicas = []
        for ranges, number in masters:
            replicas.append(number)
            for first, last in ranges:
                self._by_slot[first : last + 1] = [number] * (last + 1 - first)
        self.replicas_min, self.replicas_max = min(replicas), max(replicas)

    def replicas(self, slot: int) -> int:
        """The replicas of the master that serves a slot."""
        return self._by_slot[slot]

    def copies(self, topic: Topic | None, slot: int) -> int:
        """Copies, the master included, of a batch of this topic (or of metadata) before acks=all is answered."""
        if topic is not None and topic.min_insync_replicas is not None:
            return topic.min_insync_replicas
        return self._min_insync_replicas or 1 + self._by_slot[slot]

    @property
    def copies_default(self) -> int:
        """Copies for topics that ask for no number of their own, on the master with the fewest."""
        return self._min_insync_replicas or 1 + self.replicas_min

    @property
    def known_from(self) -> str:
        """The reason for the copies, for people."""
        if self._min_insync_replicas is not None:
            return "min_insync_replicas"
        return f"{counted(self.replicas_min, self.replicas_max, 'replica', 'replicas')} {KNOWN_FROM[self.source]}"

    @property
    def replication_factor(self) -> int:
        """Copies that exist of every partition: what Metadata and DescribeConfigs call the replication factor."""
        return 1 + self.replicas_min

    def __str__(self) -> str:
        most = self._min_insync_replicas or 1 + self.replicas_max
        return f"{counted(self.copies_default, most, 'copy', 'copies')} ({self.known_from})"


def counted(fewest: int, most: int, one: str, many: str) -> str:
    """So many of something: `1 copy`, `2 copies`, `1 to 2 copies`."""
    return f"{fewest} {one if fewest == 1 else many}" if fewest == most else f"{fewest} to {most} {many}"
