"""The partitions of a consumer as they come and go: by its group, by hand, or all there are of its topics.

take    held ── on_assigned ── fetched, handed out
revoke  held ── the caller is done with its records ── on_revoked ── committed ── dropped
lose    dropped ── on_lost
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence, Set
from typing import TYPE_CHECKING

from redbroker.client.consumer_config import ConsumerConfig, RebalanceListener
from redbroker.client.positions import Position, not_assigned
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.client.hand import Hand
    from redbroker.engine.topics import Topics

__all__ = ["Assignment"]

log = logging.getLogger(__name__)


class Assignment:
    """Changes `positions`; `nudge` is called after each change, `commit_done` awaited before partitions are given up.

    `topics` is known while the consumer is open.
    """

    def __init__(
        self, config: ConsumerConfig, positions: dict[TopicPartition, Position], hand: Hand,
        commit_done: Callable[[Collection[TopicPartition]], Awaitable[None]], nudge: Callable[[], None],
    ) -> None:  # fmt: skip
        self._config, self._positions, self._hand = config, positions, hand
        self._commit_done, self._nudge = commit_done, nudge
        self.listener = RebalanceListener()
        self.topics: Topics | None = None

    def add(self, partitions: Collection[TopicPartition], *, held: bool = False) -> None:
        """These are read from now on."""
        for each in sorted(partitions):
            topic = self.topics.get(each.topic) if self.topics is not None else None
            self._positions[each] = Position(each, topic)
            self._positions[each].held = held
        self._nudge()

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """These are no longer read."""
        for each in partitions:
            gone = self._positions.pop(each, None)
            if gone is not None:
                self._hand.let_go(gone)
        self._nudge()

    def become(self, wanted: Set[TopicPartition]) -> None:
        """Exactly these are read; those that were read already go on where they are."""
        self.drop(self._positions.keys() - wanted)
        self.add(wanted - self._positions.keys())

    def named(self, partitions: Sequence[TopicPartition]) -> list[Position]:
        """The positions of these, of all where none is named; what is not assigned is refused."""
        for each in partitions:
            if each not in self._positions:
                raise not_assigned(each)
        return [self._positions[each] for each in partitions or tuple(self._positions)]

    def let_go(self, partitions: Sequence[TopicPartition]) -> list[Position]:
        """`named`, about to be moved: what the caller has of them counts no more."""
        found = self.named(partitions)
        for each in found:
            self._hand.let_go(each)
        return found

    # --- by the group --------------------------------------------------------------------------------------------

    async def take(self, partitions: frozenset[TopicPartition]) -> None:
        """The group gave these; the listener may seek before anything is read."""
        self.add(partitions, held=True)
        try:
            await self.listener.on_assigned(sorted(partitions))
        finally:
            for each in partitions & self._positions.keys():
                self._positions[each].held = False
            self._nudge()

    async def revoke(self, partitions: frozenset[TopicPartition]) -> None:
        """Give up partitions: the caller first gets to be done with what it has of them."""
        going = [self._positions[each] for each in sorted(partitions) if each in self._positions]
        try:
            for each in going:
                self._hand.put_back(each)
                each.held = True
                each.forget_buffer()
            try:
                async with asyncio.timeout(self._config.rebalance_timeout_ms / 1000 / 2):
                    while any(each.in_hand for each in going):
                        self._hand.settled.clear()
                        await self._hand.settled.wait()
            except TimeoutError:
                unfinished = ", ".join(str(each.partition) for each in going if each.in_hand)
                log.warning("Records of %s are given up unfinished: rebalance_timeout_ms is too short.", unfinished)
            await self.listener.on_revoked(sorted(partitions))
            if self._config.enable_auto_commit:
                await self._commit_done(partitions)
        finally:
            self.drop(partitions)

    async def lose(self, partitions: frozenset[TopicPartition]) -> None:
        """The group gave these to somebody else already."""
        self.drop(partitions)
        await self.listener.on_lost(sorted(partitions))

    # --- without a group -----------------------------------------------------------------------------------------

    async def follow(self, names: Collection[str]) -> None:
        """Every partition of these topics, also those to come."""
        assert self.topics is not None
        changed = asyncio.Event()
        unwatch = self.topics.watch(changed.set)
        try:
            while True:
                changed.clear()
                self.adopt(names)
                await changed.wait()
        finally:
            unwatch()

    def adopt(self, names: Collection[str]) -> None:
        """What there is of these topics now."""
        assert self.topics is not None
        found = [topic for name in names if (topic := self.topics.get(name)) is not None]
        self.become({TopicPartition(topic.name, number) for topic in found for number in range(topic.partitions)})
