"""Bytes are taken, given back, and waited for in order."""

from __future__ import annotations

import asyncio
import threading

import pytest

from redbroker.client.room import Gate, Room

pytestmark = pytest.mark.anyio


async def test_who_waits_first_is_let_in_first_even_before_a_smaller_one() -> None:
    room, order = Room(100), []
    room.used = 100

    async def taker(name: str, nbytes: int) -> None:
        await room.wait(nbytes)
        room.used += nbytes
        order.append(name)

    tasks = [asyncio.create_task(taker("large", 60)), asyncio.create_task(taker("small", 10))]
    await asyncio.sleep(0)
    room.give(20)
    await asyncio.sleep(0)
    assert order == [] and not room.fits(10)
    room.give(50)
    await asyncio.gather(*tasks)
    assert order == ["large", "small"] and room.used == 100


async def test_one_that_is_cancelled_holds_nobody_up() -> None:
    room = Room(100)
    room.used = 100
    first, second, third = (asyncio.create_task(room.wait(50)) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.wait([first, second])
    room.give(50)
    await third


def waits(gate: Gate) -> threading.Thread:
    """A thread that finds no room at the gate, and waits there."""
    late = threading.Thread(target=gate.enter, args=(10,))
    late.start()
    late.join(0.05)
    assert late.is_alive()
    return late


def test_threads_wait_for_a_gate_that_has_its_records_or_its_bytes() -> None:
    gate = Gate(3, 100)
    gate.enter(500)  # alone, any is let in
    late = waits(gate)
    gate.leave(500)
    late.join(10)
    gate.enter(10)
    gate.enter(10)
    late = waits(gate)
    gate.leave(10)
    late.join(10)
    assert not late.is_alive()
