"""Two real workers over one real Valkey, for the session; clients connect to them as they would in production."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import Server

START_S = 30
READY = re.compile(r"^ready\s+kafka (\S+):(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Cluster:
    """`bootstrap` is what clients are given; `ports` are the workers' own."""

    storage_url: str
    ports: tuple[int, ...]

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)


class WorkerProcess:
    """One `redbroker worker`, ended by its process id."""

    def __init__(self, storage_url: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by stop()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redbroker", "worker", "--storage", storage_url, "--port", "0"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "REDBROKER_NUM_PARTITIONS": "4"},
        )

    def wait_ready(self) -> int:
        """The Kafka port, once clients can connect."""
        give_up = threading.Timer(START_S, self.process.kill)
        give_up.start()
        try:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                if found := READY.search(line):
                    return int(found[2])
        finally:
            give_up.cancel()
        self._log.seek(0)
        raise RuntimeError(f"the worker did not become ready:\n{self._log.read()[-4000:]}")

    def stop(self) -> None:
        """Ask it to drain, and insist after a while."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


@contextmanager
def two_workers(storage_url: str) -> Iterator[Cluster]:
    """Two ready workers on one storage."""
    workers = [WorkerProcess(storage_url) for _ in range(2)]
    try:
        yield Cluster(storage_url, tuple(worker.wait_ready() for worker in workers))
    finally:
        for worker in workers:
            worker.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two workers on a Valkey of their own; topics are auto-created with four partitions."""
    with Server() as storage, two_workers(storage.unix_url) as cluster:
        yield cluster


@pytest.fixture(scope="session", params=["embedded", "cluster of 3 + 3"])
def group_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers on the storage named, that let members have short sessions."""
    if request.param == "embedded":
        url = f"embedded:{tmp_path_factory.mktemp('groups')}"
    else:
        nodes = request.getfixturevalue("cluster_nodes")
        nodes.heal()
        nodes.flush()
        url = nodes.url
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDBROKER_GROUP_MIN_SESSION_TIMEOUT_MS", "1000")
        with two_workers(url) as cluster:
            yield cluster


@pytest.fixture
def topic() -> str:
    """A topic name nobody else uses."""
    return f"t-{uuid.uuid4().hex[:12]}"
