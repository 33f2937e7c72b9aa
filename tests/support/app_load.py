"""A service with metrics, as a process of its own, so that a Prometheus may scrape it.

`python -m tests.support.app_load URL` sends a record every 20 ms and handles it; every tenth is tried twice. Its first
line is where its metrics are.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from redbroker import Context, RedBroker, Retry

PAUSE_S = 0.02


class AppLoad:
    """`with AppLoad(url) as app:` runs one; `app.http` is host:port of its metrics."""

    def __init__(self, url: str) -> None:
        words = [sys.executable, "-m", __spec__.name, url]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert self._process.stdout is not None
        self.http = self._process.stdout.readline().strip()

    def __enter__(self) -> AppLoad:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()


async def main(url: str) -> None:
    """Until SIGTERM."""
    app, registry = RedBroker(url, key_prefix="apps"), CollectorRegistry()
    orders = app.topic("orders", key=str, value=int, partitions=2)

    @orders.subscribe(group="billing", parallel_by_key=4, retry=Retry(attempts=3, backoff_s=0.1), dlq="dead")
    async def bill(order: int, ctx: Context) -> None:
        if order % 10 == 0 and ctx.attempt == 1:
            raise ValueError("not yet")

    app.metrics(registry)
    server, _ = start_http_server(0, "127.0.0.1", registry)
    print(f"127.0.0.1:{server.server_port}", flush=True)
    async with app:
        number = 0
        while True:
            await orders.send(number, key=str(number % 7))
            number += 1
            await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
