"""Large classic groups over raw sockets, one connection a member.

`settle_ms`: `joiners` members begin to join one new group at once; until the last of them has its assignment. The
broker's initial rebalance delay is part of it.
`core_share`: the broker's share of one core, in percent, while `beaters` settled members of another group heartbeat
every `interval_s`, spread over it as clients are.

Layouts: Kafka protocol guide (JoinGroup v5, SyncGroup v3, Heartbeat v3: the newest without tagged fields).
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

import uvloop

from bench.clients import run
from bench.frames import CLIENT_ID, frame
from bench.servers import cpu_seconds

JOIN, HEARTBEAT, SYNC = 11, 12, 14
MEMBER_ID_REQUIRED = 79
SESSION_MS = 30_000
PATIENCE_S = 60.0
CONNECTING_AT_ONCE = 100


def text(value: str) -> bytes:
    """STRING."""
    return struct.pack(">h", len(value)) + value.encode()


def blob(value: bytes) -> bytes:
    """BYTES."""
    return struct.pack(">i", len(value)) + value


NO_INSTANCE = struct.pack(">h", -1)


class Answer:
    """Reads the fields of an answer one after the other."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.at = payload, 4  # behind the correlation id

    def number(self, form: str) -> int:
        """An integer of a `struct` letter."""
        (value,) = struct.unpack_from(f">{form}", self.payload, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def text(self) -> str:
        """STRING; empty where it is null."""
        length = max(0, self.number("h"))
        self.at += length
        return self.payload[self.at - length : self.at].decode()

    def blob(self) -> bytes:
        """BYTES."""
        length = self.number("i")
        self.at += length
        return self.payload[self.at - length : self.at]


class Member:
    """One member on its own connection."""

    def __init__(self, group: str) -> None:
        self.group, self.id, self.generation = group, "", -1

    async def connect(self, port: int) -> None:
        """Open the connection."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(self, key: int, version: int, body: bytes) -> Answer:
        """One request and its answer."""
        self.writer.write(frame(struct.pack(">hhih", key, version, 1, len(CLIENT_ID)) + CLIENT_ID + body))
        (length,) = struct.unpack(">i", await self.reader.readexactly(4))
        return Answer(await self.reader.readexactly(length))

    async def join(self) -> list[str]:
        """Until the generation begins; gives the members' ids to its leader, nothing to others."""
        times = struct.pack(">ii", SESSION_MS, SESSION_MS)
        protocol = struct.pack(">i", 1) + text("range") + blob(b"subscription")
        while True:
            body = text(self.group) + times + text(self.id) + NO_INSTANCE + text("consumer") + protocol
            answer = await self.ask(JOIN, 5, body)
            answer.number("i")
            error, self.generation = answer.number("h"), answer.number("i")
            answer.text()
            leader, self.id = answer.text(), answer.text()
            if error == MEMBER_ID_REQUIRED:
                continue
            self.check(error)
            members = []
            for _ in range(answer.number("i")):
                members.append(answer.text())
                answer.text()
                answer.blob()
            return members if leader == self.id else []

    async def sync(self, members: list[str]) -> None:
        """Until the assignment is there."""
        given = b"".join(text(each) + blob(b"assignment of " + each.encode()) for each in members)
        answer = await self.ask(SYNC, 3, self._place() + struct.pack(">i", len(members)) + given)
        answer.number("i")
        self.check(answer.number("h"))
        if answer.blob() != b"assignment of " + self.id.encode():
            raise RuntimeError("a member got somebody else's assignment")

    async def enter(self) -> None:
        """Join and sync."""
        await self.sync(await self.join())

    async def beat(self) -> None:
        """One heartbeat."""
        answer = await self.ask(HEARTBEAT, 3, self._place())
        answer.number("i")
        self.check(answer.number("h"))

    async def beat_every(self, interval_s: float, first_s: float, times: int) -> None:
        """Heartbeats at a steady pace."""
        due = time.perf_counter() + first_s
        for _ in range(times):
            await asyncio.sleep(due - time.perf_counter())
            await self.beat()
            due += interval_s

    def check(self, error: int) -> None:
        """Nothing may be refused here."""
        if error:
            raise RuntimeError(f"error code {error} in group {self.group}")

    def _place(self) -> bytes:
        return text(self.group) + struct.pack(">i", self.generation) + text(self.id) + NO_INSTANCE


async def settled(port: int, group: str, count: int) -> tuple[list[Member], float]:
    """A new group of so many members that came at once, and the ms until all had their assignments."""
    members = [Member(group) for _ in range(count)]
    for at in range(0, count, CONNECTING_AT_ONCE):
        await asyncio.gather(*(each.connect(port) for each in members[at : at + CONNECTING_AT_ONCE]))
    began = time.perf_counter()
    await asyncio.gather(*(each.enter() for each in members))
    return members, (time.perf_counter() - began) * 1e3


async def load(port: int, broker_pid: int, joiners: int, beaters: int, interval_s: float, beats: int) -> dict[str, Any]:
    """Both measurements."""
    async with asyncio.timeout(PATIENCE_S + interval_s * beats):
        stamp = time.time_ns()
        joined, settle_ms = await settled(port, f"crowd-{stamp}", joiners)
        beating, _ = await settled(port, f"steady-{stamp}", beaters)
        cpu, broker_cpu, began = time.process_time(), cpu_seconds(broker_pid), time.perf_counter()
        await asyncio.gather(
            *(each.beat_every(interval_s, interval_s * place / beaters, beats) for place, each in enumerate(beating))
        )
        share = (cpu_seconds(broker_pid) - broker_cpu) / (time.perf_counter() - began)
        served = joiners + beaters * (1 + beats)
        for each in (*joined, *beating):
            each.writer.close()
    return {
        "settle_ms": settle_ms, "core_share": 100 * share, "served": served,
        "cpu_us": (time.process_time() - cpu) / served * 1e6,
    }  # fmt: skip


def crowd(bootstrap: str, **arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    return uvloop.run(load(int(bootstrap.rpartition(":")[2]), **arguments))


if __name__ == "__main__":
    run(crowd)
