"""Replay a topic from a time: `python -m examples.replay orders 2026-11-25T08:00:00+00:00`.

Nothing is committed and no group is disturbed: a consumer without `group_id` reads all partitions on its own.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime

from redbroker.client.consumer import Consumer
from redbroker.types import TopicPartition


async def replay(topic: str, since: datetime, storage: str | None = None) -> int:
    """Print the records that were there at the start, from a time on; gives their number."""
    count = 0
    async with Consumer(topic, storage=storage) as consumer:
        partitions = consumer.assignment()
        ends = await consumer.end_offsets(*partitions)
        await consumer.seek_to_time(int(since.timestamp() * 1000))
        for partition in partitions:
            await consumer.position(partition)

        async def unread(partition: TopicPartition) -> bool:
            return await consumer.position(partition) < ends[partition]

        while any([await unread(each) for each in partitions]):
            for record in await consumer.getmany():
                if record.offset < ends[TopicPartition(record.topic, record.partition)]:
                    print(f"{record.topic}-{record.partition} {record.offset} {record.value!r}")
                    count += 1
    return count


if __name__ == "__main__":
    asyncio.run(replay(sys.argv[1], datetime.fromisoformat(sys.argv[2])))
