"""Discovery: a Sentinel names the master, any live seed tells the cluster."""

from __future__ import annotations

import asyncio

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.target import StorageError
from tests.support.clusters import Cluster, a_sentinel
from tests.support.storages import ONCE, Load, keys_of, opened

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
                # The old master comes back as a replica (Sentinel would take ten seconds) and acknowledges.
                servers.master.options += ("--replicaof", f"127.0.0.1 {servers.replica.port}")
                await asyncio.to_thread(servers.master.start)
                await acked.goes_on()
            await acked.check()
        with pytest.raises(StorageError, match=r"storage_url.*No such master"):
            await Storage.open(Settings(storage_url=servers.url.replace("mymaster", "nobody")))


async def test_dead_seeds_do_not_matter(cluster: Cluster) -> None:
    dead = cluster.nodes[3]
    dead.kill()
    async with opened(f"redis://{dead.address},{cluster.nodes[4].address}") as storage:
        assert await storage.run(ONCE, keys_of("c4"), [1, b""]) == 1
