"""Clocks: one that goes, and one that is moved."""

from __future__ import annotations

import asyncio
import time

import pytest

from redbroker.client.clock import Clock, StillClock

pytestmark = pytest.mark.anyio


async def test_the_systems_clock_goes() -> None:
    clock = Clock()
    due_ms = clock.now_ms() + 20
    await clock.until(due_ms)
    assert due_ms <= clock.now_ms() <= time.time() * 1000 + 1
    await clock.until(due_ms - 1_000)
    assert clock.stamp() is None


async def test_a_still_clock_wakes_those_whose_time_has_come() -> None:
    clock = StillClock(1_000)
    early, late = (asyncio.create_task(clock.until(due_ms)) for due_ms in (2_000, 3_000))
    await asyncio.sleep(0)
    clock.advance(1)
    await early
    assert not late.done()
    assert clock.stamp() == clock.now_ms() == 2_000
    clock.advance(60)
    await late
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
