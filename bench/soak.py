"""A soak: retention on, producers faster than it, a group that reads, workers restarted one after another.

    python -m bench.soak --minutes 10 [--keep FOLDER]

It ends with an account and code 0 when no record was lost, no client had an error it did not get over, and memory was
flat: in the last third Redis and the workers use no more than a tenth above the middle third. `--keep` leaves the data
of Prometheus there, for `python -m grafana.picture --data FOLDER`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from examples.load import Load
from examples.processes import Process, stop_all
from grafana.prometheus import Prometheus, free_port

WORKERS, PARTITIONS, VALUE_BYTES = 3, 6, 1_000
GROWTH_MAX = 1.10
MEMORY = {"Redis": "sum(redbroker_redis_memory_used_bytes)", "workers": "sum(process_resident_memory_bytes)"}


def main() -> int:
    """Run it and print the account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--per-second", type=int, default=2_000, help="records of 1,000 bytes")
    parser.add_argument("--retention-seconds", type=float, default=20, help="what retention.bytes keeps of this load")
    parser.add_argument("--keep", type=Path, help="folder for the data of Prometheus")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return soak(asked, Path(scratch), asked.keep or Path(scratch))


def soak(asked: argparse.Namespace, scratch: Path, kept: Path) -> int:
    """The whole run; gives the exit code."""
    kept.mkdir(parents=True, exist_ok=True)
    words = [
        (
            "worker",
            "--storage",
            f"embedded:{scratch}/redis",
            "--port",
            str(free_port()),
            "--http-port",
            str(free_port()),
        )
        for _ in range(WORKERS)
    ]
    retention = int(asked.per_second * VALUE_BYTES * asked.retention_seconds / PARTITIONS)
    configs = {"retention.bytes": str(retention), "retention.ms": "-1"}
    workers = [Process(*each) for each in words]
    began_s, restarts = time.time(), 0
    try:
        addresses = ",".join(each.address for each in workers)
        with (
            Prometheus(kept, [each.http for each in workers]) as prometheus,
            Load(
                addresses, "soak", PARTITIONS, per_second=asked.per_second, value_bytes=VALUE_BYTES, configs=configs
            ) as load,
        ):
            pause_s = max(5.0, asked.minutes * 60 / 20)
            while time.time() < began_s + asked.minutes * 60 - pause_s:
                time.sleep(pause_s)
                at = restarts % WORKERS
                workers[at].stop()
                workers[at] = Process(*words[at])
                restarts += 1
            time.sleep(pause_s)
            growth = {name: grown(prometheus, query, began_s) for name, query in MEMORY.items()}
            load.stop()  # what is left is read while Prometheus still looks on
    finally:
        stop_all(workers)
    return account(load, growth, restarts, time.time() - began_s)


def grown(prometheus: Prometheus, query: str, began_s: float) -> float:
    """How much higher the last third's peak is than the middle third's, as a factor."""
    third = (time.time() - began_s) / 3

    def peak(part: int) -> float:
        return max(prometheus.over(query, began_s + part * third, began_s + (part + 1) * third), default=0.0)

    middle, last = peak(1), peak(2)
    return last / middle if middle else float("nan")


def account(load: Load, growth: dict[str, float], restarts: int, seconds: float) -> int:
    """Print what happened; 0 when it is as it should be."""
    missing = load.producer.acknowledged - load.received - load.lost
    faults = [
        *(f"a producer's error: {error}" for error in load.producer.errors[:3]),
        *(f"a consumer's error: {error}" for error in load.errors[:3]),
        *([f"{load.lost:,} records were jumped over"] if load.lost else []),
        *([f"{missing:,} records never came"] if missing > 0 else []),
        *(f"memory of {name} grew by {factor - 1:.0%}" for name, factor in growth.items() if not factor <= GROWTH_MAX),
    ]
    print(f"{seconds / 60:.1f} minutes, {restarts} restarts of {WORKERS} workers")
    print(f"{load.producer.acknowledged:,} records acknowledged, {load.received:,} received, {load.doubled:,} twice")
    print(f"longest pause of a partition {load.producer.longest_pause_s:.2f} s")
    print("memory, last third over middle third: " + ", ".join(f"{name} x {each:.2f}" for name, each in growth.items()))
    for fault in faults:
        print(f"FAULT  {fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
