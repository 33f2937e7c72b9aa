"""Group append: the batches that arrive for one partition in one turn of the event loop go in one script call.

Reading a partition's state, asking for the replication id and announcing the new end cost the same for one batch as
for sixty-four; XADD itself is a fifth of it. Producers that wait together therefore pay together, and a lone producer
waits for nobody: the group leaves at the end of the turn it was begun in.

Calls go out behind each other, and one may be refused for a moment (a failover, a barrier) that the next one no longer
meets. Its batches are then out of order, though nobody sent them so: they wait until all calls before them are settled,
and go again.

    713 ─► refused ─────► again ─► stored
    714 ─► out of order ─────────────────► again ─► stored

Where the one before is given up, those that follow are told to try again, too, and not that they are out of order: at
that librdkafka takes a new epoch for all it has to send, and stores twice what was stored without its knowing. So are
they for a while when a worker is gone: the one before may be there, waiting for Redis as long as it may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from redbroker.engine.partition import NOTHING_NEW, Partition
from redbroker.engine.scripts import script
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.engine.connection import Storage
    from redbroker.engine.watermark import Watermark
    from redbroker.wire.records import BatchHeader

GROUP_BATCHES_MAX = 64
GROUP_BYTES_MAX = 4 * 1024 * 1024
NO_PRODUCER = -1
UNSURE_S = 1.0
"""So long after a call has failed, its successors may still be on their way here."""
UNANSWERED_S = 30.0
"""So long clients wait for the answer of a worker that hangs (request.timeout.ms), before they send elsewhere."""
GAPS = frozenset({b"OUT_OF_ORDER_SEQUENCE_NUMBER", b"UNKNOWN_PRODUCER_ID"})
"""Answers to a batch that may only have overtaken the one before it."""
NOT_STORED = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.KAFKA_STORAGE_ERROR})
"""Answers that tell a producer that nothing was written."""


class Appended(NamedTuple):
    """Where a batch was stored: its first offset, the partition's log start, and the leader epoch it got."""

    base_offset: int
    log_start: int
    leader_epoch: int
    duplicate: bool


class Waiting(NamedTuple):
    """One batch in a group, and who waits for its answer."""

    header: BatchHeader
    batch: bytes | memoryview
    answer: asyncio.Future[Appended | KafkaError]


class Group(NamedTuple):
    """What may share a script call: same partition, same copies to wait for, same answer to a lost connection."""

    partition: Partition
    copies: int
    once: bool


class Overtaking(NamedTuple):
    """Batches that wait for all calls with lower numbers than theirs."""

    number: int
    group: Group
    members: list[Waiting]
    timeout_ms: int


class Healing:
    """A partition that is being opened: the groups that came back refused, and those that came meanwhile, in order."""

    __slots__ = ("came", "refused", "settled", "task")

    def __init__(self) -> None:
        self.refused: list[tuple[Group, list[Waiting], int]] = []
        self.came: list[tuple[Group, list[Waiting], int]] = []
        self.settled = asyncio.Event()  # nothing sent before is under way any more
        self.task: asyncio.Task[None] | None = None


class Appends:
    """Collects batches per partition and turn, sends them, and hands each its own answer."""

    def __init__(
        self,
        storage: Storage,
        watermark: Watermark,
        reopen: Callable[[Partition], Awaitable[None]],
        expiration_s: int,
        producers_max: int,
    ) -> None:
        self._storage = storage
        self._watermark = watermark
        self._reopen = reopen
        self._limits = (expiration_s, producers_max)
        self._elsewhere_until_s = 0.0
        self._script = script("append")
        self._groups: dict[Group, list[Waiting]] = {}
        self._timeout_ms: dict[Group, int] = {}
        self._healing: dict[Partition, Healing] = {}
        self._overtaking: dict[Partition, list[Overtaking]] = {}
        self._clock = asyncio.get_running_loop().time

    def submit(
        self, partition: Partition, batch: bytes | memoryview, header: BatchHeader, copies: int, timeout_ms: int
    ) -> asyncio.Future[Appended | KafkaError]:
        """Queue one batch; the future gives `Appended` or a KafkaError as a value, never raises.

        A batch without a producer id cannot be told from its own repetition, so it is sent at most once.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Appended | KafkaError] = loop.create_future()
        group = Group(partition, copies, header.producer_id == NO_PRODUCER)
        if not self._groups:
            loop.call_soon(self._flush)
        self._groups.setdefault(group, []).append(Waiting(header, batch, answer))
        self._timeout_ms[group] = max(timeout_ms, self._timeout_ms.get(group, 0))
        return answer

    def refused(self, partition: Partition) -> None:
        """A batch was refused before it came here: what follows it may come now."""
        partition.failed = (partition.appended, self._clock())

    def worker_gone(self) -> None:
        """A worker is gone, or hangs, or may have before this one began: what batches follow may be under way there."""
        self._elsewhere_until_s = self._clock() + UNANSWERED_S

    async def close(self) -> None:
        """Stop healing; batches already sent are answered by the storage."""
        tasks = [healing.task for healing in self._healing.values() if healing.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closed = KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "The storage was closed.")
        for waiting in self._overtaking.values():
            for each in waiting:
                give(each.members, closed)
        self._overtaking.clear()

    def _flush(self) -> None:
        groups, self._groups = self._groups, {}
        timeouts, self._timeout_ms = self._timeout_ms, {}
        for group, members in groups.items():
            some: list[Waiting] = []
            nbytes = 0
            for member in members:
                if some and (len(some) == GROUP_BATCHES_MAX or nbytes + len(member.batch) > GROUP_BYTES_MAX):
                    self._send(group, some, timeouts[group])
                    some, nbytes = [], 0
                some.append(member)
                nbytes += len(member.batch)
            self._send(group, some, timeouts[group])

    def _send(
        self, group: Group, members: list[Waiting], timeout_ms: int, healed: bool = False, behind: int = 0
    ) -> None:
        """One script call; `behind` is the number of the call whose batches come again, when all before it are settled.

        A producer nobody remembers may begin anywhere only where no batch of it can have been left behind.
        """
        partition, copies, once = group
        if not (healed or behind) and partition in self._healing:
            self._healing[partition].came.append((group, members, timeout_ms))
            return
        alone = not self._unsure(partition, behind) and (behind > 0 or not partition.appending)
        if behind:
            number = behind
        else:
            number = partition.appended = partition.appended + 1
            partition.appending.add(number)
        keys = partition.keys
        replicas = self._watermark.replicas(partition)
        kept = partition.news() if replicas else NOTHING_NEW
        batches = [member.batch for member in members]
        words = [partition.topic.hex, copies, *self._limits, replicas, *kept, 1 if alone else 0, *batches]
        named = (keys.log, keys.state, keys.epochs, keys.producers, keys.times, keys.tail)
        if copies > 1:
            reply: asyncio.Future[Any] = self._storage.run_acked(
                self._script, named, words, replicas=copies - 1, timeout_ms=timeout_ms, once=once
            )
        else:
            reply = self._storage.run(self._script, named, words, once=once)

        def settle(reply: asyncio.Future[Any]) -> None:
            error = None if reply.cancelled() else reply.exception()
            if isinstance(error, KafkaError):
                if error.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION and not (healed or behind):
                    self._heal(group, members, timeout_ms)
                else:
                    self.refused(partition)
                    if error.code in NOT_STORED and getattr(reply, "executed", False):
                        unknown = f"{error.message.rstrip('.')}. It was sent before, and may be stored."
                        error = KafkaError(ErrorCode.REQUEST_TIMED_OUT, unknown)
                    give(members, error)
            elif error is not None or reply.cancelled():
                self.refused(partition)
                give(members, KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR, f"The append failed: {error!r}."))
            else:
                words, acked = reply.result() if copies > 1 else (reply.result(), 0)
                early = self._answer(partition, number, members, words, acked, copies, final=alone or behind > 0)
                if early and partition in self._healing:
                    self._healing[partition].refused.append((group, early, timeout_ms))
                elif early:
                    waiting = self._overtaking.setdefault(partition, [])
                    waiting.append(Overtaking(number, group, early, timeout_ms))
                    self._go_behind(partition)
                    return
            partition.appending.discard(number)
            if partition in self._overtaking:
                self._go_behind(partition)
            if not partition.appending:
                if partition.log_end > partition.proved:
                    self._watermark.pursue_pending(partition)
                if partition in self._healing:
                    self._healing[partition].settled.set()

        reply.add_done_callback(settle)

    def _unsure(self, partition: Partition, number: int) -> bool:
        """Whether a call before this one failed while this one, or its batches, may have been on their way."""
        newest, when = partition.failed
        if not newest and not self._elsewhere_until_s:
            return False
        now = self._clock()
        return 0 < number <= newest or (newest > 0 and now - when < UNSURE_S) or now < self._elsewhere_until_s

    def _answer(
        self, partition: Partition, number: int, members: list[Waiting], reply: list[Any], acked: int, copies: int,
        final: bool,
    ) -> list[Waiting]:  # fmt: skip
        """Hand each its answer; gives those that may only have overtaken what was before them, where that may be."""
        log_start, epoch, _, _, _, *answers = reply
        self._watermark.appended(partition, reply, acked)
        if epoch != partition.epoch:
            partition.heard = 0  # a new leader epoch: look before believing anything
        if acked + 1 < copies:
            few = f"{acked + 1} of {copies} copies (min.insync.replicas) had the batch in time."
            give(members, KafkaError(ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, few))
            return []
        early = []
        for member, answer in zip(members, answers, strict=True):
            if member.answer.done():
                continue
            if isinstance(answer, int):
                member.answer.set_result(Appended(answer, log_start, epoch, False))
            elif isinstance(answer, list):
                member.answer.set_result(Appended(answer[0], log_start, epoch, True))
            elif not final and answer in GAPS:
                early.append(member)
            elif answer == b"UNKNOWN_PRODUCER_ID" or (answer in GAPS and self._unsure(partition, number)):
                missing = f"{partition.name}: what this batch follows failed a moment ago; try again, in order."
                member.answer.set_result(KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, missing))
            else:
                header = member.header
                member.answer.set_result(
                    KafkaError(
                        ErrorCode[answer.decode()],
                        f"{partition.name}: producer {header.producer_id} epoch {header.producer_epoch}"
                        f" sent sequence {header.base_sequence}.",
                    )
                )
        return early

    def _go_behind(self, partition: Partition) -> None:
        """Send what has overtaken again, if it is now the oldest that is not settled."""
        oldest = min(partition.appending)
        waiting = self._overtaking[partition]
        for each in [one for one in waiting if one.number == oldest]:
            waiting.remove(each)
            self._send(each.group, each.members, each.timeout_ms, behind=oldest)
        if not waiting:
            del self._overtaking[partition]

    def _heal(self, group: Group, members: list[Waiting], timeout_ms: int) -> None:
        """The partition was never opened (its creator died in between): open it, then send once more.

        Appends of this partition wait meanwhile, for as long as one sent before is under way: a producer that is new
        here may begin with any sequence, so one that overtook the first would make that one out of order for good.
        """
        healing = self._healing.get(group.partition)
        if healing is None:
            healing = self._healing[group.partition] = Healing()
            healing.task = asyncio.get_running_loop().create_task(self._open(group.partition, healing))
        healing.refused.append((group, members, timeout_ms))

    async def _open(self, partition: Partition, healing: Healing) -> None:
        failure: KafkaError | None = KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "The storage was closed.")
        try:
            try:
                await self._reopen(partition)
                failure = None
            except KafkaError as error:
                failure = error
                self.refused(partition)
            if partition.appending:
                await healing.settled.wait()
        finally:
            del self._healing[partition]
            for group, members, timeout_ms in (*healing.refused, *healing.came):
                if failure is None:
                    self._send(group, members, timeout_ms, healed=True)
                else:
                    give(members, failure)


def give(members: list[Waiting], error: KafkaError) -> None:
    """One answer for everybody in the group."""
    for member in members:
        if not member.answer.done():
            member.answer.set_result(error)
