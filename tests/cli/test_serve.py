"""A worker as a process: its `ready` line, its signals, its failures."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from examples.processes import Process
from redbroker.engine.slots import key_slot
from tests.support.clusters import a_cluster
from tests.support.servers import Server

pytestmark = pytest.mark.system


def test_dev_is_ready_when_it_says_so_and_stops_with_code_0(tmp_path: Path) -> None:
    dev = Process("dev", "--port", "0", "--http-port", "0", "--data-dir", str(tmp_path))
    try:
        assert re.fullmatch(
            rf"ready  kafka 127\.0\.0\.1:\d+  storage embedded:{re.escape(str(tmp_path))}  http 127\.0\.0\.1:\d+"
            r"  \(1 worker, \d+ ms\)",
            dev.ready_line,
        )
        host, _, port = dev.address.rpartition(":")
        socket.create_connection((host, int(port)), 5).close()
    finally:
        assert dev.stop() == 0
    assert (tmp_path / "appendonlydir").is_dir()


def test_ctrl_c_drains_too(tmp_path: Path) -> None:
    dev = Process("dev", "--port", "0", "--data-dir", str(tmp_path))
    dev.running.send_signal(signal.SIGINT)
    assert dev.running.wait(15) == 0


@pytest.mark.parametrize("flag", ["--port", "--http-port"])
def test_a_port_that_is_taken_is_told_in_one_sentence(tmp_path: Path, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = subprocess.run(
            [sys.executable, "-m", "redbroker", "dev", "--port", "0", flag, str(port), "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert failed.returncode == 1
    assert failed.stderr == f"redbroker: port {port} on 127.0.0.1 is in use: choose another with {flag}.\n"


def test_a_worker_waits_for_its_storage_and_says_so() -> None:
    server = Server()
    late = threading.Timer(3, server.start)
    late.start()
    try:
        worker = Process("worker", "--port", "0", "--storage", server.url)
        try:
            assert "  acks=all 1 copy (0 replicas seen so far)  " in worker.ready_line
            told = [line for line in worker.last_words if "Waiting up to" in line]
            assert "60 s more for the storage (storage_start_ms): No Redis master can be reached" in told[0]
        finally:
            assert worker.stop() == 0
    finally:
        late.join()
        server.close()


def test_a_worker_waits_for_the_master_that_keeps_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDBROKER_STORAGE_TIMEOUT_MS", "1000")
    with a_cluster(3, 0) as cluster:
        away = cluster.master_of(key_slot(b"rb:{meta}:workers"))
        away.kill()
        late = threading.Timer(4, away.start)
        late.start()
        try:
            worker = Process("worker", "--port", "0", "--storage", cluster.url)
            assert any("Waiting up to" in line for line in worker.last_words)
            assert worker.stop() == 0
        finally:
            late.join()


def test_a_worker_waits_for_a_storage_that_takes_no_write() -> None:
    with Server() as server:
        first = Process("worker", "--port", "0", "--storage", server.url)  # notes what is written only once
        assert first.stop() == 0
        server.command("CONFIG", "SET", "min-replicas-to-write", "1")
        late = threading.Timer(3, server.command, ("CONFIG", "SET", "min-replicas-to-write", "0"))
        late.start()
        try:
            worker = Process("worker", "--port", "0", "--storage", server.url)
            told = [line for line in worker.last_words if "Waiting up to" in line]
            assert "60 s more for the storage (storage_start_ms): Redis refused: NOREPLICAS" in told[0]
            assert worker.stop() == 0
        finally:
            late.join()


def test_a_worker_whose_storage_never_comes_ends_with_one_sentence() -> None:
    failed = subprocess.run(
        [sys.executable, "-m", "redbroker", "worker", "--port", "0", "--storage", "redis://127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "REDBROKER_STORAGE_START_MS": "300"},
    )
    assert failed.returncode == 1
    *waiting, last = failed.stderr.splitlines()
    assert last.startswith("redbroker: ")
    assert "No Redis master can be reached by storage_url (127.0.0.1:1: Connection refused)" in last
    assert len(waiting) == 1
    assert "storage_start_ms" in waiting[0]
