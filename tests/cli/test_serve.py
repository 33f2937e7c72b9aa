"""A worker as a process: its `ready` line, its signals, its failures."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from examples.processes import Process

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
