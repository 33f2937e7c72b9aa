"""Starting, probing and stopping servers: each on a free loopback port, with its own scratch folder, stopped by pid.

CPU seconds and resident bytes come from /proc, so these numbers (not the others) are Linux only.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.frames import api_versions_request

START_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 15.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class ServerError(RuntimeError):
    """A server did not start or died; the message ends with the last lines it wrote."""


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask_api_versions(port: int, timeout_seconds: float) -> bool:
    """True when the broker at `port` answered one ApiVersions request; False while it does not."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_seconds) as connection:
            connection.settimeout(timeout_seconds)
            connection.sendall(api_versions_request())
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def ask_ping(port: int, timeout_seconds: float) -> bool:
    """True when the Redis server at `port` answered PING."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_seconds) as connection:
            connection.settimeout(timeout_seconds)
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
    except OSError:
        return False


def ask_in_step(port: int, timeout_seconds: float) -> bool:
    """True when the Redis server at `port` has a replica that is in step."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_seconds) as connection:
            connection.settimeout(timeout_seconds)
            connection.sendall(b"INFO replication\r\n")
            return b"state=online" in connection.recv(4096)
    except OSError:
        return False


class Server:
    """One running server process and its scratch folder, which goes away with it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.command = [str(word) for word in command]
        self.folder = Path(tempfile.mkdtemp(prefix="redbroker-bench-"))
        self.output = self.folder / "output"
        self.started = time.perf_counter()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(self, port: int, ask: object = ask_api_versions) -> float:
        """Waits for the first answer at `port`; gives the seconds since exec."""
        assert callable(ask)
        while time.perf_counter() - self.started < START_SECONDS_MAX:
            if ask(port, 1.0):
                return time.perf_counter() - self.started
            if self.process.poll() is not None:
                raise ServerError(f"{self.command[0]} ended with {self.process.returncode}: {self.last_words()}")
            time.sleep(0.002)
        words = self.last_words()
        self.stop()
        raise ServerError(f"{self.command[0]} did not answer within {START_SECONDS_MAX:g} s: {words}")

    def last_words(self) -> str:
        """The end of what it wrote."""
        return self.output.read_text(errors="replace")[-2_000:].strip() or "it wrote nothing"

    def children(self) -> list[int]:
        """Pids of its child processes (the embedded storage of `redbroker dev`)."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def stop(self) -> None:
        """Asks it to end, insists after a while, and removes its folder."""
        children = self.children()
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in children:
            stop_orphan(child)
        shutil.rmtree(self.folder, ignore_errors=True)


def stop_orphan(pid: int) -> None:
    """Ends a child that outlived its parent."""
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.02)
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of a process so far; 0 where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, in 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
