"""How many copies of a batch acks=all waits for.

A copy is the Redis master itself or one of its replicas. acks=all succeeds when the topic's `min.insync.replicas`
copies hold the batch; unset, all configured copies must (one plus the replicas), because Redis' own election may
promote any replica: with fewer, an acknowledged batch can be lost. `docs/durability.md` tells what each level promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
    """The copies a topic asks for; `replicas_seen` is the fewest replicas any master had at start, dead or alive."""

    __slots__ = ("_min_insync_replicas", "replicas", "source")

    def __init__(self, settings: Settings, replicas_seen: int, source: Source = "seen") -> None:
        self.replicas = replicas_seen if settings.replicas is None else settings.replicas
        self.source: Source = source if settings.replicas is None else "setting"
        self._min_insync_replicas = settings.min_insync_replicas

    @property
    def copies_default(self) -> int:
        """Copies for topics that ask for no number of their own."""
        return self._min_insync_replicas or 1 + self.replicas

    def copies(self, topic: Topic | None = None) -> int:
        """Copies of a batch of this topic (or of metadata), the master included, before acks=all is answered."""
        if topic is None or topic.min_insync_replicas is None:
            return self.copies_default
        return topic.min_insync_replicas

    @property
    def known_from(self) -> str:
        """The reason for `copies_default`, for people."""
        if self._min_insync_replicas is not None:
            return "min_insync_replicas"
        replicas = f"{self.replicas} replica{'' if self.replicas == 1 else 's'}"
        return f"{replicas} {KNOWN_FROM[self.source]}"

    @property
    def replication_factor(self) -> int:
        """Copies that exist of every partition: what Metadata and DescribeConfigs call the replication factor."""
        return 1 + self.replicas
