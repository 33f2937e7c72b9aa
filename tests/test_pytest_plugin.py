"""The fixtures in a service's own test suite: a real server, and nothing of one test in the next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest
from redbroker.client.app import RedBroker

@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.anyio
async def test_a_service(redbroker_storage, turn):
    app = RedBroker(**redbroker_storage)
    orders = app.topic("orders", value=str, partitions=1)
    async with app:
        assert (await orders.send("one")).offset == 0

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


@pytest.mark.system
def test_each_test_has_a_real_server_and_a_key_space_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ["-q", "-p", "redbroker.pytest_plugin", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1])
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
