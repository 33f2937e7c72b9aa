"""One run: a world, clients at work, rounds of faults, then quiet, the last reads, and the verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Bounds, Log, Read, ReadResult
from redbroker.engine.topics import Topic
from redbroker.errors import KafkaError
from redbroker.wire.records import iter_records, read_header
from tests.system.faults.checker import Policy, Verdict, check
from tests.system.faults.history import History, read_history, value_of
from tests.system.faults.nemesis import Nemesis
from tests.system.faults.world import World, a_world

ALL = "all"
ONE = "one"
FINAL_S = 30.0


@dataclass(frozen=True)
class Plan:
    """What a run does; the same plan and seed choose the same faults."""

    seed: int = 1
    seconds: float = 60.0
    cluster: bool = True
    workers: int = 2
    partitions: int = 6
    rate: float = 60.0
    held_s: tuple[float, float] = (0.5, 8.0)
    between_s: float = 3.0
    quiet_s: float = 10.0
    binary: str | None = None
    clients: Sequence[str] = (
        "confluent-writes", "aiokafka-writes", "engine-writes", "confluent-reads", "engine-reads", "confluent-joins",
        "aiokafka-joins", "sdk-writes", "sdk-reads", "sdk-joins", "acks-one-writes",
    )  # fmt: skip
    rounds: Sequence[Sequence[str]] = ()
    """Faults to make instead of random ones, round by round."""
    policy: Policy = field(default_factory=Policy)


@dataclass
class Outcome:
    """What a run found."""

    plan: Plan
    verdict: Verdict
    skipped: dict[str, str]
    codes: dict[str, int | None]
    history: Path
    seconds: float
    server: str

    @property
    def valid(self) -> bool:
        """Nothing forbidden happened, and every client ended in good order."""
        return self.verdict.valid and all(code == 0 for code in self.codes.values())


def rounds(nemesis: Nemesis, plan: Plan) -> None:
    """The plan's own, or random ones until it is time."""
    if plan.rounds:
        for faults in plan.rounds:
            nemesis.round(list(faults))
            time.sleep(plan.between_s)
        return
    deadline = time.monotonic() + plan.seconds
    while time.monotonic() < deadline:
        nemesis.round()
        time.sleep(plan.between_s)


def run(plan: Plan, history: Path, faults: Callable[[Nemesis, Plan], None] = rounds) -> Outcome:
    """Do it; `faults` is called while the clients are at work."""
    began = time.monotonic()
    with a_world(history, cluster=plan.cluster, workers=plan.workers, binary=plan.binary) as world:
        names = {ALL: plan.partitions} | ({ONE: 3} if "acks-one-writes" in plan.clients else {})
        log, server = History(history, "nemesis"), world.server
        asyncio.run(create(world.storage.url, names))
        for kind in plan.clients:
            topic = ONE if kind.startswith("acks-one") else ALL
            world.client(kind, topic, names[topic], plan.rate)
        work_begins(history, plan.clients)
        log.add("run", "ok", seed=plan.seed, node_timeout_s=world.node_timeout_s, server=server)
        nemesis = Nemesis(world, log, plan.seed, names, plan.held_s)
        faults(nemesis, plan)
        log.add("quiet", "ok")
        time.sleep(plan.quiet_s)
        codes = world.end_clients()
        log.add("ended", "ok", codes=codes)
        finish(world, history, names, plan.clients)
    verdict = check(read_history(history), plan.policy)
    return Outcome(plan, verdict, nemesis.skipped, codes, history, time.monotonic() - began, server)


def work_begins(history: Path, clients: Sequence[str]) -> None:
    """Wait until every kind of client has had its first success."""
    wanted = set(clients)
    deadline = time.monotonic() + 40
    while wanted and time.monotonic() < deadline:
        time.sleep(0.2)
        for op in read_history(history):
            if op["type"] == "ok" and op["f"] in ("send", "poll"):
                wanted.discard(op["by"].rpartition("-")[0])
    if wanted:
        raise RuntimeError(f"clients that did not begin: {sorted(wanted)}")


async def create(storage: str, topics: dict[str, int]) -> None:
    """The topics of the run."""
    async with Engine.open(Settings(storage_url=storage, replicas=1)) as engine:
        for name, partitions in topics.items():
            await engine.topics.create(name, partitions)


def finish(world: World, history: Path, topics: dict[str, int], clients: Sequence[str]) -> None:
    """The last reads of every partition, and what the groups have committed."""
    log = History(history, "final")
    asyncio.run(read_all(world.storage.url, log, topics))
    for client in ("confluent", "aiokafka", "sdk"):
        if f"{client}-joins" in clients:
            committed(world, log, f"{ALL}-{client}", topics[ALL])
    log.close()


async def read_all(storage: str, history: History, topics: dict[str, int]) -> None:
    """From log start to log end, straight from Redis."""
    async with Engine.open(Settings(storage_url=storage, replicas=1)) as engine:
        for name, partitions in topics.items():
            topic = await engine.topics.ensure(name)
            for partition in range(partitions):
                await read_one(engine.log, topic, partition, history)


async def read_one(log: Log, topic: Topic, partition: int, history: History) -> None:
    """One partition; `complete` says whether its end was reached in time."""
    deadline, name = time.monotonic() + FINAL_S, f"{topic.name}:{partition}"
    bounds: Bounds | KafkaError | None = None
    while not isinstance(bounds, Bounds) and time.monotonic() < deadline:
        (bounds,) = await log.bounds([(topic, partition)])
        if not isinstance(bounds, Bounds):
            await asyncio.sleep(0.2)
    if not isinstance(bounds, Bounds):
        history.add("end", "ok", log=name, start=0, end=0, complete=False)
        return
    offset = bounds.log_start
    while offset < bounds.next and time.monotonic() < deadline:
        (result,) = await log.read([Read(topic, partition, offset, 1 << 20)], max_bytes=1 << 20)
        if not isinstance(result, ReadResult):
            await asyncio.sleep(0.2)
            continue
        records = []
        for batch in result.batches:
            sent_base = read_header(batch.batch).base_offset
            for record in iter_records(batch.batch):
                at = batch.base_offset + record.offset - sent_base
                records.append((at, batch.leader_epoch, value_of(bytes(record.value or b""))))
        history.add("poll", "ok", log=name, records=records)
        if not records:
            break
        offset = records[-1][0] + 1
    complete = offset >= bounds.next
    history.add("end", "ok", log=name, start=bounds.log_start, end=bounds.next, complete=complete)


def committed(world: World, history: History, group: str, partitions: int) -> None:
    """What a group has committed, and where the log says that offset's epoch ended."""
    from confluent_kafka import Consumer, TopicPartition

    from tests.system.faults.clients import QUIET

    consumer = Consumer({"bootstrap.servers": world.bootstrap, "group.id": group}, logger=QUIET)
    try:
        found = consumer.committed([TopicPartition(ALL, each) for each in range(partitions)], timeout=20)
    finally:
        consumer.close()
    ends = asyncio.run(epoch_ends(world.storage.url, [(each.partition, each.leader_epoch) for each in found]))
    for each, end in zip(found, ends, strict=True):
        if each.offset >= 0:
            epoch = -1 if each.leader_epoch is None else each.leader_epoch
            history.add(
                "committed",
                "ok",
                log=f"{ALL}:{each.partition}",
                group=group,
                offset=each.offset,
                epoch=epoch,
                epoch_end=end,
            )


async def epoch_ends(storage: str, wants: list[tuple[int, int | None]]) -> list[int]:
    """Where each epoch of a partition ended; -1 where nobody can tell."""
    async with Engine.open(Settings(storage_url=storage, replicas=1)) as engine:
        topic = await engine.topics.ensure(ALL)
        asked = [(topic, partition, epoch) for partition, epoch in wants if epoch is not None and epoch >= 0]
        found = iter(await engine.log.epoch_end(asked))
        ends = []
        for _, epoch in wants:
            end = next(found) if epoch is not None and epoch >= 0 else None
            ends.append(-1 if end is None or isinstance(end, KafkaError) else end.end_offset)
        return ends
