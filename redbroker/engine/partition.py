"""What a worker remembers of one partition: its keys, and which leader epoch holds which offsets.

Entries are stored as `<leader epoch>-<last offset>`, so finding offset x needs the epoch that x was written under.
The table is short (one row per failover) and only ever a hint: `look.lua` travels ahead of every read and tells the
epoch now; when it differs from what was believed, the table is fetched again and the read repeated.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from redbroker.engine.keys import PartitionKeys
from redbroker.engine.slots import key_slot
from redbroker.types import TopicPartition

if TYPE_CHECKING:
    from redbroker.engine.topics import Topic

FRESH_S = 1.0
ENTRIES_MAX = 10_000
NOTHING_NEW = (-1, b"")
"""A proof in the words of scripts that they do not keep."""


class Told(NamedTuple):
    """What an append or a confirmation told of the log's end, and the replication id of the master that told it."""

    rid: bytes
    log_start: int
    epoch: int
    end: int
    written: int


class Partition:
    """Cached facts of one partition of one topic (by topic id: a topic made again starts afresh)."""

    __slots__ = (
        "_epochs",
        "_news",
        "_starts",
        "announced",
        "appended",
        "appending",
        "due",
        "end",
        "epoch",
        "failed",
        "heard",
        "keys",
        "largest",
        "log_end",
        "log_start",
        "looked",
        "name",
        "proved",
        "proved_in",
        "proved_written",
        "since",
        "slot",
        "table_of",
        "told",
        "topic",
        "typical",
        "written",
    )

    def __init__(self, prefix: str, topic: Topic, partition: int) -> None:
        self.topic = topic
        self.name = TopicPartition(topic.name, partition)
        self.keys = PartitionKeys(prefix, self.name)
        self.slot = key_slot(self.keys.log)
        self.appended = 0  # script calls with batches so far
        self.appending: set[int] = set()  # the numbers of those under way
        self.failed = (0, 0.0)  # the newest of them when one last failed, and when that was in the loop's time
        self.epoch = 0  # 0: not looked at yet; Redis starts at 1
        self.since = 0
        self.log_start = self.end = self.written = -1  # as last heard of; `end` is the high watermark
        self.proved_in = self.proved = self.proved_written = 0  # leader epoch and place of the high watermark
        self.log_end = self.announced = -1  # used only where there are replicas: see `watermark.py`
        self.due = False  # its log end is to be proved in the next round
        self.told: Told | None = None  # by the last append of this process that replicas have yet to acknowledge
        self._news = NOTHING_NEW
        self.heard = 0  # the subscription that was confirmed when last looked (see `Tail.subscription`); 0: none
        self.table_of = (0, 0)  # the leader epoch, and its first offset, under which the table below was fetched
        self.looked = float("-inf")  # monotonic time of the last look, in seconds
        self.typical = self.largest = 1 << 20  # bytes of an average and of the largest batch, as of that look
        self._starts: list[int] = []
        self._epochs: list[int] = []

    def learn(self, epoch: int, since: int, typical: int, largest: int, now: float) -> None:
        """Take over what `look` told of epochs and sizes."""
        self.epoch, self.since, self.looked = epoch, since, now
        self.typical, self.largest = max(1, typical), max(1, largest)

    def place(self, log_start: int, end: int, written: int) -> None:
        """Take over where the log starts and ends, from a look or an append."""
        self.log_start, self.end, self.written = log_start, end, written

    def prove(self, epoch: int, offset: int, written: int) -> None:
        """The high watermark, and the leader epoch in which it is one."""
        self.proved_in, self.proved, self.proved_written = epoch, offset, written
        self._news = self.proof()

    def proof(self) -> tuple[int, bytes]:
        """The high watermark in the words that scripts keep."""
        return self.proved_in, b"%d %d" % (self.proved, self.proved_written)

    def news(self) -> tuple[int, bytes]:
        """The same where no append has kept it yet: to keep it takes a little of every copy and its disk."""
        news, self._news = self._news, NOTHING_NEW
        return news

    def count(self, budget: int, overshoot: int, now: float) -> int:
        """Entries an XRANGE may ask for: about `budget` bytes of average batches, and never more than `overshoot`
        beyond it if each were the largest. What was learnt more than a second ago counts for nothing: the log may
        hold other batches by now, so each is taken for one MiB.
        """
        typical, largest = (self.typical, self.largest) if now - self.looked < FRESH_S else (1 << 20, 1 << 20)
        return max(1, min(budget // typical + 1, (budget + overshoot) // largest, ENTRIES_MAX))

    def learn_table(self, epoch: int, since: int, rows: Sequence[bytes]) -> None:
        """Take over `ZRANGE epochs 0 -1 WITHSCORES`: epoch, first offset, epoch, first offset …"""
        pairs = sorted((int(float(rows[i + 1])), int(rows[i])) for i in range(0, len(rows), 2))
        self._starts = [start for start, _ in pairs]
        self._epochs = [number for _, number in pairs]
        self.table_of = (epoch, since)

    def knows(self, offset: int) -> bool:
        """Can the epoch of this offset be told without asking Redis?"""
        return bool(self.epoch) and (offset >= self.since or self.table_of == (self.epoch, self.since))

    def epoch_of(self, offset: int) -> int:
        """The leader epoch whose entries hold this offset; ask only where `knows(offset)`."""
        if offset >= self.since:
            return self.epoch
        return self._epochs[max(bisect_right(self._starts, offset) - 1, 0)] if self._epochs else self.epoch

    def first_id(self, offset: int) -> str:
        """Start of the XRANGE whose first entry is the batch that holds this offset."""
        return f"{self.epoch_of(offset)}-{offset}"
