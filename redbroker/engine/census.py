"""How many replicas each master has where no server tells of those that are away: the most that were ever seen.

A cluster and the Sentinels know their dead; a single server lists only replicas that are connected now. A worker that
started while one is away would take acks=all for acks=1. So what was seen is kept in Redis (`rb:{meta}:replicas`),
raised by whoever sees more, at start and every `metadata_refresh_ms`, and taken over by everybody. It is never lowered
by itself: a replica that was removed for good is forgotten by `DEL rb:{meta}:replicas` and a restart of the workers,
and the setting `replicas` counts more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from redbroker.engine.scripts import script
from redbroker.errors import KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.durability import Durability
    from redbroker.engine.keys import MetaKeys

log = logging.getLogger(__name__)


class Census:
    """Keeps `durability.replicas` at what was ever seen."""

    def __init__(self, storage: Storage, keys: MetaKeys, settings: Settings, durability: Durability) -> None:
        self._storage, self._key, self._durability = storage, keys.replicas, durability
        self._pause_s = settings.metadata_refresh_ms / 1000
        embedded = settings.storage_url.startswith("embedded:")
        self.needed = settings.replicas is None and not storage.knows_the_away and not embedded

    async def learn(self, seen: int) -> None:
        """Note what is seen now, and take over what was."""
        most = await self._storage.run(script("note_replicas"), (self._key,), (seen,))
        if most > self._durability.replicas:
            self._durability.replicas = most

    async def run(self) -> None:
        """Look again from time to time; never returns."""
        while True:
            await asyncio.sleep(self._pause_s)
            before = self._durability.copies()
            try:
                await self.learn(await self._seen())
            except KafkaError as away:
                log.debug("The replicas could not be counted: %s", away)
            if self._durability.copies() != before:
                log.warning("A replica was added: acks=all waits for %d copies from now on.", self._durability.copies())

    async def _seen(self) -> int:
        """Those that are in step: one that still loads its copy would only make acks=all refuse meanwhile."""
        if self._storage.cluster:
            return self._storage.replicas
        return int((await self._storage.call(self._key, "INFO", "replication")).count(b"state=online"))
