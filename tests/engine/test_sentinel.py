"""Storage behind a Sentinel: it asks for the master, and follows it when it changes."""

from __future__ import annotations

import asyncio

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.target import StorageError
from tests.support.clusters import a_sentinel
from tests.support.storages import Load, opened

pytestmark = pytest.mark.anyio


async def test_a_sentinel_names_the_master_and_its_successor() -> None:
    with a_sentinel() as servers:
        async with opened(servers.url) as storage:
            assert not storage.cluster and storage.masters[0].port == servers.master.port
            async with Load(storage, ["s0", "s1", "s2"], replicas=1) as acked, Load(storage, ["s3"]) as plain:
                await acked.goes_on()
                servers.master.kill()
                await plain.goes_on()
                assert storage.masters[0].port == servers.replica.port
                # The old master comes back as a replica (Sentinel would see to it in ten seconds) and acknowledges again.
                servers.master.options += ("--replicaof", f"127.0.0.1 {servers.replica.port}")
                await asyncio.to_thread(servers.master.start)
                await acked.goes_on()
            await acked.check()
        with pytest.raises(StorageError, match=r"storage_url.*No such master"):
            await Storage.open(Settings(storage_url=servers.url.replace("mymaster", "nobody")))
