"""What is measured: one line each, with unit and target.

A target is a bound on the value (`at_least`, `at_most`) or, where the machine decides the value, on the ratio to tansu
measured in the same round (`ratio_at_least`), or both. A target holds for the contenders named in `judged`; the other
contenders are measured for information.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Every RedBroker contender.
REDBROKER = ("valkey", "redis", "dev")


@dataclass(frozen=True)
class Measure:
    """One number: `unit` is shown behind it, `digits` are the decimals worth showing."""

    name: str
    title: str
    unit: str
    digits: int = 0
    ratio_at_least: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    judged: tuple[str, ...] = REDBROKER

    @property
    def target(self) -> str:
        """The target as people read it."""
        bounds = (
            (self.ratio_at_least, "≥ {:g} × tansu"), (self.at_least, f"≥ {{:,g}} {self.unit}"),
            (self.at_most, f"≤ {{:,g}} {self.unit}"),
        )  # fmt: skip
        return ", ".join(told.format(bound) for bound, told in bounds if bound is not None)

    def passes(self, contender: str, value: float, ratio: float | None) -> bool | None:
        """Whether the target holds; None where this contender is not judged or there is nothing to compare with."""
        if contender not in self.judged:
            return None
        met = []
        if self.ratio_at_least is not None and ratio is not None:
            met.append(ratio >= self.ratio_at_least)
        if self.at_least is not None:
            met.append(value >= self.at_least)
        if self.at_most is not None:
            met.append(value <= self.at_most)
        return all(met) if met else None


BEHIND = "SDK consumer far behind, 100 B: what the process grows by over prefetch_bytes"

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("produce_1k", "batched produce, 1 KiB, acks=all", "records/s", ratio_at_least=0.9),
        Measure("produce_100", "batched produce, 100 B, acks=all", "records/s", ratio_at_least=1.0),
        Measure("consume_1k", "consume, 1 KiB", "records/s", ratio_at_least=0.9),
        Measure("consume_100", "consume, 100 B", "records/s", ratio_at_least=1.0),
        Measure(
            "sdk_getmany_100",
            "SDK, getmany, 100 B (tansu: aiokafka)",
            "records/s",
            ratio_at_least=3.0,
            at_least=500_000,
            judged=("valkey", "redis"),
        ),
        Measure(
            "sdk_getmany_1k",
            "SDK, getmany, 1 KiB (tansu: aiokafka)",
            "records/s",
            ratio_at_least=3.0,
            judged=("valkey", "redis"),
        ),
        Measure("sdk_async_for_1k", "SDK, async for, 1 KiB (tansu: aiokafka)", "records/s", judged=("valkey", "redis")),
        Measure("sdk_behind_100", BEHIND, "×", 2, at_most=2.0, judged=("valkey", "redis")),
        Measure("sdk_behind_1k", "the same, 1 KiB", "×", 2, at_most=2.0, judged=("valkey", "redis")),
        Measure(
            "sdk_async_for_100",
            "SDK, async for, 100 B (tansu: aiokafka)",
            "records/s",
            at_least=200_000,
            judged=("valkey", "redis"),
        ),
        Measure("serial_p50", "serial produce latency, p50", "ms", 2, at_most=0.3),
        Measure("serial_p99", "serial produce latency, p99", "ms", 2, at_most=1.0),
        Measure("end_to_end_p50", "produce to consumer, paced 200/s, p50", "ms", 2, at_most=1.0),
        Measure("end_to_end_p99", "produce to consumer, paced 200/s, p99", "ms", 2, at_most=5.0),
        Measure(
            "sdk_end_to_end_p50",
            "SDK produce to consumer, paced 200/s, p50",
            "ms",
            2,
            at_most=1.0,
            judged=("valkey", "redis"),
        ),
        Measure(
            "sdk_end_to_end_p99",
            "SDK produce to consumer, paced 200/s, p99",
            "ms",
            2,
            at_most=5.0,
            judged=("valkey", "redis"),
        ),
        Measure("one_record", "one-record produce requests, 16 × 4 in flight", "requests/s", at_least=20_000),
        Measure(
            "appends",
            "appends through the pipelined connection, 256 callers, 100 B",
            "batches/s",
            at_least=100_000,
            judged=("valkey", "redis"),
        ),
        Measure(
            "acks_all",
            "acks=all on two copies, fsync always, 1 KiB, 32 in flight",
            "appends/s",
            at_least=10_000,
            judged=("copies",),
        ),
        Measure("acks_all_p50", "the same, p50", "ms", 2, at_most=3, judged=("copies",)),
        Measure("acks_all_batches", "the same in batches of 64 KiB", "MB/s", at_least=60, judged=("copies",)),
        Measure(
            "probe_cost",
            "acks=1 beside a waiting reader: slower by proving the high watermark",
            "%",
            1,
        ),
        Measure(
            "probe_cost_in_cpu",
            "the same, CPU time of engine and master",
            "%",
            1,
            at_most=3,
            judged=("copies",),
        ),
        Measure(
            "replication_id_cost",
            "append script, 1 KiB a call: slower by asking for the replication id",
            "%",
            1,
        ),
        Measure("replication_id_cost_in_script", "the same, time in the script alone", "%", 1),
        Measure("replication_id_cost_shared", "the same, time in the script when 8 batches share a call", "%", 1),
        Measure("asking_cost", "appends, acks=all, 1 KiB, 32 in flight: slower by asking for it", "%", 1),
        Measure(
            "asking_cost_in_cpu",
            "the same, CPU time of engine and master",
            "%",
            1,
            at_most=5,
            judged=("copies", "valkey", "redis"),
        ),
        Measure(
            "sdk_produce_100",
            "SDK produce straight to storage, 100 B (tansu: aiokafka)",
            "records/s",
            ratio_at_least=5.0,
            at_least=200_000,
            judged=("valkey", "redis"),
        ),
        Measure(
            "sdk_produce_1k",
            "SDK produce straight to storage, 1 KiB (tansu: aiokafka)",
            "records/s",
            ratio_at_least=5.0,
            judged=("valkey", "redis"),
        ),
        Measure("sdk_over_xadd_100", "SDK over redis-py's pipelined XADD, 100 B", "×", 1, at_least=5.0),
        Measure("sdk_over_xadd_1k", "SDK over redis-py's pipelined XADD, 1 KiB", "×", 1, at_least=5.0),
        Measure("group_first_confluent", "first record of a new group, confluent-kafka", "ms", at_most=1_000),
        Measure("group_first_aiokafka", "first record of a new group, aiokafka", "ms", at_most=1_000),
        Measure("group_first_kafka_python", "first record of a new group, kafka-python", "ms", at_most=1_000),
        Measure("group_join", "a second member joins: shared out anew", "ms", at_most=1_000),
        Measure("group_leave", "a member leaves: shared out anew", "ms", at_most=1_000),
        Measure("group_consumer_join", "KIP-848: a second member joins: shared out anew", "ms", at_most=500),
        Measure("group_consumer_leave", "KIP-848: a member leaves: shared out anew", "ms", at_most=500),
        Measure("group_crowd", "200 members join one new group at once: all settled", "ms", at_most=3_000),
        Measure("group_beats", "1,000 members heartbeat every 3 s: the worker's share of a core", "%", 1, at_most=25),
        Measure(
            "trim_p99_ratio",
            "append p99 while a large topic is trimmed / in quiet",
            "×",
            2,
            at_most=3,
            judged=("valkey", "redis"),
        ),
        Measure(
            "compaction",
            "compaction of a million records with 100,000 keys",
            "s",
            1,
            at_most=30,
            judged=("valkey", "redis"),
        ),
        Measure(
            "compaction_cpu",
            "share of a core that compaction takes meanwhile",
            "",
            2,
            at_most=0.5,
            judged=("valkey", "redis"),
        ),
        Measure("start", "start to the first ApiVersions answer", "ms", at_most=700, judged=("dev",)),
        Measure("idle_memory", "idle broker process, resident", "MB", 1, at_most=80),
    )
}
