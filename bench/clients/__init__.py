"""Load generators: each is run as `python -m bench.clients.<name> '<JSON arguments>'` and prints one JSON object.

A process of its own keeps librdkafka's threads and the interpreter lock of one measurement out of the next. The
object holds the numbers, `cpu_us` (CPU time of the client per record while it was measured, in microseconds) and
`served` (all records of the run, warm-up included, over which the servers' CPU time is spread).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

PARTITIONS = 4
READY_SECONDS_MAX = 15.0


def run(client: Callable[..., dict[str, Any]]) -> None:
    """Calls `client` with the arguments of the command line and prints what it gives."""
    print(json.dumps(client(**json.loads(sys.argv[1]))))


def create_topic(bootstrap: str, topic: str) -> None:
    """Makes a topic of four partitions and waits until each has a leader."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(READY_SECONDS_MAX)
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        found = admin.list_topics(topic, timeout=READY_SECONDS_MAX).topics[topic]
        if len(found.partitions) == PARTITIONS and all(p.leader >= 0 for p in found.partitions.values()):
            return
        time.sleep(0.01)
    raise TimeoutError(f"{topic} had no {PARTITIONS} partitions with leaders after {READY_SECONDS_MAX:g} s")


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
