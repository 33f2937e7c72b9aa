"""Membership of a group, by the consumer protocol (KIP-848), through the same machines as the Kafka door's members.

    tend ── heartbeat ──► what to read ──► reconcile ── give up first, tell so, then take
     ▲                                                        │
     └── news of the group, a change of topics, or the interval ─┘

The heartbeats run in a task of their own, so that a slow listener or a busy caller does not end the session. A
partition is given up when the caller is done with its records, or after half of `rebalance_timeout_ms`. Change in the
group is heard at once, on its wake channel: joins settle in milliseconds, not in heartbeat intervals.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from redbroker.client.fetching import Rest
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.assignors import NONE, Partitions
from redbroker.machines.consumer_group import ConsumerHeartbeat, Heard
from redbroker.machines.reconciliation import LEAVE, LEAVE_STATIC
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.client.consumer_config import ConsumerConfig
    from redbroker.engine import Engine

__all__ = ["Membership"]

log = logging.getLogger(__name__)

SPREAD_S = 0.005
RETRY_S = 0.1
FENCED = frozenset({ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH})
"""The group goes on without this member: it joins again."""

Change = Callable[[frozenset[TopicPartition]], Awaitable[None]]


class Membership:
    """One member of one group. `revoke`, `take` and `lose` are awaited with the partitions that go or come."""

    def __init__(
        self, engine: Engine, config: ConsumerConfig, topics: tuple[str, ...], pattern: str | None,
        revoke: Change, take: Change, lose: Change,
    ) -> None:  # fmt: skip
        assert config.group_id is not None
        self._engine, self._config, self.group = engine, config, config.group_id
        self._topics, self._pattern = topics, pattern
        self._revoke, self._take, self._lose = revoke, take, lose
        self.member_id, self.epoch = str(uuid4()), 0
        self.owned: Partitions = NONE
        self.target: Partitions = NONE
        self.settled = False
        self.fatal: KafkaError | None = None
        self.last_error: KafkaError | None = None
        self.rest = Rest()
        self._told_owned = True  # whether the group knows what is owned now
        self._reconciling: asyncio.Task[None] | None = None
        self._names: dict[str, str] = {}  # of the topics read so far, by id
        self._heard_s = 0.0
        self._told_late_of = -1.0  # the silence, by its beginning, that was told last
        self._answered = asyncio.Event()
        settings = engine.settings
        self._session_s = settings.group_consumer_session_timeout_ms / 1000
        self._steady_s = min(settings.group_consumer_heartbeat_interval_ms / 1000, self._session_s / 3)
        self._settle_s = min(settings.group_consumer_settle_interval_ms / 1000, self._steady_s)

    @property
    def rebalancing(self) -> bool:
        """Whether partitions are still to come or to go."""
        return self.epoch <= 0 or not self.settled or self.owned != self.target

    async def run(self) -> None:
        """Be a member until cancelled, or until `fatal`."""
        unwatch = self._engine.topics.watch(self.rest.end)
        unreleased_s = asyncio.get_running_loop().time() + 2 * self._session_s
        try:
            while self.fatal is None:
                mark = self._engine.groups.mark(self.group)
                try:
                    await self._beat()
                except KafkaError as error:
                    await self._refused(error, unreleased_s)
                    continue
                wait_s = self._steady_s if self.settled else self._settle_s
                await self.rest.of(self._engine.groups.news(self.group, mark, wait_s))
                await asyncio.sleep(random.uniform(0, SPREAD_S))  # many members hear the same news
        finally:
            unwatch()
            if self._reconciling is not None:
                self._reconciling.cancel()
                await asyncio.wait({self._reconciling})

    async def _beat(self) -> None:
        """One heartbeat, and what comes of it."""
        late = self._late()
        told, owned = self._told_owned, self.owned
        heard: Heard = await self._engine.heartbeats.hear(self.group, self._heartbeat(told))
        if not late:
            self._late()  # the loop may as well stand still while a heartbeat is on its way
        self._heard_s = asyncio.get_running_loop().time()
        if not told and self.owned == owned:
            self._told_owned = True
        self.epoch, self.settled, self.last_error = heard.member_epoch, heard.settled, None
        if heard.assigned is not None:
            if any(self._engine.topics.by_id(UUID(topic)) is None for topic, _ in heard.assigned):
                await self._engine.topics.reload()  # another process made it a moment ago
            self.target = heard.assigned
        self._answered.set()
        if self.target != self.owned and (self._reconciling is None or self._reconciling.done()):
            self._reconciling = asyncio.create_task(self._reconcile())

    def _late(self) -> bool:
        """Whether the session may be over by now; told with its cause, once."""
        late_s = asyncio.get_running_loop().time() - self._heard_s
        if self.epoch <= 0 or late_s <= self._session_s:
            return False
        if self._told_late_of == self._heard_s:
            return True
        self._told_late_of = self._heard_s
        log.warning(
            "Group %r: no heartbeat for %.1f s, longer than the session of %.1f s: the event loop was blocked, or"
            " Redis was away. Code that computes for long belongs in a thread.",
            self.group, late_s, self._session_s,
        )  # fmt: skip
        return True

    def _heartbeat(self, told: bool) -> ConsumerHeartbeat:
        config, joins = self._config, self.epoch == 0
        return ConsumerHeartbeat(
            self.member_id, self.epoch, config.group_instance_id,
            rack_id=config.client_rack if joins else None,
            rebalance_timeout_ms=config.rebalance_timeout_ms if joins else -1,
            topics=self._topics if joins else None,
            pattern=self._pattern if joins else None,
            assignor=config.group_remote_assignor if joins else None,
            owned=NONE if joins else None if told else self.owned,
            client_id=config.client_id,
            client_host="sdk",
            catalogue=self._engine.topics.all(),
        )  # fmt: skip

    async def _refused(self, error: KafkaError, unreleased_s: float) -> None:
        """Join again, wait, or give up, as the refusal asks for."""
        self.last_error = error
        if error.code in FENCED:
            log.warning("Group %r goes on without member %s, which joins again: %s", self.group, self.member_id, error)
            await self._out()
        elif error.retriable:
            await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))
        elif (
            error.code is ErrorCode.UNRELEASED_INSTANCE_ID and asyncio.get_running_loop().time() < unreleased_s
        ):  # its last life was killed: its session ends soon
            await asyncio.sleep(RETRY_S)
        else:
            await self._out()
            self.fatal = error

    async def _out(self) -> None:
        """The partitions are somebody else's by now."""
        if self._reconciling is not None:
            self._reconciling.cancel()
            await asyncio.wait({self._reconciling})
        lost, self.epoch, self.settled = self.owned, 0, False
        self.owned = self.target = NONE
        self._told_owned = True
        if lost:
            await self._safely(self._lose, self._named(lost))

    async def _reconcile(self) -> None:
        """From what is owned to what shall be: give up, have that told, take."""
        while self.owned != self.target:
            gone = self.owned - self.target
            if gone:
                await self._safely(self._revoke, self._named(gone))
                self.owned -= gone
                self._told_owned = False
                self.rest.end()
                continue
            come = self.target - self.owned
            self.owned |= come
            await self._safely(self._take, self._named(come))

    async def _safely(self, change: Change, partitions: frozenset[TopicPartition]) -> None:
        """A listener that fails must not end the membership."""
        try:
            await change(partitions)
        except Exception:
            log.exception("Group %r: a rebalance listener failed.", self.group)

    def _named(self, partitions: Partitions) -> frozenset[TopicPartition]:
        """Partitions by topic name; those of deleted topics by the name they had."""
        for topic_id, _ in partitions:
            if (topic := self._engine.topics.by_id(UUID(topic_id))) is not None:
                self._names[topic_id] = topic.name
        return frozenset(
            TopicPartition(self._names[topic_id], number) for topic_id, number in partitions if topic_id in self._names
        )

    async def caught_up(self) -> None:
        """Return after the next answered heartbeat: the member epoch may have moved."""
        self._answered.clear()
        self.rest.end()
        await self._answered.wait()

    async def leave(self) -> None:
        """Out of the group; a static member keeps its place for its session."""
        if self.epoch <= 0:
            return
        epoch = LEAVE if self._config.group_instance_id is None else LEAVE_STATIC
        try:
            await self._engine.heartbeats.hear(
                self.group, ConsumerHeartbeat(self.member_id, epoch, self._config.group_instance_id)
            )
        except KafkaError as error:
            log.debug("Group %r was left without a good-bye: %s", self.group, error)
        self.epoch, self.owned, self.target = 0, NONE, NONE
