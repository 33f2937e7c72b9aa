"""`redbroker doctor` finds what can lose records."""

from __future__ import annotations

from tests.support.command import command
from tests.support.servers import Server


def test_a_server_that_keeps_nothing_is_a_risk_with_its_mending(valkey: Server) -> None:
    told = command("doctor", "--storage", valkey.unix_url)
    assert told.code == 0
    assert "appendonly is no" in told.out
    assert "CONFIG SET appendonly yes" in told.out
    assert command("doctor", "--strict", "--storage", valkey.unix_url).code == 1


def test_json_has_every_finding_whole(valkey: Server) -> None:
    told = command("doctor", "--format", "json", "--storage", valkey.url).json
    assert told["copies_for_acks_all"] == 1
    assert {"level", "server", "sentence", "loses", "mend"} == set(told["findings"][0])
    assert told["findings"][0]["level"] == "risk"
