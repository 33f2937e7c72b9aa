"""Which clients run against a fresh contender, and with which sizes.

A workload gets a contender, starts it empty, runs its clients and gives one `Sample` per measure. Sizes are chosen so
that a measurement takes one to three seconds on two cores; `--quick` takes smaller ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.contenders import YARDSTICK, Contender, Running
from bench.servers import resident_megabytes

CLIENT_SECONDS_MAX = 180.0


class ClientError(RuntimeError):
    """A load generator failed; the message is the end of what it said."""


@dataclass
class Sample:
    """One measured value; `cpu_us` is CPU time per record by role (client, broker, storage), in microseconds."""

    value: float
    cpu_us: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """How much load: full or quick."""

    records_1k: int
    records_100: int
    serial_records: int
    paced_records: int
    window_seconds: float
    compacted_records: int


FULL = Sizes(400_000, 1_000_000, 3_000, 600, 2.0, 1_000_000)
QUICK = Sizes(150_000, 500_000, 1_000, 200, 1.0, 50_000)

Samples = dict[str, Sample]


def run_client(name: str, running: Running, **arguments: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Runs one load generator in its own process; gives what it printed and the CPU time per record by role."""
    before = running.cpu()
    command = [sys.executable, "-m", f"bench.clients.{name}", json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise ClientError(f"{name} took longer than {CLIENT_SECONDS_MAX:g} s") from None
    if done.returncode:
        raise ClientError(f"{name}: {done.stderr.strip()[-1500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    after = running.cpu()
    servers = {role: (after[role] - before[role]) / answer["served"] * 1e6 for role in after}
    return answer, {"client": answer["cpu_us"], **servers}


def bulk(contender: Contender, records: int, record_bytes: int, suffix: str) -> Samples:
    """Batched produce into an empty broker, then everything read back from it."""
    with contender.run() as running:
        topic = f"bulk-{suffix}"
        to = {"bootstrap": running.bootstrap, "topic": topic}
        sent, sent_cpu = run_client("produce", running, **to, records=records, record_bytes=record_bytes)
        read, read_cpu = run_client("consume", running, **to, records=sent["served"])
    return {
        f"produce_{suffix}": Sample(sent["records_per_s"], sent_cpu),
        f"consume_{suffix}": Sample(read["records_per_s"], read_cpu),
    }


def bulk_1k(contender: Contender, sizes: Sizes) -> Samples:
    """Records of 1 KiB."""
    return bulk(contender, sizes.records_1k, 1024, "1k")


def bulk_100(contender: Contender, sizes: Sizes) -> Samples:
    """Records of 100 bytes."""
    return bulk(contender, sizes.records_100, 100, "100")


def sdk_consume(contender: Contender, sizes: Sizes) -> Samples:
    """Everything read by the SDK's consumer, straight from the storage; against the yardstick, aiokafka."""
    samples = {}
    for suffix, load in sizes_of(sizes).items():
        with contender.run() as running:
            sent, _ = run_client("produce", running, bootstrap=running.bootstrap, topic="sdk-consume", **load)
            what = {"topic": "sdk-consume", "records": sent["served"]}
            if contender.name == YARDSTICK:
                read, cpu = run_client("aiokafka_consume", running, bootstrap=running.bootstrap, **what)
            else:
                read, cpu = run_client("sdk_consume", running, storage=running.storage_url, **what)
        samples[f"sdk_getmany_{suffix}"] = Sample(read["records_per_s"], cpu)
        samples[f"sdk_async_for_{suffix}"] = Sample(read["async_for_per_s"])
    return samples


def sdk_behind(contender: Contender, sizes: Sizes) -> Samples:
    """The memory of a slow reader at the start of a long topic."""
    samples = {}
    for suffix, load in sizes_of(sizes).items():
        with contender.storage() as running:
            run_client("sdk_produce", running, url=running.storage_url, **load)
            read, cpu = run_client("sdk_behind", running, storage=running.storage_url, topic="bulk")
        samples[f"sdk_behind_{suffix}"] = Sample(read["times"], cpu)
    return samples


def latency(contender: Contender, sizes: Sizes) -> Samples:
    """Serial produce, then paced records from a producer to a waiting consumer."""
    with contender.run() as running:
        to: dict[str, Any] = {"bootstrap": running.bootstrap, "record_bytes": 100}
        serial, serial_cpu = run_client("serial", running, **to, topic="serial", records=sizes.serial_records)
        paced, paced_cpu = run_client(
            "end_to_end", running, **to, topic="paced", records=sizes.paced_records, records_per_s=200
        )
    return {
        "serial_p50": Sample(serial["p50_ms"], serial_cpu),
        "serial_p99": Sample(serial["p99_ms"], serial_cpu),
        "end_to_end_p50": Sample(paced["p50_ms"], paced_cpu),
        "end_to_end_p99": Sample(paced["p99_ms"], paced_cpu),
    }


def sdk_latency(contender: Contender, sizes: Sizes) -> Samples:
    """Paced records from the SDK's producer to its waiting consumer, without a broker."""
    with contender.storage() as running:
        load: dict[str, Any] = {"topic": "paced", "record_bytes": 100, "records_per_s": 200}
        paced, cpu = run_client(
            "sdk_end_to_end", running, storage=running.storage_url, records=sizes.paced_records, **load
        )
    return {"sdk_end_to_end_p50": Sample(paced["p50_ms"], cpu), "sdk_end_to_end_p99": Sample(paced["p99_ms"], cpu)}


def one_record(contender: Contender, sizes: Sizes) -> Samples:
    """Many small produce requests at once."""
    with contender.run() as running:
        load: dict[str, Any] = {"connections": 16, "in_flight": 4, "seconds": sizes.window_seconds, "record_bytes": 100}
        answer, cpu = run_client("one_record", running, bootstrap=running.bootstrap, topic="one-record", **load)
    return {"one_record": Sample(answer["requests_per_s"], cpu)}


def appends(contender: Contender, sizes: Sizes) -> Samples:
    """Small appends through the engine, without a broker."""
    with contender.storage() as running:
        load: dict[str, Any] = {"callers": 256, "seconds": sizes.window_seconds, "record_bytes": 100}
        answer, cpu = run_client("appends", running, url=running.storage_url, **load)
    return {"appends": Sample(answer["appends_per_s"], cpu)}


def acks_all(contender: Contender, sizes: Sizes) -> Samples:
    """acks=all on two copies that write their disks: 32 records of 1 KiB in flight, then batches of 64 KiB."""
    window, batch_bytes = sizes.window_seconds, 65_536
    with contender.storage() as running:
        load: dict[str, Any] = {"callers": 32, "seconds": window, "record_bytes": 1024}
        single, cpu = run_client("appends", running, url=running.storage_url, **load)
    with contender.storage() as running:
        load = {"callers": 32, "seconds": window, "record_bytes": batch_bytes}
        batches, batches_cpu = run_client("appends", running, url=running.storage_url, **load)
    return {
        "acks_all": Sample(single["appends_per_s"], cpu),
        "acks_all_p50": Sample(single["p50_ms"], cpu),
        "acks_all_batches": Sample(batches["appends_per_s"] * batch_bytes / 1e6, batches_cpu),
    }


def probes(contender: Contender, sizes: Sizes) -> Samples:
    """Writers with acks=1 beside a waiting reader, with and without a high watermark to prove."""
    with contender.storage() as running:
        load: dict[str, Any] = {"callers": 32, "seconds": sizes.window_seconds / 8, "record_bytes": 1024}
        answer, cpu = run_client("probes", running, url=running.storage_url, **load)
    return {"probe_cost": Sample(answer["cost"], cpu), "probe_cost_in_cpu": Sample(answer["cost_in_cpu"])}


def replication_id(contender: Contender, sizes: Sizes) -> Samples:
    """The append script with and without the question that tells a failover."""
    answers = []
    for batches in (1, 8):
        with contender.storage() as running:
            load = {"calls": int(5_000 * sizes.window_seconds) // batches, "batches": batches, "record_bytes": 1024}
            answers.append(run_client("replication_id", running, url=running.storage_url, **load))
    (single, cpu), (shared, _) = answers
    return {
        "replication_id_cost": Sample(single["cost_of_calls"], cpu),
        "replication_id_cost_in_script": Sample(single["cost"]),
        "replication_id_cost_shared": Sample(shared["cost"]),
    }


def asking(contender: Contender, sizes: Sizes) -> Samples:
    """Writers with acks=all whose appends ask for the replication id, and such that are told it."""
    with contender.storage() as running:
        load: dict[str, Any] = {"callers": 32, "seconds": sizes.window_seconds / 8, "record_bytes": 1024}
        answer, cpu = run_client("asking", running, url=running.storage_url, **load)
    return {"asking_cost": Sample(answer["cost"], cpu), "asking_cost_in_cpu": Sample(answer["cost_in_cpu"])}


@contextmanager
def patched_environment(name: str, value: str) -> Iterator[None]:
    """One more environment variable for the processes started meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def housekeeping(contender: Contender, sizes: Sizes) -> Samples:
    """Trimming and compaction beside a paced producer, through the engine, without a broker."""
    with contender.storage() as running:
        load: dict[str, Any] = {"trim_per_batch": 10, "keys": sizes.compacted_records // 10}
        answer, cpu = run_client(
            "housekeeping",
            running,
            url=running.storage_url,
            trim_records=10 * sizes.compacted_records,
            records=sizes.compacted_records,
            **load,
        )
    return {
        "trim_p99_ratio": Sample(answer["trim_p99_ratio"]),
        "compaction": Sample(answer["compaction_s"], cpu),
        "compaction_cpu": Sample(answer["compaction_cpu_share"]),
    }


def groups(contender: Contender, sizes: Sizes) -> Samples:
    """New groups of one member with three clients, and a second member that comes and goes."""
    # The interval of the classic members below: it is the client's own share of what is measured.
    with patched_environment("REDBROKER_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "100"), contender.run() as running:
        answer, _ = run_client(
            "groups", running, bootstrap=running.bootstrap, topic="groups", tries=max(3, int(3 * sizes.window_seconds))
        )
    names = (
        "first_confluent", "first_aiokafka", "first_kafka_python", "join", "leave", "consumer_join", "consumer_leave",
    )  # fmt: skip
    return {f"group_{name}": Sample(answer[f"{name}_ms"]) for name in names}


def crowd(contender: Contender, sizes: Sizes) -> Samples:
    """200 members that join at once, and 1,000 that heartbeat every three seconds."""
    with contender.run() as running:
        load = {"joiners": 200, "beaters": 1_000, "interval_s": 3.0, "beats": max(1, int(sizes.window_seconds))}
        answer, _ = run_client("crowd", running, bootstrap=running.bootstrap, broker_pid=running.pids["broker"], **load)
    return {"group_crowd": Sample(answer["settle_ms"]), "group_beats": Sample(answer["core_share"])}


def sizes_of(sizes: Sizes) -> dict[str, dict[str, int]]:
    """The two loads of batched producers, by the suffix of their measures."""
    return {
        "100": {"records": sizes.records_100, "record_bytes": 100},
        "1k": {"records": sizes.records_1k, "record_bytes": 1024},
    }


def sdk_produce(contender: Contender, sizes: Sizes) -> Samples:
    """The SDK straight to the storage; against the yardstick, aiokafka."""
    samples = {}
    for suffix, load in sizes_of(sizes).items():
        if contender.name == YARDSTICK:
            with contender.run() as running:
                answer, cpu = run_client("aiokafka_produce", running, bootstrap=running.bootstrap, **load)
        else:
            with contender.storage() as running:
                answer, cpu = run_client("sdk_produce", running, url=running.storage_url, **load)
        samples[f"sdk_produce_{suffix}"] = Sample(answer["records_per_s"], cpu)
    return samples


def sdk_over_xadd(contender: Contender, sizes: Sizes) -> Samples:
    """The SDK and redis-py's pipelined XADD on the same storage, one after the other."""
    samples = {}
    for suffix, load in sizes_of(sizes).items():
        rates = []
        for client in ("sdk_produce", "xadd"):
            with contender.storage() as running:
                answer, _ = run_client(client, running, url=running.storage_url, **load)
            rates.append(answer["records_per_s"])
        samples[f"sdk_over_xadd_{suffix}"] = Sample(rates[0] / rates[1])
    return samples


def start(contender: Contender, sizes: Sizes) -> Samples:
    """From exec to the first answer, and the memory of the broker process a while later, without any client."""
    with contender.run() as running:
        time.sleep(sizes.window_seconds)
        return {
            "start": Sample(running.start_s * 1e3),
            "idle_memory": Sample(resident_megabytes(running.pids["broker"])),
        }


@dataclass(frozen=True)
class Workload:
    """One function above, the measures it gives and the contenders it is for (empty: all)."""

    run: Callable[[Contender, Sizes], Samples]
    measures: Sequence[str]
    contenders: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.run.__name__


WORKLOADS = (
    Workload(start, ("start", "idle_memory")),
    Workload(appends, ("appends",), ("valkey", "redis")),
    Workload(acks_all, ("acks_all", "acks_all_p50", "acks_all_batches"), ("copies",)),
    Workload(probes, ("probe_cost", "probe_cost_in_cpu"), ("copies",)),
    Workload(
        replication_id,
        ("replication_id_cost", "replication_id_cost_in_script", "replication_id_cost_shared"),
        ("valkey", "redis"),
    ),
    Workload(asking, ("asking_cost", "asking_cost_in_cpu"), ("copies", "valkey", "redis")),
    Workload(sdk_produce, ("sdk_produce_100", "sdk_produce_1k"), (YARDSTICK, "valkey", "redis")),
    Workload(sdk_over_xadd, ("sdk_over_xadd_100", "sdk_over_xadd_1k"), ("valkey", "redis")),
    Workload(housekeeping, ("trim_p99_ratio", "compaction", "compaction_cpu"), ("valkey", "redis")),
    Workload(one_record, ("one_record",)),
    Workload(latency, ("serial_p50", "serial_p99", "end_to_end_p50", "end_to_end_p99")),
    Workload(sdk_latency, ("sdk_end_to_end_p50", "sdk_end_to_end_p99"), ("valkey", "redis")),
    Workload(
        groups,
        (
            "group_first_confluent",
            "group_first_aiokafka",
            "group_first_kafka_python",
            "group_join",
            "group_leave",
            "group_consumer_join",
            "group_consumer_leave",
        ),
        ("valkey", "redis", "dev"),
    ),
    Workload(crowd, ("group_crowd", "group_beats"), ("valkey", "redis", "dev")),
    Workload(bulk_1k, ("produce_1k", "consume_1k")),
    Workload(
        sdk_consume,
        ("sdk_getmany_100", "sdk_async_for_100", "sdk_getmany_1k", "sdk_async_for_1k"),
        (YARDSTICK, "valkey", "redis"),
    ),
    Workload(sdk_behind, ("sdk_behind_100", "sdk_behind_1k"), ("valkey", "redis")),
    Workload(bulk_100, ("produce_100", "consume_100")),
)
