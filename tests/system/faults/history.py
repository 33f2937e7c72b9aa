"""One history file of a whole run: JSON lines that every process appends to, and how they are read back.

A line is one operation. Its clock is the system's monotonic one, which all processes of a machine share.

    {"at": 81.25, "by": "aiokafka-0", "f": "send", "type": "invoke", "log": "t:0", "values": [v, …]}
    {"at": 81.26, "by": "aiokafka-0", "f": "send", "type": "ok",     "log": "t:0", "values": [v, …], "offsets": [o, …]}
    …                                              fail (surely not stored), info (nobody knows), with "error"
    {"by": "reader-1", "f": "poll",  "type": "ok", "log": "t:0", "records": [[offset, epoch or -1, value], …]}
    {"by": "reader-1", "f": "jump",  "type": "info", "log": "t:0", "why": "…"}     seek, reset or rebalance: told
    {"by": "…",        "f": "open",  "type": "ok", "role": "writer", "acks": -1, "idempotent": true}
    {"by": "…",        "f": "open",  "type": "ok", "role": "reader", "mode": "assign" | "subscribe", "group": "…"}
    {"by": "final",    "f": "end",   "type": "ok", "log": "t:0", "start": 0, "end": 900, "complete": true}
    {"by": "final",    "f": "committed", "type": "ok", "log": "t:0", "group": …,"offset": 9, "epoch": 3, "epoch_end": 9}
    {"by": "nemesis",  "f": "fault", "type": "invoke" | "ok", "id": 7, "name": "kill-master", "target": "…"}

Values are unique: `<writer>:<log>:<number>`, numbered in the order they were sent. What is stored is `payload(value)`,
so that a reader sees a damaged record by itself and writes it down as `!<what it got>`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

FILLER = b"0123456789abcdef" * 8
PAYLOAD_BYTES = 100


def payload(value: str) -> bytes:
    """The bytes stored for a value: itself, its checksum, and filler."""
    head = b"%s|%08x|" % (value.encode(), crc32(value.encode()))
    return head + FILLER[: PAYLOAD_BYTES - len(head)]


def value_of(stored: bytes | None) -> str:
    """The value of stored bytes; `!…` when they are not what was sent."""
    value = (stored or b"").partition(b"|")[0].decode(errors="replace")
    return value if stored == payload(value) else f"!{stored!r:.80}"


class History:
    """Where one process writes its operations; lines of several processes never mix, each is one `write`."""

    def __init__(self, path: Path, by: str) -> None:
        self.by = by
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, f: str, type_: str, **words: Any) -> None:
        """One operation, now."""
        line = {"at": round(time.monotonic(), 5), "by": self.by, "f": f, "type": type_, **words}
        os.write(self._file, orjson.dumps(line) + b"\n")

    def close(self) -> None:
        """No more operations."""
        os.close(self._file)


def read_history(path: Path) -> Iterator[dict[str, Any]]:
    """Every operation, in the order they were written; a last line cut short by a kill is left out."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield orjson.loads(line)
