"""Commits of a consumer: what the caller asks for, and what it is done with, from time to time.

A commit of a member carries its member epoch, so that what went to somebody else is never committed over. While Redis
is away, or when the epoch has just moved on, it is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from redbroker.client.positions import Position, not_assigned
from redbroker.client.types import OffsetAndMetadata
from redbroker.engine.offsets import NOTHING, Commit, Committed
from redbroker.errors import ErrorCode, KafkaError
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.client.consumer_config import ConsumerConfig
    from redbroker.client.hand import Hand
    from redbroker.client.membership import Membership
    from redbroker.engine import Engine

__all__ = ["Commits", "Offsets"]

log = logging.getLogger(__name__)

ATTEMPTS = 20
STEP_S = 0.05
Offsets = Mapping[TopicPartition, OffsetAndMetadata | int]


class Commits:
    """The committed offsets of `config.group_id`; `engine` raises while the consumer is not open."""

    def __init__(
        self, config: ConsumerConfig, positions: dict[TopicPartition, Position], hand: Hand,
        engine: Callable[[], Engine],
    ) -> None:  # fmt: skip
        self._config, self._positions, self._hand, self._engine = config, positions, hand, engine
        self.membership: Membership | None = None
        """Whose epoch the commits carry; None: a group of no members, only of offsets."""
        self._pending: set[asyncio.Task[None]] = set()

    # --- for the caller ------------------------------------------------------------------------------------------

    async def commit(self, offsets: Offsets | None, timeout_ms: float | None = None) -> None:
        """These offsets of next records, or the position after everything that was handed out."""
        await self._commit_within(self._wanted(offsets), timeout_ms)

    def commit_nowait(self, offsets: Offsets | None) -> asyncio.Task[None]:
        """`commit` in the background, of what was handed out by now."""
        task = asyncio.create_task(self._commit_within(self._wanted(offsets), None))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        task.add_done_callback(_tell_failure)
        return task

    def _wanted(self, offsets: Offsets | None) -> dict[TopicPartition, OffsetAndMetadata]:
        if offsets is not None:
            return {
                TopicPartition(*each): OffsetAndMetadata(given) if isinstance(given, int) else given
                for each, given in offsets.items()
            }
        self._hand.settle()
        return {
            each.partition: OffsetAndMetadata(each.position, "", each.epoch)
            for each in self._positions.values() if each.placed
        }  # fmt: skip

    async def _commit_within(self, wanted: dict[TopicPartition, OffsetAndMetadata], timeout_ms: float | None) -> None:
        bound_ms = self._config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        try:
            async with asyncio.timeout(bound_ms / 1000):
                await self._commit(wanted)
        except TimeoutError:
            name = "default_api_timeout_ms" if timeout_ms is None else "timeout_ms"
            message = (
                f"Group {self._group!r}: not committed within {name} ({bound_ms:.0f}): Redis did not answer in time."
            )
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, message) from None

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed; None where nothing is."""
        found = await self._engine().offsets.fetch(self._group, partitions)
        return {
            each: OffsetAndMetadata(what.offset, what.metadata, what.leader_epoch) if what.offset >= 0 else None
            for each, what in found.items()
        }

    # --- by itself -----------------------------------------------------------------------------------------------

    async def commit_done(self, partitions: Collection[TopicPartition]) -> None:
        """Commit what the caller is done with; a failure is logged, for nobody waits for it."""
        if not (self._config.group_id and self._config.enable_auto_commit):
            return
        self._hand.settle()
        due = {
            each.partition: OffsetAndMetadata(each.done, "", each.epoch)
            for each in map(self._positions.get, partitions)
            if each is not None and each.placed and each.done != each.committed
        }
        try:
            await self._commit(due)
        except KafkaError as error:
            log.warning("Group %r: offsets could not be committed automatically: %s", self._config.group_id, error)

    async def now_and_then(self) -> None:
        """`commit_done` of everything, at each interval."""
        while True:
            await asyncio.sleep(self._config.auto_commit_interval_ms / 1000)
            await self.commit_done(tuple(self._positions))

    async def last(self, partitions: list[TopicPartition]) -> dict[TopicPartition, Committed]:
        """Where reading begins: what the group has committed, nothing without a group."""
        if self._config.group_id is None:
            return dict.fromkeys(partitions, NOTHING)
        return await self._engine().offsets.fetch(self._config.group_id, partitions)

    async def pending(self) -> None:
        """Return when no commit is under way in the background."""
        if self._pending:
            await asyncio.wait(self._pending)

    def give_up(self) -> None:
        """Wait no longer for what is under way."""
        for task in self._pending:
            task.cancel()

    # --- inside --------------------------------------------------------------------------------------------------

    @property
    def _group(self) -> str:
        if self._config.group_id is None:
            raise KafkaError(ErrorCode.INVALID_GROUP_ID, "Committed offsets belong to a group: set group_id.")
        return self._config.group_id

    async def _commit(self, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit, again while Redis is away or the member epoch has just moved on."""
        group = self._group
        commits = [
            Commit(each.topic, each.partition, at.offset, at.leader_epoch, at.metadata) for each, at in wanted.items()
        ]
        for attempt in range(ATTEMPTS + 1):
            membership = self.membership
            for each in wanted if membership is not None else ():
                if each not in self._positions:
                    raise not_assigned(each)
            if not commits:
                return
            member, epoch = (membership.member_id, membership.epoch) if membership else ("", -1)
            try:
                refusals = await self._engine().offsets.commit(
                    group, commits, member_id=member, epoch=epoch, instance_id=self._config.group_instance_id
                )
            except KafkaError as error:
                stale = error.code is ErrorCode.STALE_MEMBER_EPOCH and membership is not None
                if attempt == ATTEMPTS or not (stale or error.retriable):
                    raise
                if stale and membership is not None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await membership.caught_up()
                else:
                    await asyncio.sleep(STEP_S * (attempt + 1))
                continue
            for refusal in refusals:
                if refusal is not None:
                    raise refusal
            self._note(wanted)
            return

    def _note(self, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        for partition, at in wanted.items():
            if (each := self._positions.get(partition)) is not None:
                each.committed = at.offset
                each.done = max(each.done, min(at.offset, each.position))
        self._hand.settled.set()


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.warning("A commit failed: %s", error)
