"""A network and mounts of a run's own, and processes in it that do not hear each other.

The calling thread enters two fresh Linux namespaces, and with it whatever it starts from then on: its loopback is not
the machine's, its mounts are nobody else's, and both are gone when their last process is. Addresses stay 127.0.0.1. A
process is known by the group it runs as, a connection by the group that opened it (its mark) and the port it goes to:

    opened by group 12001, to port 13001          dropped in both directions, without a word to either end:
    ┌──────┐ ──────── tcp dport 13001 ───╳        connections that are there fall silent, new ones get no answer
    │ 12001│ ╳─────── tcp sport 13001 ──── │13001│
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CLONE_FS, CLONE_NEWNS, CLONE_NEWNET = 0x00000200, 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
RULES = """
table inet faults {
    map groups { type gid : mark; }
    chain opened { type filter hook output priority -150; ct state new ct mark set meta skgid map @groups; }
    chain dropped { type filter hook input priority 0; }
}
"""


class NotPermitted(Exception):
    """What this machine does not let us do, in one sentence."""


@dataclass(frozen=True)
class Party:
    """One process of a run: the group it runs as, and the ports it listens on."""

    group: int
    ports: tuple[int, ...] = ()


class Network:
    """Who hears whom; everybody does at first."""

    def __init__(self) -> None:
        self._cuts: dict[int, list[str]] = {}
        self._made = 0
        nft(RULES)

    def join(self, party: Party) -> None:
        """Know a process before it starts: only connections opened later can be cut."""
        nft(f"add element inet faults groups {{ {party.group} : {party.group} }}")

    def cut(self, ones: Sequence[Party], others: Sequence[Party]) -> int:
        """From now on none of the ones and none of the others hear each other; gives the number of this cut."""
        self._made += 1
        self._cuts[self._made] = [
            f"add rule inet faults dropped ct mark {opener.group} ct direction {way} tcp {end} {{ {ports} }} drop"
            for one in ones
            for other in others
            for opener, server in ((one, other), (other, one))
            if (ports := ", ".join(map(str, server.ports)))
            for way, end in (("original", "dport"), ("reply", "sport"))
        ]
        self._apply()
        return self._made

    def mend(self, number: int | None = None) -> None:
        """End one cut, or all of them."""
        for each in list(self._cuts) if number is None else [number]:
            self._cuts.pop(each, None)
        self._apply()

    def _apply(self) -> None:
        """One transaction of the kernel: no moment without rules in between."""
        nft("\n".join(["flush chain inet faults dropped", *(rule for rules in self._cuts.values() for rule in rules)]))


def nft(text: str) -> None:
    """Give rules to the kernel; NotPermitted with its words when it refuses."""
    done = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True)
    if done.returncode:
        raise NotPermitted(f"nft: {done.stderr.strip()[:200]}")


@contextlib.contextmanager
def a_network() -> Iterator[Network]:
    """Work in namespaces of our own; NotPermitted where that cannot be, and nothing has changed then."""
    if os.geteuid() != 0:
        raise NotPermitted("namespaces need root")
    if shutil.which("nft") is None:
        raise NotPermitted("nft is not installed")
    with contextlib.ExitStack() as stack:
        before = [os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY) for name in ("net", "mnt")]
        for each in before:
            stack.callback(os.close, each)
        here = os.getcwd()
        system("unshare", CLONE_NEWNET | CLONE_NEWNS)
        stack.callback(os.chdir, here)
        for each in before:
            stack.callback(system, "setns", each, 0)
        stack.callback(system, "unshare", CLONE_FS)  # threads begun meanwhile share our working directory: no more
        system("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        yield Network()


def system(name: str, *words: int | bytes | None) -> None:
    """A system call that Python 3.11 does not have."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*words) != 0:
        raise NotPermitted(f"{name}: {os.strerror(ctypes.get_errno())}")
