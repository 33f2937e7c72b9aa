"""Send a record straight to Redis and see where it went: `python -m examples.hello [STORAGE_URL]`.

Without a URL it starts an embedded server. No broker process is needed; a Kafka client that reads
through `redbroker worker` on the same storage sees the same record.
"""

from __future__ import annotations

import asyncio
import sys

from redbroker import Producer, Sent


async def hello(storage_url: str | None) -> Sent:
    """One record, stored when this returns."""
    async with Producer(storage_url) as producer:
        return await producer.send("greetings", "hello, world", key="first", headers={"language": "en"})


if __name__ == "__main__":
    print(asyncio.run(hello(sys.argv[1] if len(sys.argv) > 1 else None)))
