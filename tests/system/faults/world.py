"""What a run breaks: Redis servers, workers in front of them and the clients, all processes of this machine.

Everything a run starts it stops by process id; data folders are the servers' own, so a restart finds its data again.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hiredis

from examples.processes import Process, stop_all
from redbroker.engine.slots import key_slot
from tests.support.clusters import NODE_TIMEOUT_MS, Cluster, a_cluster
from tests.support.servers import Server, free_port, started, wait_until
from tests.system.faults.apart import Network, NotPermitted, Party, a_network
from tests.system.faults.disk import Disk, a_disk

CLIENT_END_S = 90.0
CLIENT_GROUPS = 30_001
DURABLE = (
    *("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no", "--repl-timeout", "5"),
    *("--cluster-replica-validity-factor", "10", "--cluster-allow-replica-migration", "no"),
    *("--cluster-require-full-coverage", "no"),
)  # what docs/durability.md recommends


def party_of(node: Server) -> Party:
    """A Redis server in the network: its port, and that of the cluster's bus."""
    return Party(node.port, (node.port, node.port + 10_000))


def joined(network: Network | str | None, party: Party) -> int | None:
    """The group a process has to run as, to be known in the network; None: there is no such network."""
    if not isinstance(network, Network):
        return None
    network.join(party)
    return party.group


class Worker:
    """One worker that keeps its port when it is started again."""

    def __init__(self, storage: str, *words: str, network: Network | None = None) -> None:
        port = free_port()
        self.words = ("worker", "--storage", storage, "--port", str(port), *words)
        self.party = Party(port, (port,))
        self.group = joined(network, self.party)
        self.process = Process(*self.words, group=self.group)
        self.address = self.process.address
        self.paused = False
        self._starting = threading.Lock()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.running.send_signal(signal.SIGSTOP)
        self.paused = True

    def heal(self) -> None:
        """Continue it, or start it again; a start that fails while the storage is away is tried again."""
        if self.paused and self.process.running.poll() is None:
            self.process.running.send_signal(signal.SIGCONT)
        self.paused = False
        with self._starting:
            for attempt in range(5):
                if self.process.running.poll() is None:
                    return
                try:
                    self.process = Process(*self.words, group=self.group)
                except RuntimeError:
                    if attempt == 4:
                        raise
                    time.sleep(0.5)


class Pair:
    """A master and its replica without a cluster: nobody is promoted, and acks=all waits for both."""

    def __init__(self, master: Server, replica: Server) -> None:
        self.nodes, self.master, self.replica = [master, replica], master, replica
        self.url = master.url

    def master_of(self, slot: int) -> Server:
        """There is one."""
        return self.master

    def replica_of(self, master: Server) -> Server:
        """There is one."""
        return self.replica

    def healthy(self) -> bool:
        """The replica is in step with the master."""
        return "state=online" in self.master.info("slave0") and self.replica.info("master_link_status") == "up"

    def heal(self) -> None:
        """Continue the stopped, restart the dead, wait until they are in step."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.cont()
            else:
                node.start()
        wait_until(self.healthy, 30, "the pair heals")


class World:
    """Storage, workers and clients of one run."""

    def __init__(
        self, storage: Cluster | Pair, history: Path, network: Network | str, disks: dict[int, Disk] | str
    ) -> None:
        """A network of the run's own and small disks by the port of their server; or why there are none."""
        self.storage = storage
        self._network = network
        self._disks = disks
        self.history = history
        self.workers: list[Worker] = []
        self.clients: dict[str, subprocess.Popen[bytes]] = {}
        self.parties: dict[str, Party] = {}
        self.node_timeout_s = NODE_TIMEOUT_MS / 1_000 if isinstance(storage, Cluster) else 0.0

    @property
    def is_cluster(self) -> bool:
        """Can a replica be promoted, a slot be moved?"""
        return isinstance(self.storage, Cluster)

    @property
    def network(self) -> Network:
        """The run's own; NotPermitted where there is none."""
        if isinstance(self._network, str):
            raise NotPermitted(self._network)
        return self._network

    @property
    def disks(self) -> dict[int, Disk]:
        """Small disks by the port of the server that has one; NotPermitted where there can be none."""
        if isinstance(self._disks, str):
            raise NotPermitted(self._disks)
        return self._disks

    @property
    def bootstrap(self) -> str:
        """Every worker."""
        return ",".join(worker.address for worker in self.workers)

    @property
    def valkey(self) -> bool:
        """Is it Valkey (9), which moves slots atomically?"""
        return self.storage.nodes[0].binary.endswith("valkey-server") or "valkey" in self.storage.nodes[0].binary

    @property
    def server(self) -> str:
        """Name and version of what is broken."""
        info = self.storage.nodes[0].info
        valkey = info("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {info('redis_version')}"

    def slot(self, topic: str, partition: int) -> int:
        """The slot of a partition."""
        return key_slot(f"rb:{{{topic}:{partition}}}:log".encode())

    def masters(self) -> list[Server]:
        """Those that say so now."""
        found = []
        for node in self.storage.nodes:
            with contextlib.suppress(OSError, hiredis.ReplyError):
                if node.command("ROLE", timeout_s=0.5)[0] == b"master":
                    found.append(node)
        return found

    def client(self, kind: str, topic: str, partitions: int, rate: float) -> None:
        """Start one client process."""
        name = f"{kind}-{len(self.clients)}"
        words = (kind, name, self.history, self.bootstrap, self.storage.url, topic, partitions, rate)
        party = self.parties[name] = Party(CLIENT_GROUPS + len(self.clients))
        self.clients[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.system.faults.clients", *map(str, words)],
            stdin=subprocess.PIPE,
            group=joined(self._network, party),
        )

    def end_clients(self) -> dict[str, int | None]:
        """Let them end in good order; name -> exit code, None for one that had to be killed."""
        for process in self.clients.values():
            assert process.stdin
            process.stdin.close()
        deadline, codes = time.monotonic() + CLIENT_END_S, {}
        for name, process in self.clients.items():
            try:
                codes[name] = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes[name] = None
        self.clients.clear()
        return codes

    def heal(self) -> None:
        """Everything runs again, and every copy is in step."""
        if isinstance(self._network, Network):
            self._network.mend()
        for disk in () if isinstance(self._disks, str) else self._disks.values():
            disk.free()
        self.storage.heal()
        for node in self.storage.nodes:
            node.command("CONFIG", "SET", "maxmemory", 0)
        for worker in self.workers:
            worker.heal()


@contextlib.contextmanager
def a_world(
    history: Path,
    *,
    cluster: bool = True,
    workers: int = 2,
    binary: str | None = None,
    options: tuple[str, ...] = DURABLE,
    apart: bool = True,
) -> Iterator[World]:
    """Three masters with a replica each (or one with one), and workers before them.

    `apart`: in a network of their own, where that is permitted.
    """
    with contextlib.ExitStack() as stack:
        network: Network | str = "not asked for"
        if apart:
            try:
                network = stack.enter_context(a_network())
            except NotPermitted as why:
                network = str(why)
        own = network if isinstance(network, Network) else None

        disks: dict[int, Disk] = {}
        no_disks = network if isinstance(network, str) else ""

        def prepare(nodes: list[Server]) -> None:
            nonlocal no_disks
            for node in nodes:
                node.group = joined(own, party_of(node))
            try:
                for node in () if no_disks else (nodes[0], nodes[len(nodes) // 2]):  # a master and its replica
                    disks[node.port] = stack.enter_context(a_disk(node.directory))
            except NotPermitted as why:
                no_disks = str(why)

        storage: Cluster | Pair
        if cluster:
            storage = stack.enter_context(a_cluster(3, 1, *options, binary=binary, prepare=prepare))
        else:
            master = Server(*options, binary=binary)
            replica = Server("--replicaof", f"127.0.0.1 {master.port}", *options, binary=binary)
            prepare([master, replica])
            stack.enter_context(started([master, replica]))
            storage = Pair(master, replica)
            wait_until(storage.healthy, what="replica connects")
        world = World(storage, history, network, no_disks or disks)
        stack.callback(lambda: stop_all([worker.process for worker in world.workers]))
        for _ in range(workers):
            world.workers.append(Worker(storage.url, network=own))
        try:
            yield world
        finally:
            for process in world.clients.values():
                process.kill()
                process.wait()
            for worker in world.workers:
                if worker.paused:
                    worker.process.running.send_signal(signal.SIGCONT)
