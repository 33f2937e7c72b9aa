"""The nemesis: random subsets of faults, none included, all decided by one seed.

A round begins its faults together, ends each after its own time, heals what is left and waits until every copy is in
step. What a fault needs and does not find here is said in one clear word: `Skipped`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import hiredis

from tests.support.clusters import Cluster
from tests.support.servers import Server, wait_until
from tests.system.faults.apart import NotPermitted, Party
from tests.system.faults.history import History
from tests.system.faults.world import World, party_of

log = logging.getLogger(__name__)

TOGETHER = [0, 1, 1, 1, 1, 2, 2, 3]
"""How many faults a round has, each as likely as it stands here."""


class Skipped(Exception):
    """This fault cannot be made here, and why."""


@dataclass
class Fault:
    """One fault under way: what it hit, and what ends it (None: it was over at once)."""

    target: str
    end: Callable[[], object] | None = None


Begin = Callable[["Nemesis"], Fault]
FAULTS: dict[str, Begin] = {}


def fault(begin: Begin) -> Begin:
    """Register a fault under its function's name."""
    FAULTS[begin.__name__.replace("_", "-")] = begin
    return begin


class Nemesis:
    """Chooses and makes the faults of a run."""

    def __init__(
        self, world: World, history: History, seed: int, topics: dict[str, int], held_s: tuple[float, float]
    ) -> None:
        self.world, self.history, self.topics, self.held_s = world, history, topics, held_s
        self.random = random.Random(seed)
        self.made = 0
        self.skipped: dict[str, str] = {}
        self._deck: list[str] = []

    # --- victims ---------------------------------------------------------------------------------------------

    def any_slot(self) -> int:
        """The slot of a partition under load."""
        topic = self.random.choice(sorted(self.topics))
        return self.world.slot(topic, self.random.randrange(self.topics[topic]))

    def master(self) -> Server:
        """The master of a partition under load, if it still answers."""
        try:
            return self.world.storage.master_of(self.any_slot())
        except AssertionError as nobody:
            raise Skipped("no master left to hit") from nobody

    def replica(self) -> Server:
        """A replica of such a master."""
        try:
            return self.world.storage.replica_of(self.master())
        except AssertionError as nobody:
            raise Skipped("no replica left to hit") from nobody

    def cluster(self) -> Cluster:
        """The storage, where it is a cluster."""
        if not isinstance(self.world.storage, Cluster):
            raise Skipped("needs a cluster")
        return self.world.storage

    # --- rounds ----------------------------------------------------------------------------------------------

    def choose(self) -> list[str]:
        """The next round's faults: a shuffled deck, so that every fault comes as often as the others."""
        names = []
        for _ in range(self.random.choice(TOGETHER)):
            if not self._deck:
                self._deck = self.random.sample(sorted(FAULTS), len(FAULTS))
            names.append(self._deck.pop())
        return names

    def round(self, names: list[str] | None = None) -> None:
        """Begin, hold, end, heal."""
        under_way: list[tuple[float, int, str, Fault]] = []
        began = time.monotonic()
        for name in self.choose() if names is None else names:
            try:
                made = FAULTS[name](self)
            except (Skipped, NotPermitted) as why:
                self.skipped.setdefault(name, str(why))
                continue
            except (OSError, AssertionError, hiredis.ReplyError) as trouble:
                # Two faults may meet: the second's victim does not answer. What was half done, healing undoes.
                self.history.add("note", "info", name=name, error=repr(trouble))
                continue
            self.made += 1
            log.info("%s of %s", name, made.target)
            self.history.add("fault", "invoke", id=self.made, name=name, target=made.target)
            held = self.random.uniform(*self.held_s) if made.end else 0.0
            under_way.append((began + held, self.made, name, made))
        apart = []
        for due, number, name, made in sorted(under_way, key=lambda each: each[0]):
            time.sleep(max(0.0, due - time.monotonic()))
            if name == "kill-worker":  # which does not start before the storage is back: others end meanwhile
                apart.append(threading.Thread(target=self._end, args=(number, name, made)))
                apart[-1].start()
            else:
                self._end(number, name, made)
        for each in apart:
            each.join()
        self.world.heal()
        self.history.add("healed", "ok")

    def _end(self, number: int, name: str, made: Fault) -> None:
        if made.end:
            try:
                made.end()
            except (OSError, RuntimeError, AssertionError, hiredis.ReplyError) as trouble:
                self.history.add("note", "info", name=name, error=repr(trouble)[:300])  # healing tries once more
        self.history.add("fault", "ok", id=number, name=name, target=made.target)


# --- workers --------------------------------------------------------------------------------------------------


@fault
def kill_worker(nemesis: Nemesis) -> Fault:
    """kill -9; another serves its partitions."""
    victim = nemesis.random.choice(nemesis.world.workers)
    victim.kill()
    return Fault(victim.address, victim.heal)


@fault
def pause_worker(nemesis: Nemesis) -> Fault:
    """SIGSTOP, long enough to be taken for dead or not; then it goes on as if nothing had been."""
    victim = nemesis.random.choice(nemesis.world.workers)
    victim.pause()
    return Fault(victim.address, victim.heal)


# --- masters --------------------------------------------------------------------------------------------------


@fault
def kill_master(nemesis: Nemesis) -> Fault:
    """kill -9; its replica is promoted, and acks=all waits until the dead one is back as a replica."""
    victim = nemesis.master()
    victim.kill()
    return Fault(victim.address, lambda: alive(victim))


@fault
def restart_master(nemesis: Nemesis) -> Fault:
    """kill -9 and start again at once, before anybody was promoted."""
    victim = nemesis.master()
    victim.restart()
    return Fault(victim.address)


@fault
def pause_master(nemesis: Nemesis) -> Fault:
    """SIGSTOP: a zombie with requests in its queue, which a promoted replica may have replaced when it wakes."""
    victim = nemesis.master()
    victim.stop()
    return Fault(victim.address, victim.cont)


@fault
def kill_two_masters(nemesis: Nemesis) -> Fault:
    """Two of three masters at once: no majority, until they are back."""
    masters = nemesis.world.masters()
    if len(masters) < 2:
        raise Skipped("needs two masters")
    victims = nemesis.random.sample(masters, 2)
    for victim in victims:
        victim.kill()
    return Fault(" ".join(each.address for each in victims), lambda: alive(*victims))


@fault
def kill_master_and_replica(nemesis: Nemesis) -> Fault:
    """Every copy of a partition at once; the disk has it."""
    replica = nemesis.replica()
    masters = {node.port: node for node in nemesis.world.storage.nodes}
    victims = (masters[replica.command("ROLE")[2]], replica)
    for victim in victims:
        victim.kill()
    return Fault(" ".join(each.address for each in victims), lambda: alive(*victims))


@fault
def failover(nemesis: Nemesis) -> Fault:
    """An orderly one."""
    nemesis.cluster()
    replica = nemesis.replica()
    replica.command("CLUSTER", "FAILOVER")
    return Fault(replica.address)


@fault
def failover_by_force(nemesis: Nemesis) -> Fault:
    """The replica does not ask the master, which goes on for a moment."""
    nemesis.cluster()
    replica = nemesis.replica()
    replica.command("CLUSTER", "FAILOVER", "FORCE")
    return Fault(replica.address)


# --- the network ------------------------------------------------------------------------------------------------


def some(nemesis: Nemesis) -> list[Party]:
    """Some of the workers and of the clients, perhaps none or all."""
    everybody = [each.party for each in nemesis.world.workers] + list(nemesis.world.parties.values())
    return [each for each in everybody if nemesis.random.random() < 0.5]


def parted(nemesis: Nemesis, ones: list[Party], others: list[Party], target: str) -> Fault:
    """A cut, and what mends it."""
    network = nemesis.world.network
    number = network.cut(ones, others)
    return Fault(target, lambda: network.mend(number))


@fault
def isolate_master(nemesis: Nemesis) -> Fault:
    """No other node hears it, but some workers and clients do, whom it may tell of writes that nobody else has."""
    victim = nemesis.master()
    others = [party_of(node) for node in nemesis.world.storage.nodes if node is not victim]
    return parted(nemesis, [party_of(victim)], others + some(nemesis), victim.address)


@fault
def isolate_replica(nemesis: Nemesis) -> Fault:
    """No other node hears it; when it is back it is behind, and may want to be elected."""
    victim = nemesis.replica()
    others = [party_of(node) for node in nemesis.world.storage.nodes if node is not victim]
    return parted(nemesis, [party_of(victim)], others, victim.address)


@fault
def split(nemesis: Nemesis) -> Fault:
    """A master with its replica, some workers and some clients on one side, everybody else on the other."""
    cluster, master = nemesis.cluster(), nemesis.master()
    side = (master, cluster.replica_of(master))
    here = [party_of(node) for node in side] + some(nemesis)
    there = [party_of(node) for node in cluster.nodes if node not in side]
    there += [each.party for each in nemesis.world.workers if each.party not in here]
    there += [each for each in nemesis.world.parties.values() if each not in here]
    return parted(nemesis, here, there, " ".join(each.address for each in side))


@fault
def isolate_worker(nemesis: Nemesis) -> Fault:
    """It does not reach Redis any more, and its clients still reach it."""
    victim = nemesis.random.choice(nemesis.world.workers)
    nodes = [party_of(node) for node in nemesis.world.storage.nodes]
    return parted(nemesis, [victim.party], nodes, victim.address)


# --- replicas, slots, scripts, memory, disk -------------------------------------------------------------------------


@fault
def kill_replica(nemesis: Nemesis) -> Fault:
    """kill -9; acks=all waits for it."""
    victim = nemesis.replica()
    victim.kill()
    return Fault(victim.address, lambda: alive(victim))


@fault
def pause_replica(nemesis: Nemesis) -> Fault:
    """SIGSTOP: Redis calls it online for a minute, WAIT knows better."""
    victim = nemesis.replica()
    victim.stop()
    return Fault(victim.address, victim.cont)


@fault
def slow_replica(nemesis: Nemesis) -> Fault:
    """It runs a fifth of the time: never away, and late with every acknowledgement."""
    victim, over = nemesis.replica(), threading.Event()

    def hobble() -> None:
        with contextlib.suppress(AssertionError):  # another fault has killed it
            while not over.is_set():
                victim.stop()
                over.wait(0.2)
                victim.cont()
                over.wait(0.05)

    def end() -> None:
        over.set()
        hobbling.join()

    hobbling = threading.Thread(target=hobble, daemon=True)
    hobbling.start()
    return Fault(victim.address, end)


@fault
def reshard(nemesis: Nemesis) -> Fault:
    """A partition moves to another master under load: at once on Valkey 9, key by key elsewhere."""
    cluster, slot = nemesis.cluster(), nemesis.any_slot()
    source = cluster.master_of(slot)
    others = [node for node in nemesis.world.masters() if node is not source]
    if not others:
        raise Skipped("no other master")
    target = nemesis.random.choice(others)
    if nemesis.world.valkey:
        node = target.command("CLUSTER", "MYID").decode()
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", node)
    else:
        for _ in cluster.migrate_key_by_key(slot, target):
            pass
    return Fault(f"slot {slot}: {source.address} to {target.address}")


@fault
def flush_scripts(nemesis: Nemesis) -> Fault:
    """SCRIPT FLUSH on every master."""
    for node in nemesis.world.masters():
        node.command("SCRIPT", "FLUSH")
    return Fault("every master")


@fault
def fill_memory(nemesis: Nemesis) -> Fault:
    """CONFIG SET maxmemory 1: every write that takes memory is refused."""
    victim = nemesis.master()
    victim.command("CONFIG", "SET", "maxmemory", 1)
    return Fault(victim.address, lambda: victim.command("CONFIG", "SET", "maxmemory", 0))


@fault
def fill_disk(nemesis: Nemesis) -> Fault:
    """The next append to the file fails, and with `appendfsync always` the server ends itself."""
    disks = nemesis.world.disks
    victim = nemesis.random.choice([node for node in nemesis.world.storage.nodes if node.port in disks])
    disk = disks[victim.port]
    disk.fill()
    return Fault(victim.address, lambda: (disk.free(), alive(victim)))


def alive(*nodes: Server) -> None:
    """Start what is dead."""
    for node in nodes:
        if node.process is None or node.process.poll() is not None:
            node.start(wait=False)
    for node in nodes:
        wait_until(lambda node=node: node.command("PING", timeout_s=1) == b"PONG", 20, "server is back")  # type: ignore[misc]
