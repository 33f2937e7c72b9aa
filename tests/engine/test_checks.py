"""The storage checks: which settings are a risk, which a note, and that each says what mends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from redbroker.config import Settings
from redbroker.engine.checks import Finding, check_server, check_version, inspect, parse_info, refuse_risks
from redbroker.engine.connection import Storage
from redbroker.engine.target import StorageError
from redbroker.errors import KafkaError
from tests.support.clusters import a_cluster
from tests.support.servers import Server, wait_until

GOOD_INFO = {"redis_version": "7.2.4", "connected_slaves": "1", "aof_enabled": "1", "aof_last_write_status": "ok"}
GOOD_CONFIG = {
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "cluster-allow-replica-migration": "no",
    "cluster-require-full-coverage": "no",
    "cluster-replica-validity-factor": "10",
    "min-replicas-to-write": "1",
    "repl-timeout": "10",
}


def findings(
    info: dict[str, str] | None = None, config: dict[str, str] | None = None, **settings: int
) -> list[Finding]:
    return check_server("a:1", GOOD_INFO | (info or {}), GOOD_CONFIG | (config or {}), Settings(**settings))


def test_a_well_set_up_server_has_no_findings():
    assert findings() == []


@pytest.mark.parametrize(
    ("info", "config", "settings", "level", "told"),
    [
        ({}, {"maxmemory-policy": "allkeys-lru"}, {}, "risk", "maxmemory-policy is allkeys-lru"),
        ({}, {"maxmemory-policy": "volatile-ttl"}, {}, "note", "maxmemory-policy is volatile-ttl"),
        ({}, {"appendonly": "no"}, {}, "risk", "appendonly is no"),
        ({}, {"appendfsync": "no"}, {}, "risk", "appendfsync is no"),
        ({"cluster_enabled": "1"}, {"cluster-require-full-coverage": "yes"}, {}, "note", "all partitions stop"),
        ({}, {"appendfsync": "everysec"}, {}, "note", "appendfsync is everysec"),
        ({}, {"no-appendfsync-on-rewrite": "yes"}, {}, "risk", "no-appendfsync-on-rewrite is yes"),
        ({"aof_last_write_status": "err"}, {}, {}, "risk", "append-only file could not be written"),
        ({"cluster_enabled": "1", "cluster_state": "fail"}, {}, {}, "risk", "cluster_state is not ok"),
        ({"cluster_enabled": "1"}, {"cluster-allow-replica-migration": "yes"}, {}, "note", "replica-migration is yes"),
        ({}, {"appendfsync": "everysec"}, {}, "note", "may lack what acks=all acknowledged"),
        ({}, {"min-replicas-to-write": "0"}, {}, "note", "min-replicas-to-write is 0"),
        ({}, {"repl-timeout": "60"}, {}, "note", "repl-timeout is 60"),
        ({"cluster_enabled": "1"}, {"cluster-replica-validity-factor": "0"}, {}, "note", "validity-factor is 0"),
        ({"connected_slaves": "0"}, {}, {}, "note", "there are no replicas"),
        ({}, {}, {"replicas": 2}, "risk", "1 of 2 replicas are connected"),
        ({}, {}, {"min_insync_replicas": 3}, "risk", "min_insync_replicas is 3, but there are 2 copies"),
        ({}, {}, {"min_insync_replicas": 1}, "risk", "min_insync_replicas is 1 of 2 copies"),
        ({"connected_slaves": "2"}, {}, {"replicas": 1}, "risk", "2 replicas are connected, and acks=all waits for 1"),
        ({"connected_slaves": "2"}, {}, {"replicas": 1, "min_insync_replicas": 2}, "risk", "is 2 of 3 copies"),
    ],
)
def test_a_bad_setting_is_one_finding(info, config, settings, level, told):
    [finding] = findings(info, config, **settings)
    assert finding.level == level
    assert told in str(finding)
    assert finding.mend in str(finding)
    assert finding.mend


def test_more_replicas_than_known_are_a_risk_only_where_the_setting_keeps_them_from_being_counted():
    two = GOOD_INFO | {"connected_slaves": "2"}
    assert check_server("a:1", two, GOOD_CONFIG, Settings(), replicas=1) == []
    [finding] = check_server("a:1", two, GOOD_CONFIG, Settings(replicas=1), replicas=1)
    assert (finding.level, finding.mend) == ("risk", "raise replicas")


@pytest.mark.parametrize(
    ("info", "settings", "how"),
    [
        ({"cluster_enabled": "1"}, Settings(), "CLUSTER FORGET on every node"),
        ({}, Settings(storage_url="redis+sentinel://a:26379/main"), "SENTINEL RESET on every Sentinel"),
        ({}, Settings(storage_url="redis://a:6379", key_prefix="mine"), "DEL mine:{meta}:replicas"),
        ({}, Settings(replicas=2), "lower replicas"),
    ],
)
def test_a_replica_that_is_gone_for_good_comes_with_what_makes_acks_all_forget_it(info, settings, how):
    [finding] = check_server("a:1", GOOD_INFO | info, GOOD_CONFIG, settings, replicas=2)
    assert finding.sentence == "1 of 2 replicas are connected"
    assert finding.mend == f"start the missing replicas; gone for good: {how}, then restart the workers"


def test_what_concerns_replicas_is_told_only_where_there_are_some():
    alone = findings({"connected_slaves": "0"}, {"min-replicas-to-write": "0", "repl-timeout": "60"})
    assert [finding.sentence for finding in alone] == ["there are no replicas"]


def test_replica_migration_matters_only_in_a_cluster():
    assert findings(config={"cluster-allow-replica-migration": "yes"}) == []


def test_a_forbidden_config_command_is_a_note_and_info_still_tells_what_it_can():
    info = GOOD_INFO | {"aof_enabled": "0", "maxmemory_policy": "allkeys-lfu"}
    found = check_server("a:1", info, None, Settings())
    assert [finding.level for finding in found] == ["risk", "risk", "note"]
    assert "CONFIG GET is forbidden" in str(found[-1])


@pytest.mark.parametrize("version", ["6.2.14", "5.0", ""])
def test_an_old_server_is_refused_in_a_sentence_that_names_the_setting(version):
    with pytest.raises(StorageError, match=r"storage_url leads to a:1, which runs redis .*Redis 7\.0 or any Valkey"):
        check_version("a:1", {"redis_version": version})


@pytest.mark.parametrize("version", ["7.0.0", "7.0.15", "8.2.1", "10.0"])
def test_a_new_enough_server_is_accepted(version):
    check_version("a:1", {"redis_version": version})


def test_strict_refuses_risks_but_not_notes():
    refuse_risks(findings(config={"appendfsync": "everysec"}))
    with pytest.raises(StorageError, match=r"strict is set, and records are at risk \(1 more\): a:1: maxmemory-policy"):
        refuse_risks(findings(config={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}))


def test_info_is_read_whatever_its_sections():
    assert parse_info(b"# Server\r\nredis_version:7.0.15\r\n\r\n# Cluster\r\nurl:a:b\r\n") == {
        "redis_version": "7.0.15",
        "url": "a:b",
    }


@pytest.mark.anyio
async def test_a_real_server_is_asked_and_told_apart():
    with Server("--maxmemory-policy", "allkeys-lru", "--appendonly", "no") as server:
        settings = Settings(storage_url=server.url)
        storage = await Storage.open(settings)
        try:
            found = await inspect(storage, settings)
        finally:
            await storage.close()
    assert [finding.sentence for finding in found] == [
        "maxmemory-policy is allkeys-lru", "appendonly is no", "there are no replicas",
    ]  # fmt: skip


@pytest.mark.anyio
async def test_a_server_that_forbids_config_is_used_all_the_same():
    with Server("--appendonly", "yes") as server:
        server.command("ACL", "SETUSER", "default", "-config")
        settings = Settings(storage_url=server.url)
        storage = await Storage.open(settings)
        try:
            found = await inspect(storage, settings)
        finally:
            await storage.close()
    assert "CONFIG GET is forbidden here (usual for managed Redis)" in {finding.sentence for finding in found}


@pytest.mark.anyio
async def test_a_replica_that_would_keep_nothing_once_promoted_is_a_risk_of_its_own():
    with (
        Server("--appendonly", "yes", "--appendfsync", "always") as master,
        Server("--replicaof", f"127.0.0.1 {master.port}", "--appendfsync", "always") as replica,
    ):
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
        storage = await Storage.open(Settings(storage_url=master.url))
        try:
            found = await inspect(storage, Settings(storage_url=master.url))
            risks = [(finding.server, finding.sentence) for finding in found if finding.level == "risk"]
            assert risks == [(replica.address, "appendonly is no")]
            replica.command("CONFIG", "SET", "appendonly", "yes")
            assert replica.address not in {each.server for each in await inspect(storage, Settings())}
            replica.command("CONFIG", "SET", "requirepass", "other")
            [unseen] = [each for each in await inspect(storage, Settings()) if each.server == replica.address]
            assert (unseen.level, "could not be looked at" in unseen.sentence) == ("note", True)
        finally:
            await storage.close()


@pytest.mark.anyio
@pytest.mark.parametrize("is_away", [Server.stop, Server.kill], ids=["silent", "killed"])
async def test_one_master_of_several_that_is_away_is_a_risk_and_the_others_are_looked_at(
    is_away: Callable[[Server], None],
):
    with a_cluster(3, 0, "--cluster-node-timeout", "60000") as cluster:
        settings = Settings(storage_url=cluster.url, storage_timeout_ms=500)
        storage = await Storage.open(settings)
        away = cluster.nodes[1]
        try:
            is_away(away)
            found = await inspect(storage, settings)
            assert {each.server for each in found} == {node.address for node in cluster.nodes}
            [risk] = [each for each in found if each.server == away.address]
            assert (risk.level, "could not be looked at" in risk.sentence) == ("risk", True)
            with pytest.raises(KafkaError) as refused:
                await inspect(storage, settings.model_copy(update={"strict": True}))
            assert refused.value.retriable
        finally:
            if is_away is Server.stop:
                away.cont()
            await storage.close()
