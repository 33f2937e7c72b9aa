"""Workers of two versions on one key space: each runs its own scripts, and nobody minds what the other one added."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from examples.clients import QUIET, create_topic
from examples.load import Load
from examples.processes import Process, stop_all
from tests.support.servers import Server

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


def other_version(folder: Path) -> Path:
    """A copy of the package whose every script has another hash."""
    shutil.copytree(ROOT / "redbroker", folder / "redbroker")
    for path in (folder / "redbroker" / "engine" / "lua").glob("*.lua"):
        path.write_text(f"{path.read_text()}\n-- of another version\n")
    return folder


def test_two_versions_serve_the_same_clients(valkey: Server, tmp_path: Path) -> None:
    words = ("worker", "--storage", valkey.url, "--port", "0")
    processes = [Process(*words)]
    try:
        processes.append(Process(*words, cwd=other_version(tmp_path)))
        addresses = ",".join(each.address for each in processes)
        with Load(addresses, "orders", 6) as load:
            load.goes_on(1_000)
            assert processes[0].stop() == 0
            load.goes_on(load.received + 500)
        assert not load.producer.errors
        assert not load.errors
        assert (load.received, load.lost) == (load.producer.sent, 0)
    finally:
        stop_all(processes)


def test_fields_that_a_later_version_added_do_no_harm(valkey: Server) -> None:
    words = ("worker", "--storage", valkey.url, "--port", "0")
    processes = [Process(*words)]
    try:
        create_topic(processes[0].address, "orders", 2)
        for key in ("topics", "workers"):
            flat = valkey.command("HGETALL", f"rb:{{meta}}:{key}")
            for name, stored in zip(flat[::2], flat[1::2], strict=True):
                later = json.dumps(json.loads(stored) | {"added_later": {"by": "another version"}})
                valkey.command("HSET", f"rb:{{meta}}:{key}", name, later)
        valkey.command("HINCRBY", "rb:{orders:0}:state", "added_later", 1)
        processes.append(Process(*words))
        with Load(processes[1].address, "more", 2) as load:
            load.goes_on(200)
        assert (load.lost, load.errors, load.producer.errors) == (0, [], [])
        known = AdminClient({"bootstrap.servers": processes[1].address}, logger=QUIET).list_topics(timeout=20)
        assert {"orders", "more"} <= set(known.topics)
    finally:
        stop_all(processes)
