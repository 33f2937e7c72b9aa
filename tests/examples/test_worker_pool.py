"""The worker pool, without a server: no job of an account overtakes or overwrites another."""

from __future__ import annotations

import pytest

from examples.worker_pool import app, balances, jobs

pytestmark = pytest.mark.anyio


async def test_jobs_of_one_account_never_meet() -> None:
    async with app.test() as t:
        for number in range(60):
            await jobs.send({"ms": number % 3, "cents": 1}, key=f"account-{number % 6}")
        await t.settle()
    assert dict(balances) == {f"account-{number}": 10 for number in range(6)}
