"""`redbroker doctor` finds what can lose records."""

from __future__ import annotations

from tests.support.clusters import Cluster
from tests.support.command import command
from tests.support.servers import Server, free_port, started


def test_a_server_that_keeps_nothing_is_a_risk_with_its_mending(valkey: Server) -> None:
    told = command("doctor", "--storage", valkey.unix_url)
    assert told.code == 3
    assert "appendonly is no" in told.out
    assert "CONFIG SET appendonly yes" in told.out


def test_the_exit_code_tells_a_risk_a_note_and_a_server_that_is_away() -> None:
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    with started([server]):
        told = command("doctor", "--storage", server.url)
        assert told.code == 0
        assert "there are no replicas" in told.out
        assert "no risk found" in told.out
        told = command("doctor", "--strict", "--storage", server.url)
        assert told.code == 3  # the note
        assert "✓" not in told.out
        assert "--strict allows no note: 1 note" in told.out
        server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        told = command("doctor", "--format", "json", "--storage", server.url)
        assert told.code == 3
        assert [finding["level"] for finding in told.json["findings"]] == ["risk", "note"]
    away = command("doctor", "--storage", f"redis://127.0.0.1:{free_port()}")
    assert away.code == 1
    assert away.err


def test_json_has_every_finding_whole(valkey: Server) -> None:
    told = command("doctor", "--format", "json", "--storage", valkey.url).json
    assert told["copies_for_acks_all"] == 1
    assert told["copies_by_master"] == {valkey.address: 1}
    assert {"level", "server", "sentence", "loses", "mend"} == set(told["findings"][0])
    assert told["findings"][0]["level"] == "risk"


def test_what_all_servers_have_in_common_is_told_once(cluster: Cluster) -> None:
    told = command("doctor", "--storage", cluster.url)
    assert told.code == 3
    assert told.out.count("appendonly is no") == 1
    [line] = [line for line in told.out.splitlines() if "appendonly is no" in line]
    assert all(node.address in line for node in cluster.nodes)
    assert told.out.splitlines()[-1] == "1 risk"
    assert "CONFIG REWRITE keeps it" in told.out
    findings = command("doctor", "--format", "json", "--storage", cluster.url).json["findings"]
    assert [each["sentence"] for each in findings].count("appendonly is no") == len(cluster.nodes)
