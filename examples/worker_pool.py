"""A pool of workers: many jobs at once, those of one account in order, in as many processes as you start.

python -m examples.worker_pool            # start it twice: the two share the partitions
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from redbroker import Context, RedBroker

app = RedBroker("redis://localhost:6379")
jobs = app.topic("jobs", key=str, value=dict, partitions=8)
balances: defaultdict[str, int] = defaultdict(int)


@jobs.subscribe(group="workers", parallel_by_key=32, drain_s=20)
async def work(job: dict[str, int], ctx: Context) -> None:
    """Up to 32 jobs at once in this process; no two of one account."""
    before = balances[ctx.key]
    await asyncio.sleep(job["ms"] / 1000)  # another job of this account here would be lost
    balances[ctx.key] = before + job["cents"]


if __name__ == "__main__":
    app.run()
