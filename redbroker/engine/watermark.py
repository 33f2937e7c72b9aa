"""The high watermark: how far a log is held by as many copies as acks=all asks for. Readers see no record beyond it.

A record that only the master has may be lost in a failover a moment after somebody read it. So where a topic's
batches have replicas, the log ends for readers where it is *proved* to be held by them. Without replicas the high
watermark is the log end, and nothing here costs anything.

    acks=all   append.lua ── WAIT ──►  its answer proves the end it told
    acks=0, 1  SPUBLISH ──► pursue ──► confirm.lua ── WAIT ──►  proves the end confirm.lua told, and those that answers
                            to this process's appends told before under the same replication id
                            (only while somebody reads; one round per Redis node at a time, all its partitions together)

End and leader epoch come from one script, and the WAIT behind it speaks of that script's own write, on its own
connection: what is proved is proved of this log in this epoch, whatever fails over meanwhile. Each worker proves for
itself and shares nothing; appends and confirmations keep what is known beside the log (`confirmed`), which others take
over when they look, and which is left when no replica is.

With too few good replicas nothing can be proved: the high watermark stands still, readers wait, as in Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redbroker.engine.partition import Told
from redbroker.engine.partitions import PARTITIONS_CACHED_MAX
from redbroker.engine.scripts import script
from redbroker.errors import KafkaError

if TYPE_CHECKING:
    from redbroker.engine.connection import Storage
    from redbroker.engine.partition import Partition
    from redbroker.engine.partitions import Look
    from redbroker.engine.tail import Tail
    from redbroker.engine.target import Address
    from redbroker.engine.topics import Topic

WAIT_MS = 200
ROUND_S = 0.005
"""Rounds begin so far apart: the first record after a pause is proved at once, a stream of them takes little."""
BUSY_ROUND_S = 0.03
BUSY_CALLS_PER_S = 400
"""A round costs worker and master about as much as a call with eight batches. So from so many append calls a second on
rounds become rarer, the more the more there are, down to one in `BUSY_ROUND_S`: few records are late, by little.
"""
PAUSE_S = 0.05
PURSUED_AT_ONCE = 1_000


class Round(NamedTuple):
    """When the last round at a node began, how many appends there had been by then, and how long it lasts at least."""

    begun_s: float
    appended: int
    period_s: float

    def next(self, now_s: float, appended: int) -> Round:
        """The round that begins now."""
        calls_per_s = (appended - self.appended) / max(now_s - self.begun_s, ROUND_S)
        busy = max(1.0, calls_per_s / BUSY_CALLS_PER_S)
        return Round(now_s, appended, min(ROUND_S * busy, BUSY_ROUND_S))


NO_ROUND = Round(0.0, 0, 0.0)


class Watermark:
    """The high watermarks of one process's partitions."""

    def __init__(self, storage: Storage, tail: Tail, copies: Callable[[Topic, int], int]) -> None:
        self._storage = storage
        self._tail = tail
        self._copies = copies
        self._script = script("confirm")
        self._watched: dict[bytes, Partition] = {}  # by channel: whose announcements are not yet for readers
        self._due: dict[Address, list[Partition]] = {}
        self._rounds: dict[Address, Round] = {}
        self._appended = 0  # answers of appends that nobody but a round will prove
        self._pursuits: dict[Address, asyncio.Task[None]] = {}
        self._closed = False
        tail.gate = self._announced

    async def close(self) -> None:
        """Stop pursuing."""
        self._closed = True
        tasks = list(self._pursuits.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def replicas(self, partition: Partition) -> int:
        """How many replicas must hold a record before it is read."""
        return self._copies(partition.topic, partition.slot) - 1

    # --- what is learnt ----------------------------------------------------------------------------------------

    def visible(self, partition: Partition, look: Look) -> Look:
        """A look as readers may have it: `next` and `written` are those of the high watermark, `end` is the log end."""
        if not self.replicas(partition):
            return look
        if len(self._watched) >= PARTITIONS_CACHED_MAX:
            self._watched.clear()  # announcements wake too early then, and readers look once more
        self._watched[partition.keys.tail] = partition
        offset, written = map(int, look.confirmed.split()) if look.confirmed else (0, 0)
        if partition.proved_in < look.leader_epoch:
            if offset < partition.proved <= look.since:  # what all copies had outlives a failover
                offset, written = partition.proved, partition.proved_written
            partition.log_end = look.end
            self._move(partition, look.leader_epoch, offset, written)
        elif partition.proved_in == look.leader_epoch:
            partition.log_end = max(look.end, partition.log_end)
            if offset > partition.proved:  # proved by somebody else
                self._move(partition, look.leader_epoch, offset, written)
            offset, written = partition.proved, partition.proved_written
        if offset < look.end and not partition.appending:
            self.pursue(partition)
        return look._replace(next=max(look.log_start, min(offset, look.end)), written=min(written, look.written))

    def appended(self, partition: Partition, reply: list[Any], acked: int) -> None:
        """What an append told, log start, epoch, end and bytes; `acked` replicas have it."""
        log_start, epoch, end, written, rid = reply[:5]
        replicas = self.replicas(partition)
        if not replicas:
            self._tail.announce(partition.keys.tail, end, written)
            partition.place(log_start, end, written)
        elif acked >= replicas:
            self._proved(partition, log_start, epoch, end, written)
        else:
            told = partition.told
            if told is None or (epoch, end) > (told.epoch, told.end):
                partition.told = Told(rid, log_start, epoch, end, written)
            self._appended += 1
            if not partition.due and self._tail.awaited(partition.keys.tail):
                self.pursue(partition)

    def _proved(self, partition: Partition, log_start: int, epoch: int, end: int, written: int) -> None:
        if (epoch, end) <= (partition.proved_in, partition.proved):
            return
        partition.log_end = max(end, partition.log_end)
        partition.place(log_start, end, written)
        self._move(partition, epoch, end, written)

    def _move(self, partition: Partition, epoch: int, offset: int, written: int) -> None:
        """The high watermark moves: whoever waits for that is woken."""
        partition.prove(epoch, offset, written)
        self._tail.advance(partition.keys.tail, offset, written)

    def _announced(self, channel: bytes, end: int, written: int) -> bool:
        """An append was announced: False when readers may be woken by it, True when it has yet to be proved."""
        partition = self._watched.get(channel)
        if partition is None or not self.replicas(partition):
            return False
        if end < partition.announced:  # the log was cut back: readers must look
            partition.announced = end
            return False
        partition.announced = end
        if end > partition.proved:
            partition.log_end = max(end, partition.log_end)
            if not partition.appending:  # or the answer of our own append proves it, or pursues it
                self.pursue(partition)
        return True

    # --- proving -----------------------------------------------------------------------------------------------

    async def confirm(self, partition: Partition) -> bool:
        """Prove the log end as it is now; False when replicas did not confirm it in time."""
        return await self._confirm(partition, self.replicas(partition)) is not None

    async def _confirm(self, partition: Partition, replicas: int) -> bytes | None:
        """The same: the replication id under which so many replicas have all written before; None if they have not."""
        keys = partition.keys
        words = (partition.topic.hex, replicas, *partition.proof())
        try:
            reply, acked = await self._storage.run_acked(
                self._script, (keys.state, keys.epochs), words, replicas=replicas, timeout_ms=WAIT_MS
            )
        except KafkaError:
            return None
        if acked < replicas:
            return None
        log_start, epoch, end, written, rid = reply
        self._proved(partition, log_start, epoch, end, written)
        return bytes(rid)

    async def _confirm_all(self, partitions: Sequence[Partition]) -> list[Partition]:
        """Prove these log ends, with as few calls as will do; gives those that could not be proved.

        Where all of a log that is known was appended by this process, its end and the replication id are known from
        the answers. Whoever has a later write of that master's has these appends: replication is one stream. So one
        partition is asked about, and its WAIT speaks for the others whose ends were told under the same id.
        """
        calls: list[tuple[int, list[tuple[Partition, Told | None]]]] = []
        together: dict[int, list[tuple[Partition, Told | None]]] = {}
        for partition in partitions:
            told, replicas = partition.told, self.replicas(partition)
            if told is None or told.end < partition.log_end:
                calls.append((replicas, [(partition, None)]))
            else:
                together.setdefault(replicas, []).append((partition, told))
        calls += together.items()
        if len(calls) == 1:  # the usual case needs no task
            rids = [await self._confirm(calls[0][1][0][0], calls[0][0])]
        else:
            rids = await asyncio.gather(*(self._confirm(group[0][0], replicas) for replicas, group in calls))
        unproved = []
        for rid, (_, group) in zip(rids, calls, strict=True):
            for place, (partition, told) in enumerate(group):
                if told is not None and told.rid == rid:
                    self._proved(partition, told.log_start, told.epoch, told.end, told.written)
                elif rid is None or place:
                    unproved.append(partition)
                    if rid is not None or not place:
                        partition.told = None  # by another master, or of a log that is gone: to be asked about
        return unproved

    def pursue_pending(self, partition: Partition) -> None:
        """Somebody begins to wait, or the last append under way has ended: prove what is there already."""
        if partition.log_end > partition.proved and self.replicas(partition):
            self.pursue(partition)

    def pursue(self, partition: Partition) -> None:
        """Prove the log end soon, and again until it is as long as somebody waits."""
        if self._closed or partition.due:
            return
        partition.due = True
        address = self._storage.master_of(partition.keys.state)
        self._due.setdefault(address, []).append(partition)
        pursuit = self._pursuits.get(address)
        if pursuit is None or pursuit.done():
            self._pursuits[address] = asyncio.get_running_loop().create_task(self._pursue(address))

    async def _pursue(self, address: Address) -> None:
        """Round after round at one Redis node: a few scripts and one WAIT for all partitions that are due."""
        clock = asyncio.get_running_loop().time
        while address in self._due:
            last = self._rounds.get(address, NO_ROUND)
            if (pause_s := last.begun_s + last.period_s - clock()) > 0:
                await asyncio.sleep(pause_s)  # more may come meanwhile
            due = self._due.pop(address)
            for partition in due:
                partition.due = False
            self._rounds[address] = last.next(clock(), self._appended)
            for later in due[PURSUED_AT_ONCE:]:
                self.pursue(later)
            unproved = await self._confirm_all(due[:PURSUED_AT_ONCE])
            again = [partition for partition in unproved if self._tail.awaited(partition.keys.tail)]
            for partition in again:
                self.pursue(partition)
            if again:
                await asyncio.sleep(PAUSE_S)
        self._pursuits.pop(address, None)
