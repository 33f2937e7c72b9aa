"""Workers restarted one after another under load: no client sees an error that it does not get over by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.load import Load
from examples.processes import Process, stop_all
from tests.support.servers import Server, free_port

pytestmark = pytest.mark.system

WORKERS, PARTITIONS = 3, 6


def test_a_rolling_restart_costs_no_record_and_no_error(tmp_path: Path) -> None:
    ports = [str(free_port()) for _ in range(WORKERS)]
    with Server("--appendonly", "yes") as valkey:
        words = [("worker", "--storage", valkey.url, "--port", port) for port in ports]
        processes = [Process(*each) for each in words]
        try:
            addresses = ",".join(process.address for process in processes)
            with Load(addresses, "orders", PARTITIONS) as load:
                for at in range(WORKERS):
                    before = load.received
                    assert processes[at].stop() == 0
                    processes[at] = Process(*words[at])
                    load.goes_on(before + 300)
            assert not load.producer.errors
            assert not load.errors
            assert load.producer.acknowledged == load.producer.sent
            assert (load.received, load.lost) == (load.producer.sent, 0)
            assert load.doubled < load.producer.sent / 2, "what was not committed is read again, not everything"
        finally:
            stop_all(processes)
