"""Heartbeats of the consumer protocol (KIP-848), whichever door they come through: the short way where it is enough.

    hear ── plain ── beat_group.lua ──► nothing to tell                      one small script, no load of the group
         └─ else ── the group's machine ──► Heard

A group's target depends on the topics there are. The cache of topics counts its changes; a heartbeat that finds its
group behind that count has the group look again. Nothing is lost when this memory is: a group looks once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redbroker.machines.consumer_group import ConsumerHeartbeat, Heard, Refresh

if TYPE_CHECKING:
    from redbroker.engine.groups import Groups
    from redbroker.engine.topics import Topics

GROUPS_MAX = 100_000
"""Groups remembered; the ones remembered longest are forgotten first."""


class Heartbeats:
    """The heartbeats that reach one process: `engine.heartbeats`."""

    def __init__(self, groups: Groups, topics: Topics) -> None:
        self._groups, self._topics = groups, topics
        self.seen = GroupTopics(topics)

    async def hear(self, group: str, heartbeat: ConsumerHeartbeat) -> Heard:
        """What a member is told; its refusals are the machine's and those of `Groups.beat`."""
        if heartbeat.member_epoch > 0:
            await self._show_topics(group)
            steady = await self._groups.beat(group, heartbeat.member_id, heartbeat.member_epoch, heartbeat.instance_id)
            if steady and heartbeat.plain:
                return Heard(heartbeat.member_id, heartbeat.member_epoch)
        if heartbeat.topics is not None or heartbeat.pattern:
            await self._topics.reload()
        heard: Heard = await self._groups.ask(group, heartbeat)
        return heard

    async def _show_topics(self, group: str) -> None:
        """Have the group look at topics it has not seen."""
        if self.seen.behind(group):
            await self._topics.reload()
            version = self.seen.version  # what changes while the group looks, it may not have seen
            await self._groups.ask(group, Refresh(self._topics.all()))
            self.seen.shown(group, version)


class GroupTopics:
    """The version of the topic cache each group was last shown by this process."""

    __slots__ = ("_seen", "_topics")

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._seen: dict[str, int] = {}

    def behind(self, group: str) -> bool:
        """True while the group has not been shown the topics as this process knows them."""
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
