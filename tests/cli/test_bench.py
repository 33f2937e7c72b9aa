"""`redbroker bench` measures and leaves nothing behind."""

from __future__ import annotations

from tests.support.command import command
from tests.support.servers import Server


def test_the_bench_measures_and_deletes_its_topic(valkey: Server) -> None:
    told = command("bench", "-n", "2000", "-b", "100", "--format", "json", "--storage", valkey.unix_url)
    assert [row["measure"].split(",")[0] for row in told.json] == ["append", "read", "append one", "append one"]
    assert command("topic", "list", "--format", "json", "--storage", valkey.unix_url).json == []
