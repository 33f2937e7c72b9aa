"""One-record produce requests over raw sockets: many connections, a few requests in flight on each.

The request is prepared once and every answer is answered with the same bytes again, so the client costs as little
as Python allows. Every error code is checked. Gives `requests_per_s` over the measured window.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import uvloop

from bench.clients import PARTITIONS, create_topic, run
from bench.frames import one_record_batch, produce_error_at, produce_request

WARM_UP_SECONDS = 0.5


class Connection(asyncio.Protocol):
    """Keeps `in_flight` copies of one request unanswered and counts the answers."""

    def __init__(self, request: bytes, error_at: int, in_flight: int) -> None:
        self.request = request
        self.error_at = error_at
        self.in_flight = in_flight
        self.answers = 0
        self.failure: str | None = None
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is no subclass
        self.transport.write(self.request * self.in_flight)

    def connection_lost(self, error: Exception | None) -> None:
        self.failure = self.failure or f"the broker closed a connection ({error})"

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        at, end, answers = 0, len(data), 0
        while end - at >= 4:
            stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if stop > end:
                break
            if data[at + self.error_at : at + self.error_at + 2] != b"\0\0":
                self.failure = f"error code {data[at + self.error_at + 1]} in an answer"
            at = stop
            answers += 1
        self.rest = data[at:]
        self.answers += answers
        if answers:
            self.transport.write(self.request * answers)


async def load(
    port: int, topic: str, connections: int, in_flight: int, seconds: float, record_bytes: int
) -> dict[str, Any]:
    """Opens the connections, waits for the warm-up, counts through the window."""
    loop = asyncio.get_running_loop()
    batch = one_record_batch(b"x" * record_bytes)
    clients = []
    for number in range(connections):
        request = produce_request(topic, number % PARTITIONS, batch)
        client = Connection(request, produce_error_at(topic), in_flight)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        clients.append(client)
    await asyncio.sleep(WARM_UP_SECONDS)
    before, started, cpu = sum(client.answers for client in clients), time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    answers = sum(client.answers for client in clients) - before
    window, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    failures = [client.failure for client in clients if client.failure]
    if failures or min(client.answers for client in clients) == 0:
        raise RuntimeError(failures[0] if failures else "a connection got no answer")
    for client in clients:
        client.transport.abort()
    return {"requests_per_s": answers / window, "cpu_us": cpu_s / answers * 1e6, "served": before + answers}


def one_record(bootstrap: str, topic: str, **arguments: Any) -> dict[str, Any]:
    """One run; see the module."""
    create_topic(bootstrap, topic)
    return uvloop.run(load(int(bootstrap.rpartition(":")[2]), topic, **arguments))


if __name__ == "__main__":
    run(one_record)
