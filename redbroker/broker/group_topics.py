"""Which groups have heard of the topics as they are now: created, grown and deleted topics reach KIP-848 groups here.

A group's target depends on the topics there are. The cache of topics counts its changes; a heartbeat that finds its
group behind that count has the group look again. Nothing is lost when this memory is: a group looks once more.
"""

from __future__ import annotations

from redbroker.engine.topics import Topics

GROUPS_MAX = 100_000
"""Groups remembered; the ones remembered longest are forgotten first."""


class GroupTopics:
    """The version of the topic cache each group was last shown by this worker."""

    __slots__ = ("_seen", "_topics")

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._seen: dict[str, int] = {}

    def behind(self, group: str) -> bool:
        """True while the group has not been shown the topics as this worker knows them."""
        return self._seen.get(group) != self._topics.version

    @property
    def version(self) -> int:
        """The topics as they are now; to be told `shown` once a group has seen them."""
        return self._topics.version

    def shown(self, group: str, version: int) -> None:
        """The group has been shown the topics as they were at this version, at least."""
        self._seen.pop(group, None)
        self._seen[group] = version
        if len(self._seen) > GROUPS_MAX:
            del self._seen[next(iter(self._seen))]
