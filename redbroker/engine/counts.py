"""What the janitor of one process has done, as plain integers: whoever exposes metrics reads them when scraped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class JanitorCounts:
    """Counts only grow; bytes are those of record batches, seconds those of the whole work, pauses included."""

    trim_steps: int = 0
    trimmed_entries: int = 0
    trimmed_bytes: int = 0
    compactions: int = 0
    compactions_failed: int = 0
    compacted_records: int = 0  # looked at
    kept_records: int = 0
    saved_bytes: int = 0
    compaction_seconds: float = 0.0
    leases_taken: int = 0
    leases_lost: int = 0
