"""Compaction: of each key only the newest record stays; what stays keeps its offset.

A stream cannot be edited at lower IDs, so the kept records are written, under the IDs they have, to a second stream in
the same slot, which then takes the log's place:

    log        │ clean: compacted before │ dirty │ untouched tail          │ ◄─ appends go on
                 1. read the dirty keys: key -> newest offset, as many as fit in compaction_keys_bytes_max
    compacted  │ 2. kept of both                 │ 3. copied in Redis      │
                 4. compact_swap.lua copies the last bit and renames: one step

Nobody notices: IDs, epochs, log start, log end and producers' windows stay. Until step 4 the log is untouched, so a
worker that dies leaves a key that the next holder of the lease removes. Every step names its lease and the replication
id it began under; after a failover or a pause it writes nothing. What a compaction relied on stands before it in the
replication stream, so a replica that has the swap has that too: it needs no WAIT.

Tombstones: a reader must be able to see one for `delete.retention.ms` after the records it deletes are gone, that is
after the swap that compacted it. `horizons` keeps those times: "<first offset above> : <time of the swap>".

It stops before the last batch that replicas are known to have (`Lease.proved_end`): what a failover takes back must not
have taken an older record with it. Transactions are not offered yet. A transactional or control batch ends the dirty
part: which of them were aborted is not known here. A batch that cannot be decoded is kept as it is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from redbroker.engine.scripts import script
from redbroker.errors import KafkaError
from redbroker.wire.compression import NONE, decompress
from redbroker.wire.records import HEADER_BYTES, RECORDS_BYTES_MAX, BatchHeader, read_header
from redbroker.wire.slices import Slice, keep_slices, slices

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.counts import JanitorCounts
    from redbroker.engine.partition import Partition
    from redbroker.engine.partitions import Partitions

log = logging.getLogger(__name__)

READ_BYTES = 262_144
WRITE_BYTES, WRITE_BATCHES = 262_144, 128
COPY_BYTES, COPY_ENTRIES = 524_288, 200
INDEX_BATCHES, INDEX_BYTES, INDEX_PAGE = 64, 1 << 20, 500
COPIES_MAX = 1_000_000
SLICE_S = 0.001
BREATH_RECORDS = 256
KEY_BYTES = 200
"""Memory of one key: a digest, an offset, and their place in the dictionary."""
DIGEST_BYTES = 16
HORIZONS_MAX = 64
APART_BYTES = 65_536
"""A larger compressed batch is opened on another thread."""


class LeaseLost(Exception):
    """Somebody else has the partition, or Redis failed over: nothing more may be written."""


class Lease(NamedTuple):
    """What take_lease.lua tells of the partition it gave."""

    now_ms: int
    rid: bytes
    start: int
    proved_end: int
    written: int
    trimmed: int
    cleaned: int
    cleaned_written: int
    horizons: bytes
    time_at: int


class Pace:
    """Keeps a long computation to a share of the loop's time, in slices of a millisecond."""

    def __init__(self, share: float) -> None:
        self._rest = (1 - share) / share
        self._since = time.perf_counter()

    async def breathe(self) -> None:
        """Let others run when the slice is over."""
        worked_s = time.perf_counter() - self._since
        if worked_s > SLICE_S:
            await asyncio.sleep(worked_s * self._rest)
            self._since = time.perf_counter()


def digest(key: bytes) -> bytes:
    """The key itself where it is short, else 128 bits of it: the two never meet."""
    return key if len(key) < DIGEST_BYTES else blake2b(key, digest_size=DIGEST_BYTES).digest()


def pairs(horizons: bytes) -> list[tuple[int, int]]:
    """`horizons` as (first offset above, time in ms), oldest first."""
    return [(int(offset), int(ms)) for offset, _, ms in (word.partition(b":") for word in horizons.split())]


class Compaction:
    """One compaction of one partition: make it, `await run()`; it tells whether another should follow."""

    def __init__(
        self, storage: Storage, partitions: Partitions, partition: Partition, settings: Settings, counts: JanitorCounts
    ) -> None:
        self._storage, self._partitions, self._partition = storage, partitions, partition
        self._settings, self._counts = settings, counts
        self._keys = partition.keys
        self._holder = secrets.token_hex(16)
        self._pace = Pace(settings.compaction_cpu_share)
        self._newest: dict[bytes, int] = {}  # key -> twice its newest offset, and one more for a tombstone
        self._after = b""  # the ID the second stream ends with
        self._through = b""  # the last ID of the log that was looked at
        self._out: list[Any] = []  # ID, batch, ID, batch … to be written
        self._out_bytes = self._kept_bytes = self._kept_batches = 0
        self._index: list[tuple[int, int, int]] = []  # largest timestamp, last offset, kept bytes up to there
        self._youngest = -1
        self._tombstones = 0
        self._time_kept = False
        self._renewed_s = 0.0

    async def run(self) -> bool:
        """Compact once; True when the keys did not fit and there is more to do. False too where another is at it."""
        keys, topic = self._keys, self._partition.topic
        await self._partitions.prove(self._partition)  # nobody else may have: appends with acks=1 that nobody reads
        words = (topic.hex, self._holder, self._lease_ms, *self._partitions.proof(self._partition))
        reply = await self._storage.run(script("take_lease"), (keys.state, *keys.compaction), words)
        if not reply[0]:
            return False
        self._counts.leases_taken += 1
        began_s = self._renewed_s = time.monotonic()
        self._lease = Lease._make(reply[1:])
        try:
            more = await self._compact()
        except LeaseLost:
            self._counts.leases_lost += 1
            log.warning("%s: the compaction is given up: its lease is lost.", self._partition.name)
            return False
        finally:
            self._counts.compaction_seconds += time.monotonic() - began_s
            await self._release()
        return more

    async def _compact(self) -> bool:
        lease = self._lease
        first_dirty = max(lease.start, lease.cleaned)
        end, more = await self._read_keys(first_dirty)
        self._due_below = self._due()
        if end <= first_dirty and not self._due_below:
            return False
        end = max(end, first_dirty)
        newest = array("q", sorted(value >> 1 for value in self._newest.values()))
        async for id_, last, batch in self._entries(lease.start, end):
            self._through = id_
            kept = await self._filter(batch, last, newest if last >= first_dirty else None)
            if kept is not None:
                if last == lease.time_at:
                    self._time_kept = read_header(kept).max_timestamp == read_header(batch).max_timestamp
                await self._keep(id_, last, kept)
        await self._flush()
        await self._swap(end)
        self._counts.compactions += 1
        return more

    # --- 1: the keys -----------------------------------------------------------------------------------------------

    async def _read_keys(self, first: int) -> tuple[int, bool]:
        """Learn the newest offset of each dirty key; gives where the dirty part ends, and whether more would be."""
        lag_ms, newest = self._partition.topic.min_compaction_lag_ms, self._newest
        bound = self._settings.compaction_keys_bytes_max // KEY_BYTES
        end = first
        async for _, last, batch in self._entries(first, self._lease.proved_end):
            header = read_header(batch)
            young = lag_ms and header.max_timestamp > self._lease.now_ms - lag_ms
            if last >= self._lease.proved_end - 1 or young or header.transactional or header.control:
                return end, False
            if len(newest) + header.count > bound and end > first:
                return end, True
            base = last - header.last_offset_delta
            for number, record in enumerate(await self._records(header, batch)):
                if record.key is not None:
                    newest[digest(record.key)] = (base + record.delta) << 1 | record.tombstone
                if number % BREATH_RECORDS == 0:
                    await self._pace.breathe()
            end = last + 1
        return end, False

    async def _records(self, header: BatchHeader, batch: bytes) -> list[Slice]:
        """The records of a batch; none of one that cannot be decoded (it is kept as it is)."""
        try:
            self._payload = await opened(header, batch)
            records = []
            for record in slices(self._payload, header.count):
                records.append(record)
                if len(records) % BREATH_RECORDS == 0:
                    await self._pace.breathe()
            return records
        except KafkaError as broken:
            log.warning("%s: a batch is left as it is: %s", self._partition.name, broken)
            return []

    # --- 2: what is kept -------------------------------------------------------------------------------------------

    async def _filter(self, batch: bytes, last: int, newest: array[int] | None) -> bytes | None:
        """The batch, a smaller one, or nothing. `newest`: the kept offsets of the dirty part, if it lies there."""
        header = read_header(batch)
        base = last - header.last_offset_delta
        if newest is not None:  # most batches of the dirty part stay or go whole: they need not be opened again
            count = bisect_left(newest, last + 1) - bisect_left(newest, base)
            if count == header.count:
                self._counts.compacted_records += count
                self._counts.kept_records += count
                return batch
        records = await self._records(header, batch)
        if not records:
            return batch
        self._counts.compacted_records += len(records)
        kept = []
        for number, record in enumerate(records):
            if record.key is not None and self._stays(base + record.delta, record, newest is None):
                kept.append(record)
            if number % BREATH_RECORDS == 0:
                await self._pace.breathe()
        self._counts.kept_records += len(kept)
        if not kept or len(kept) == len(records):
            return batch if kept else None
        return keep_slices(header, self._payload, kept)

    def _stays(self, offset: int, record: Slice, clean: bool) -> bool:
        assert record.key is not None
        if self._newest.get(digest(record.key), 0) >> 1 > offset:
            return False
        if clean and record.tombstone:
            if offset < self._due_below:
                return False
            self._tombstones += 1
        return True

    def _due(self) -> int:
        """Tombstones below this offset have been seen by whoever wanted to."""
        old_ms = self._lease.now_ms - self._partition.topic.delete_retention_ms
        return max((offset for offset, ms in pairs(self._lease.horizons) if ms <= old_ms), default=0)

    async def _keep(self, id_: bytes, last: int, batch: bytes) -> None:
        nbytes, youngest = len(batch), read_header(batch).max_timestamp
        self._youngest = max(self._youngest, youngest)
        indexed = self._index[-1][2] if self._index else 0
        self._kept_bytes += nbytes
        self._kept_batches += 1
        if self._kept_batches % INDEX_BATCHES == 0 or self._kept_bytes - indexed >= INDEX_BYTES:
            self._index.append((self._youngest, last, self._kept_bytes))
        self._out += (id_, batch)
        self._out_bytes += nbytes
        if self._out_bytes >= WRITE_BYTES or len(self._out) >= 2 * WRITE_BATCHES:
            await self._flush()

    async def _flush(self) -> None:
        if self._out:
            await self._step("compact_write", (self._keys.compacted,), (self._after, *self._out))
            self._after = self._out[-2]
            self._out, self._out_bytes = [], 0

    # --- 3 and 4: the tail, and the swap ----------------------------------------------------------------------------

    async def _swap(self, end: int) -> None:
        lease, keys = self._lease, self._keys
        tail_bytes, written = 0, -1
        for _ in range(COPIES_MAX):
            bounds: tuple[Any, ...] = (self._after, self._through or "0-0", COPY_ENTRIES, COPY_BYTES)
            reply = await self._step("compact_copy", (keys.compacted,), bounds, log=True)
            self._after = self._through = reply[1]
            tail_bytes += reply[2]
            await self._pace.breathe()
            if reply[3] >= 0:
                written = reply[3]
                break
        cleaned_written = written - tail_bytes  # exact: counted from the end, in the step that saw the end
        base = cleaned_written - self._kept_bytes
        indexed = await self._copy_index(end, base)
        words = (
            end, cleaned_written, base, lease.time_at, int(lease.time_at < end and not self._time_kept),
            self._tombstones + sum(value & 1 for value in self._newest.values()), self._horizons(),
        )  # fmt: skip
        named = (keys.log, keys.state, keys.times, *keys.compaction)
        for _ in range(COPIES_MAX):
            bounds = (self._after, indexed, COPY_ENTRIES, COPY_BYTES)
            outcome, self._after = await self._storage.run(
                script("compact_swap"), named, (*self._proof, *bounds, *words)
            )
            if outcome != b"behind":
                break
            indexed = await self._copy_index(indexed + 1, None)
        if outcome != b"done":
            raise LeaseLost
        saved = max(0, base - lease.trimmed)
        self._counts.saved_bytes += saved
        log.info(
            "%s is compacted up to offset %d: %d bytes are saved, %d kept.",
            self._partition.name, end, saved, self._kept_bytes,
        )  # fmt: skip

    async def _copy_index(self, first: int, base: int | None) -> int:
        """Write the index of the kept part (where `base` is given), and copy what lies at or behind `first`."""
        words: list[Any] = []
        indexed = first - 1
        if base is not None:
            for youngest, last, kept in self._index:
                words += (youngest, f"{last:016d}:{base + kept}")
        at = 0
        times = self._keys.times
        while page := await self._storage.call(times, "ZRANGE", times, at, at + INDEX_PAGE - 1, "WITHSCORES"):
            for entry, score in zip(page[::2], page[1::2], strict=True):
                last = int(entry.partition(b":")[0])
                if last >= first:
                    words += (score, entry)
                    indexed = max(indexed, last)
            at += INDEX_PAGE
            await self._pace.breathe()
        for start in range(0, len(words), 2 * INDEX_PAGE):
            await self._step("compact_index", (self._keys.compacted_times,), words[start : start + 2 * INDEX_PAGE])
        return indexed

    def _horizons(self) -> str:
        """Those that still mean something; to the last of them the swap adds its own."""
        old_ms = self._lease.now_ms - self._partition.topic.delete_retention_ms
        known = pairs(self._lease.horizons)
        due = [pair for pair in known if pair[1] <= old_ms]
        kept = due[-1:] + [pair for pair in known if pair[1] > old_ms]
        while len(kept) > HORIZONS_MAX:  # without one of them tombstones stay a little longer
            del kept[1::2]
        return "".join(f"{offset}:{ms} " for offset, ms in kept)

    # --- Redis -----------------------------------------------------------------------------------------------------

    @property
    def _lease_ms(self) -> int:
        return self._settings.janitor_lease_ms

    @property
    def _proof(self) -> tuple[Any, ...]:
        return self._partition.topic.hex, self._holder, self._lease_ms, self._lease.rid

    async def _step(self, name: str, target: tuple[bytes, ...], words: Any, *, log: bool = False) -> Any:
        """One fenced step; its reply begins with, or is, whether the lease was still held."""
        keys = self._keys
        named = (*((keys.log,) if log else ()), keys.state, keys.janitor, *target)
        reply = await self._storage.run(script(name), named, (*self._proof, *words))
        if not (reply[0] if isinstance(reply, list) else reply):
            raise LeaseLost
        self._renewed_s = time.monotonic()
        return reply

    async def _entries(self, first: int, end: int) -> AsyncIterator[tuple[bytes, int, bytes]]:
        """(ID, last offset, batch) of the log from the batch that holds `first` to the last one below `end`."""
        partition, log_key = self._partition, self._keys.log
        await self._partitions.learn(partition, first)
        at: bytes | str = partition.first_id(first)
        while True:
            count = partition.count(READ_BYTES, self._settings.read_overshoot_bytes, time.monotonic())
            entries = await self._storage.call(log_key, "XRANGE", log_key, at, "+", "COUNT", count)
            for id_, (_, batch) in entries:
                last = int(id_.partition(b"-")[2])
                if last >= end:
                    return
                yield id_, last, batch
                await self._pace.breathe()
                if time.monotonic() - self._renewed_s > self._lease_ms / 3000:
                    await self._step("compact_write", (self._keys.compacted,), (self._after,))
            if not entries:
                return
            at = b"(" + entries[-1][0]

    async def _release(self) -> None:
        keys = self._keys
        try:
            await self._storage.run(script("release_lease"), keys.compaction, (self._holder,))
        except KafkaError as away:
            log.debug("%s: the lease will run out by itself: %s", self._partition.name, away)


async def opened(header: BatchHeader, batch: bytes) -> bytes:
    """The records of a batch, decompressed; where that takes long, on another thread."""
    payload = memoryview(batch)[HEADER_BYTES : header.nbytes]
    if header.codec == NONE or len(payload) < APART_BYTES:
        return decompress(header.codec, payload, RECORDS_BYTES_MAX)
    return await asyncio.to_thread(decompress, header.codec, payload, RECORDS_BYTES_MAX)
