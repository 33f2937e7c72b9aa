"""Back-pressure before Redis is full: how full each master is, and what that means for producers.

    share of maxmemory   0 ────── memory_throttle_share ────────── memory_refuse_share ────── 1
    produce              free     throttle_time_ms grows           KAFKA_STORAGE_ERROR, try again
    everything else      free     free, trimming hurries           free, trimming hurries

Memory is counted as Redis does before it refuses a write: without replication and AOF buffers
(`mem_not_counted_for_evict`). Nothing is ever evicted. A master without `maxmemory` is never full. A level is left only
`SLACK` below the mark where it began, so that it does not flutter.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from redbroker.engine.resp import ImpatientCall
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage

log = logging.getLogger(__name__)

CALM, THROTTLING, REFUSING = range(3)
LEVELS = ("calm", "throttling", "refusing")
SLACK = 0.01


class Pressure:
    """How full the masters are, as last looked at. While `calm` is True there is nothing else to ask."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage, self._settings = storage, settings
        self.shares: dict[str, float] = {}
        """Fullness by master, 0 to 1 and a little beyond; only masters with a limit."""
        self.levels: dict[str, int] = {}
        self.calm = True

    def refusal(self, key: bytes) -> KafkaError | None:
        """Why no record may be written to the master of this key now, or nothing."""
        if self.calm:
            return None
        address = str(self._storage.master_of(key))
        if self.levels.get(address, CALM) < REFUSING:
            return None
        return KafkaError(
            ErrorCode.KAFKA_STORAGE_ERROR,
            f"Redis at {address} has used {self.shares[address]:.0%} of its maxmemory: records are refused"
            " (memory_refuse_share) until retention has made room.",
        )

    def throttle_ms(self, key: bytes) -> int:
        """How long a producer to the master of this key should pause."""
        if self.calm:
            return 0
        settings, address = self._settings, str(self._storage.master_of(key))
        if self.levels.get(address, CALM) == CALM:
            return 0
        low, high = settings.memory_throttle_share, settings.memory_refuse_share
        part = (self.shares[address] - low) / (high - low) if high > low else 1.0
        return int(settings.throttle_ms_max * min(1.0, max(0.01, part)))

    async def run(self) -> None:
        """Look every `memory_check_ms`; never returns."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.memory_check_ms / 1000)

    async def look(self) -> None:
        """Ask every master once; one line is logged where a level changes. One that is away is as full as it was."""
        calls = self._storage.each_master("INFO", "memory", kind=ImpatientCall)
        await asyncio.gather(*calls.values(), return_exceptions=True)
        shares = {}
        for address, call in calls.items():
            away = isinstance(call.exception(), KafkaError)
            share = self.shares.get(address) if away else memory_share(call.result())
            if share is not None:
                shares[address] = share
        levels = {address: self._level(address, share) for address, share in shares.items()}
        for address, level in levels.items():
            if level != self.levels.get(address, CALM):
                log.warning(
                    "Redis at %s has used %.0f%% of its maxmemory: %s.", address, 100 * shares[address],
                    ("producers are free again", "producers are slowed down", "records are refused")[level],
                )  # fmt: skip
        self.shares, self.levels = shares, levels
        self.calm = not any(levels.values())

    def _level(self, address: str, share: float) -> int:
        before = self.levels.get(address, CALM)
        marks = (self._settings.memory_throttle_share, self._settings.memory_refuse_share)
        return sum(share >= (mark - SLACK if before > level else mark) for level, mark in enumerate(marks))


def memory_share(reply: bytes) -> float | None:
    """The used share of maxmemory by an INFO answer; None where there is no limit."""
    lines = dict(line.split(b":", 1) for line in bytes(reply).splitlines() if b":" in line)
    limit = int(lines.get(b"maxmemory", 0))
    if not limit:
        return None
    return (int(lines.get(b"used_memory", 0)) - int(lines.get(b"mem_not_counted_for_evict", 0))) / limit
