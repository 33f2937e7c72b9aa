"""Directed scenarios: one loss each, made to happen every time, at each level of acks and setting of the server.

They prove the checker (a sabotaged set-up must be flagged) and measure the table of loss windows. Each gives the
checker's verdict on a history of its own. Writes go through the engine, the same one that the workers run.

    master ── replica(s)      a replica is paused: what is written now it does not have
      ╳         │             the master dies (kill -9) with the replicas that kept up
                ▼             the paused one is promoted, and the log is read from it
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import redis

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append, Appended
from redbroker.engine.scripts import Script, all_scripts
from redbroker.engine.slots import key_slot
from redbroker.engine.topics import Topic
from redbroker.wire.records import build_batch, read_header
from tests.support.clusters import a_cluster
from tests.support.servers import Server, started, wait_until
from tests.support.storages import make_script
from tests.system.faults.apart import a_network
from tests.system.faults.checker import Verdict, check
from tests.system.faults.history import History, payload, read_history
from tests.system.faults.run import read_one
from tests.system.faults.world import joined, party_of

TOPIC = "t"
SETTLED = 20
BURST = 200
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")
MEMORY = ("--appendonly", "no")
STRACE = shutil.which("strace")

EPOCH_CHECK = b"if rid_now == rid then"
DUPLICATE_TOUCH = b"if duplicates > 0 then redis.call('HINCRBY', state, 'duplicates', duplicates) end"


class Writer:
    """An idempotent producer on the engine that writes down what it is told."""

    def __init__(self, path: Path, name: str, producer_id: int, claims: int = -1) -> None:
        """`claims` is the level of acks the checker holds it to, whatever it does in truth."""
        self.history, self.producer_id = History(path, name), producer_id
        self.numbers = itertools.count()
        self.history.add("open", "ok", role="writer", acks=claims, idempotent=True)

    def batch(self) -> tuple[str, bytes]:
        """The next value and its batch."""
        number = next(self.numbers)
        value = f"{self.history.by}:{TOPIC}:0:{number}"
        self.history.add("send", "invoke", log=f"{TOPIC}:0", values=[value])
        record = (0, int(time.time() * 1_000), None, payload(value), ())
        return value, build_batch([record], producer_id=self.producer_id, producer_epoch=0, base_sequence=number)

    async def burst(self, engine: Engine, topic: Topic, count: int, acks: int, timeout_ms: int = 2_000) -> None:
        """Send several at once."""
        await self.send(engine, topic, [self.batch() for _ in range(count)], acks, timeout_ms)

    async def send(
        self, engine: Engine, topic: Topic, made: list[tuple[str, bytes]], acks: int, timeout_ms: int = 2_000
    ) -> None:
        """Send batches (perhaps not for the first time) and write the answers down."""
        appends = [Append(topic, 0, batch, read_header(batch)) for _, batch in made]
        answers = await engine.log.append(appends, acks=acks, timeout_ms=timeout_ms)
        for (value, _), answer in zip(made, answers, strict=True):
            log, values = f"{TOPIC}:0", [value]
            if isinstance(answer, Appended):
                epochs = [] if answer.duplicate else [answer.leader_epoch]
                self.history.add("send", "ok", log=log, values=values, offsets=[answer.base_offset], epochs=epochs)
            else:
                self.history.add("send", "info", log=log, values=values, error=str(answer))


def an_engine(server: Server, replicas: int, min_insync: int | None = None) -> Any:
    """An engine of this process that soon gives up on a server that is gone."""
    url = f"redis://{server.address}"
    return Engine.open(
        Settings(storage_url=url, replicas=replicas, min_insync_replicas=min_insync, storage_retry_ms=100)
    )


async def judged(url: str, path: Path) -> Verdict:
    """Read what is left and let the checker speak."""
    async with Engine.open(Settings(storage_url=url, replicas=0)) as engine:
        history = History(path, "final")
        await read_one(engine.log, await engine.topics.ensure(TOPIC), 0, history)
        history.close()
    return check(read_history(path))


@contextlib.asynccontextmanager
async def a_shard(replicas: int, *options: str) -> AsyncIterator[list[Server]]:
    """A master and its replicas, in step."""
    master = Server(*options)
    others = [Server("--replicaof", f"127.0.0.1 {master.port}", *options) for _ in range(replicas)]
    with started([master, *others]):
        for index in range(replicas):
            wait_until(lambda index=index: "state=online" in master.info(f"slave{index}"), what="replica connects")  # type: ignore[misc]
        for each in others:
            # Behind a full resync a replica confirms writes before its own file begins; only then it survives a kill.
            wait_until(lambda each=each: settled(each), what="the replica's file is written")  # type: ignore[misc]
        yield [master, *others]


def settled(server: Server) -> bool:
    """Is no AOF rewrite under way or about to be?"""
    return server.info("aof_rewrite_in_progress") == server.info("aof_rewrite_scheduled") == "0"


# --- a replica that does not have it is promoted -----------------------------------------------------------------


async def stale_replica_promoted(
    path: Path, *, acks: int, replicas: int = 1, min_insync: int | None = None, sabotage: str = ""
) -> Verdict:
    """The picture above. With acks=all and every copy waited for, nothing is acknowledged meanwhile."""
    async with a_shard(replicas, *ALWAYS) as (master, stale, *others):
        async with an_engine(master, replicas, min_insync) as engine, an_engine(master, replicas, min_insync) as other:
            topic = await engine.topics.create(TOPIC, 1)
            await other.topics.find(TOPIC)
            writer = Writer(path, "w", engine.new_producer_id())
            await writer.burst(engine, topic, SETTLED, -1)
            if sabotage == "wait-elsewhere":
                wait_elsewhere(engine, master)
            stale.stop()
            made = [writer.batch() for _ in range(BURST)]
            await writer.send(engine, topic, made, acks, 5_000 if min_insync else 300)
            if acks == -1 and min_insync is None:
                # Refused for want of copies, as it should be; so the client sends the last of it to another worker.
                await writer.send(other, topic, made[-5:], acks, 300)
            # The paused one too: what lies unread in its socket it must not read when it wakes.
            for server in (master, *others, stale):
                server.kill()
        stale.start()
        stale.command("REPLICAOF", "NO", "ONE")
        async with an_engine(stale, 0) as engine:
            topic = await engine.topics.ensure(TOPIC)
            await Writer(path, "later", engine.new_producer_id()).burst(engine, topic, SETTLED, 1)
        return await judged(stale.url, path)


async def killed_and_promoted(path: Path, *, acks: int) -> Verdict:
    """kill -9 right behind a burst, and a replica that kept up is promoted."""
    async with a_shard(1, *ALWAYS) as (master, replica):
        async with an_engine(master, 1) as engine:
            topic = await engine.topics.create(TOPIC, 1)
            writer = Writer(path, "w", engine.new_producer_id())
            for _ in range(20):
                await writer.burst(engine, topic, BURST // 20, acks)
            master.kill()
        replica.command("REPLICAOF", "NO", "ONE")
        return await judged(replica.url, path)


async def left_in_a_minority(path: Path, *, acks: int) -> Verdict:
    """A master that no other node hears takes writes until it sees that it is alone; its replica is promoted."""
    with a_network() as network:

        def known(nodes: list[Server]) -> None:
            for node in nodes:
                node.group = joined(network, party_of(node))

        with a_cluster(3, 1, *ALWAYS, prepare=known) as cluster:
            settings = Settings(storage_url=cluster.url, replicas=1, storage_retry_ms=100)
            async with Engine.open(settings) as engine:
                topic = await engine.topics.create(TOPIC, 1)
                writer = Writer(path, "w", engine.new_producer_id())
                await writer.burst(engine, topic, SETTLED, -1)
                master = cluster.master_of(key_slot(b"rb:{%s:0}:log" % TOPIC.encode()))
                replica = cluster.replica_of(master)
                network.cut([party_of(master)], [party_of(node) for node in cluster.nodes if node is not master])
                await writer.burst(engine, topic, BURST, acks, 300)
            wait_until(lambda: replica.command("ROLE")[0] == b"master", 30, "the replica is promoted")
            assert master.command("ROLE")[0] == b"master"
            network.mend()
            wait_until(cluster.healthy, 30, "cluster heals")
            return await judged(cluster.url, path)


# --- a server that comes back with less ----------------------------------------------------------------------------


async def killed_and_restarted(path: Path, options: tuple[str, ...], *, acks: int) -> Verdict:
    """kill -9 right behind a burst, and a start with the same folder before anybody was promoted.

    The replica has everything, but it follows: what its master has lost, it loses by the full resync. A disk that is
    slow (strace holds up its fsync) makes everysec lose every time what it otherwise loses by bad luck.
    """
    async with a_shard(1, *options) as (master, replica):
        async with an_engine(master, 1) as engine:
            topic = await engine.topics.create(TOPIC, 1)
            writer = Writer(path, "w", engine.new_producer_id())
            with slow_fsync(master) if options == EVERYSEC else contextlib.nullcontext():
                await writer.burst(engine, topic, SETTLED, acks, 5_000)
                if options == EVERYSEC:
                    await asyncio.sleep(1.2)  # from here on the next second's fsync is under way, and stays so
                    await writer.burst(engine, topic, SETTLED, acks, 5_000)
                    await asyncio.sleep(0.2)
                await writer.burst(engine, topic, BURST, acks, 5_000)
                master.kill()
        master.start()
        wait_until(lambda: "state=online" in master.info("slave0"), 30, "replica connects again")
        wait_until(lambda: replica.info("master_link_status") == "up", 30, "replica is in step again")
        return await judged(master.url, path)


@contextlib.contextmanager
def slow_fsync(server: Server, seconds: float = 3.0) -> Iterator[None]:
    """strace holds up every fsync of a server, like a disk that is busy."""
    assert server.process and STRACE
    delay = f"inject=fdatasync,fsync:delay_enter={int(seconds * 1e6)}"
    words = [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", delay]
    tracer = subprocess.Popen([*words, "-p", str(server.process.pid)], stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{server.process.pid}/status")
    wait_until(lambda: f"TracerPid:\t{tracer.pid}" in status.read_text(), 5, "strace attaches")
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


# --- saboteurs -----------------------------------------------------------------------------------------------------


def wait_elsewhere(engine: Engine, master: Server) -> None:
    """WAIT on another connection, as a pool of connections would have it: it speaks about no write at all."""
    storage: Any = engine.storage

    def wait(replicas: int) -> int:
        with redis.Redis(port=master.port) as client:
            return int(client.execute_command("WAIT", replicas, 100))

    async def acked(named: Script, keys: Any, words: Any, *, replicas: int, **_: Any) -> tuple[Any, int]:
        return await storage.run(named, keys, words), await asyncio.to_thread(wait, replicas)

    storage.run_acked = lambda *words, **named: asyncio.ensure_future(acked(*words, **named))


@contextlib.contextmanager
def patched_scripts(line: bytes, instead: bytes) -> Iterator[None]:
    """Every script of the engine that has this line runs with another one."""
    hit = [each for each in all_scripts() if line in each.source]
    assert hit, f"no script says {line!r}"
    before = [(each, each.source, each.sha) for each in hit]
    try:
        for each in hit:
            other = make_script(each.name, 0, each.source.replace(line, instead).decode())
            object.__setattr__(each, "source", other.source)
            object.__setattr__(each, "sha", other.sha)
        yield
    finally:
        for each, source, sha in before:
            object.__setattr__(each, "source", source)
            object.__setattr__(each, "sha", sha)
