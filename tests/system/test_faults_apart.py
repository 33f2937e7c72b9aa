"""Cuts in the network that cut and disks that refuse, while clients work; and nothing acknowledged is lost.

The servers are asked through their sockets in the file system, which no cut reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.support.servers import Server, wait_until
from tests.system.faults.apart import NotPermitted, Party, a_network
from tests.system.faults.nemesis import FAULTS, Fault, Nemesis
from tests.system.faults.run import Plan, run
from tests.system.faults.scenarios import BURST, SETTLED, left_in_a_minority

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

CLIENTS = ("confluent-writes", "sdk-writes", "confluent-reads", "sdk-reads", "acks-one-writes")


@pytest.fixture(autouse=True)
def permitted() -> Iterator[None]:
    try:
        with a_network() as network:
            network.cut([Party(1, (1,))], [Party(2, (2,))])
    except NotPermitted as why:
        pytest.skip(str(why))
    yield


def while_at_work(path: Path, name: str, see: Callable[[Nemesis, Fault], None]) -> None:
    """Make a fault among working clients, look at it, heal; nothing forbidden may have happened."""

    def faults(nemesis: Nemesis, _: Plan) -> None:
        try:
            fault = FAULTS[name](nemesis)
        except NotPermitted as why:
            pytest.skip(str(why))
        see(nemesis, fault)
        assert fault.end
        fault.end()
        nemesis.world.heal()

    plan = Plan(partitions=6, clients=CLIENTS, quiet_s=2.0)
    outcome = run(plan, path / "history.jsonl", faults)
    assert outcome.verdict.valid, outcome.verdict.findings
    assert set(outcome.codes.values()) == {0}, outcome.codes
    assert outcome.verdict.counts["acknowledged"] > 200


def node(nemesis: Nemesis, address: str) -> Server:
    return next(each for each in nemesis.world.storage.nodes if each.address == address)


def leaders(admin: AdminClient) -> set[str]:
    told = admin.list_topics(timeout=5)
    addresses = {each.id: f"{each.host}:{each.port}" for each in told.brokers.values()}
    return {addresses[each.leader] for topic in told.topics.values() for each in topic.partitions.values()}


def role(server: Server) -> bytes:
    return bytes(server.command("ROLE", timeout_s=1)[0])


def state(server: Server) -> str:
    return server.command("CLUSTER", "INFO").decode().partition("cluster_state:")[2].split()[0]  # type: ignore[no-any-return]


def test_a_master_that_is_cut_off_is_replaced_and_goes_on_believing_in_itself(tmp_path: Path) -> None:
    def see(nemesis: Nemesis, fault: Fault) -> None:
        victim = node(nemesis, fault.target)
        wait_until(lambda: len(nemesis.world.masters()) == 4, 15, "another master is elected")
        assert role(victim) == b"master"
        wait_until(lambda: state(victim) == "fail", 5, "the minority sees that it is one")
        others = [each for each in nemesis.world.storage.nodes if each is not victim]
        wait_until(lambda: all(state(each) == "ok" for each in others), 10, "the others go on")

    while_at_work(tmp_path, "isolate-master", see)


@pytest.mark.anyio
async def test_acks_one_loses_what_a_master_in_a_minority_takes(tmp_path: Path) -> None:
    verdict = await left_in_a_minority(tmp_path / "history.jsonl", acks=1)
    assert verdict.fatal()["lost-write"] == BURST


@pytest.mark.anyio
async def test_with_all_copies_nothing_is_acknowledged_in_a_minority(tmp_path: Path) -> None:
    verdict = await left_in_a_minority(tmp_path / "history.jsonl", acks=-1)
    assert not verdict.findings
    assert (verdict.counts["acknowledged"], verdict.counts["indefinite"]) == (SETTLED, BURST)


def test_a_replica_that_is_cut_off_confirms_nothing(tmp_path: Path) -> None:
    def see(nemesis: Nemesis, fault: Fault) -> None:
        victim = node(nemesis, fault.target)
        port = victim.command("ROLE")[2]
        (master,) = [each for each in nemesis.world.storage.nodes if each.port == port]
        wait_until(lambda: "lag=0" not in (line := master.info("slave0")) and "lag=1" not in line, 10, "it lags")
        assert role(master) == b"master"

    while_at_work(tmp_path, "isolate-replica", see)


def test_a_pair_that_is_cut_off_stays_a_pair_and_serves_nothing(tmp_path: Path) -> None:
    def see(nemesis: Nemesis, fault: Fault) -> None:
        pair = [node(nemesis, address) for address in fault.target.split()]
        wait_until(lambda: all(state(each) == "fail" for each in pair), 10, "a minority serves nothing")
        assert [role(each) for each in pair] == [b"master", b"slave"]
        assert len(nemesis.world.masters()) == 3

    while_at_work(tmp_path, "split", see)


def test_a_worker_without_redis_is_replaced_while_its_clients_still_reach_it(tmp_path: Path) -> None:
    def see(nemesis: Nemesis, fault: Fault) -> None:
        (other,) = [each for each in nemesis.world.workers if each.address != fault.target]
        for asked in (other.address, fault.target):
            admin = AdminClient({"bootstrap.servers": asked})
            wait_until(lambda admin=admin: leaders(admin) == {other.address}, 20, f"{asked} says who leads")  # type: ignore[misc]

    while_at_work(tmp_path, "isolate-worker", see)


def test_a_full_disk_ends_its_server_and_a_replica_goes_on(tmp_path: Path) -> None:
    def see(nemesis: Nemesis, fault: Fault) -> None:
        victim = node(nemesis, fault.target)
        with pytest.raises(OSError, match="No space left"):
            (victim.directory / "more").write_bytes(bytes(1 << 16))
        assert victim.process
        assert victim.process.wait(15) == 1
        wait_until(lambda: len(nemesis.world.masters()) == 3, 15, "there are three masters again")

    while_at_work(tmp_path, "fill-disk", see)
