"""What every client of a run has: where it works, its numbered values, and its history."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from dataclasses import dataclass, field

from tests.system.faults.history import History

QUIET = logging.getLogger("quiet")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

IN_FLIGHT_MAX = 200
DELIVERY_S = 60.0
END_S = 30.0
RETRY_S = 0.1
FRESH_MS = 3_000
"""How old metadata may be. aiokafka never asks its bootstrap servers again: when all workers of its last metadata are
gone, it knows nobody, and after a worker has come back that lasts for up to five minutes by default."""


@dataclass
class Place:
    """Where a client works, and its history."""

    name: str
    history: History
    bootstrap: str
    storage: str
    topic: str
    partitions: int
    rate: float
    stop: threading.Event = field(default_factory=threading.Event)
    numbers: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def log(self, partition: int) -> str:
        """The partition's name in the history."""
        return f"{self.topic}:{partition}"

    def next_values(self, partition: int, count: int = 1) -> list[str]:
        """New values, written down as about to be sent."""
        first = self.numbers[partition]
        self.numbers[partition] += count
        values = [f"{self.name}:{self.log(partition)}:{number}" for number in range(first, first + count)]
        self.history.add("send", "invoke", log=self.log(partition), values=values)
        return values

    def writes(self, acks: int, idempotent: bool) -> None:
        """Tell the checker how this client writes."""
        self.history.add("open", "ok", role="writer", acks=acks, idempotent=idempotent)

    def reads(self, group: str | None = None) -> None:
        """Tell the checker how this client reads: partitions of its own, or as a member of a group that commits."""
        if group is None:
            self.history.add("open", "ok", role="reader", mode="assign")
        else:
            self.history.add("open", "ok", role="reader", mode="subscribe", group=group)
