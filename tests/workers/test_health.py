"""The container's health check asks the worker that its own environment describes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.processes import Process

ROOT = Path(__file__).parents[2]


def check(port: str, *words: str) -> int:
    """The exit code of the command in the Dockerfile."""
    env = os.environ | {"REDBROKER_HTTP_HOST": "0.0.0.0", "REDBROKER_HTTP_PORT": port}
    return subprocess.run([sys.executable, "-m", "workers.health", *words], cwd=ROOT, env=env, timeout=20).returncode


@pytest.mark.system
def test_a_worker_is_healthy_until_it_is_gone(tmp_path: Path) -> None:
    worker = Process("worker", "--storage", f"embedded:{tmp_path}", "--port", "0", "--http-port", "0")
    port = worker.http.rpartition(":")[2]
    try:
        assert check(port) == 0
        assert check(port, "livez") == 0
        assert check(port, "nothing") == 1
    finally:
        worker.stop()
    assert check(port) == 1
