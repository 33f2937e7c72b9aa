"""The time of an app: the system's, or a test's own that stands still until it is moved."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Clock", "StillClock"]

LOOK_S = 60.0
"""A wait ends this early at the latest, to look at the clock again: somebody may have set it."""


class Clock:
    """The system's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def stamp(self) -> int | None:
        """The timestamp for a record sent now; None: the producer's own."""
        return None

    async def until(self, due_ms: int) -> None:
        """Return when it is time."""
        while (left_ms := due_ms - self.now_ms()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left_ms / 1000, LOOK_S))


class StillClock(Clock):
    """A clock that only `advance` moves; whoever waits wakes at once when his time has come."""

    def __init__(self, now_ms: int = 1_767_225_600_000) -> None:
        self._now_ms = now_ms
        self._moved: set[asyncio.Future[None]] = set()

    def now_ms(self) -> int:
        return self._now_ms

    def stamp(self) -> int | None:
        return self._now_ms

    def advance(self, seconds: float) -> None:
        """Move on; time never goes back."""
        if seconds < 0:
            raise ValueError(f"seconds = {seconds} is wrong: time does not go back.")
        self._now_ms += round(seconds * 1000)
        for moved in self._moved:
            if not moved.done():
                moved.set_result(None)

    async def until(self, due_ms: int) -> None:
        while self._now_ms < due_ms:
            moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._moved.add(moved)
            try:
                await moved
            finally:
                self._moved.discard(moved)
