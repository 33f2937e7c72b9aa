"""Turnstiles: whoever waits holds back those behind, in their order, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from redbroker.broker.turnstile import Turnstile

pytestmark = pytest.mark.anyio


async def test_tickets_are_good_in_their_order() -> None:
    turnstile, passed = Turnstile(), list[int]()

    async def passing(number: int, steps: int) -> None:
        ticket = turnstile.ticket()
        for _ in range(steps):
            await asyncio.sleep(0)
        await ticket
        passed.append(number)
        turnstile.give_back(ticket)

    assert not turnstile.busy
    await asyncio.gather(*(passing(number, steps) for number, steps in enumerate((5, 0, 9, 1))))
    assert passed == [0, 1, 2, 3]
    assert not turnstile.busy


@pytest.mark.parametrize("gone", [0, 1])
async def test_one_that_gives_up_holds_nobody_back(gone: int) -> None:
    turnstile = Turnstile()
    tickets = [turnstile.ticket() for _ in range(3)]
    tickets[gone].cancel()
    turnstile.give_back(tickets.pop(gone))
    for ticket in tickets:
        await asyncio.wait_for(ticket, 1)
        turnstile.give_back(ticket)
    assert not turnstile.busy
