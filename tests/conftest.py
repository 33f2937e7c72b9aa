"""Fixtures that every test may use: one event loop flavour, and real servers shared by a session.

`valkey` and `redis7` are flushed before each test; `cluster` (three masters, three replicas) is healed and flushed.
A test that wants to break a server starts its own, from tests/support/servers.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clusters import Cluster, a_cluster
from tests.support.servers import Server, redis_binary


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """The session's Valkey; tests take `valkey`."""
    with Server() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: Server) -> Server:
    """An empty standalone Valkey: `.url`, `.unix_url`, `.command(…)`."""
    valkey_server.flush()
    return valkey_server


@pytest.fixture(scope="session")
def redis7_server() -> Iterator[Server]:
    """The session's Redis 7.0; tests take `redis7`."""
    binary = redis_binary()
    if binary is None:
        pytest.skip("no redis-server on this machine")
    with Server(binary=binary) as server:
        yield server


@pytest.fixture
def redis7(redis7_server: Server) -> Server:
    """An empty standalone redis-server of the system."""
    redis7_server.flush()
    return redis7_server


@pytest.fixture(scope="session")
def cluster_nodes() -> Iterator[Cluster]:
    """The session's cluster; tests take `cluster`."""
    with a_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_nodes: Cluster) -> Cluster:
    """A healthy, empty Valkey cluster of three masters and three replicas; a test may break it."""
    cluster_nodes.heal()
    cluster_nodes.flush()
    return cluster_nodes
