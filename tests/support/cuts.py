"""A log that is cut back under another master, as when a replica that lagged is promoted: all at once."""

from __future__ import annotations

from redbroker.engine.connection import Storage
from redbroker.engine.keys import PartitionKeys
from redbroker.types import TopicPartition

KEEP = """
for i = 1, 3 do
  redis.call('DEL', KEYS[i + 3])
  redis.call('COPY', KEYS[i], KEYS[i + 3])
end
"""
CUT_BACK = """
local epoch = redis.call('HGET', KEYS[2], 'epoch')
for i = 1, 3 do
  redis.call('DEL', KEYS[i])
  redis.call('COPY', KEYS[i + 3], KEYS[i])
end
redis.call('HSET', KEYS[2], 'rid', string.rep('0', 40), 'epoch', epoch)
"""


async def keep(storage: Storage, partition: TopicPartition) -> None:
    """Remember the log as it is."""
    await _run(storage, partition, KEEP)


async def cut_back(storage: Storage, partition: TopicPartition) -> None:
    """The log as it was kept, on another master; no leader epoch is used twice."""
    await _run(storage, partition, CUT_BACK)


async def begin_epoch(storage: Storage, partition: TopicPartition) -> None:
    """Another master with all of the log: whoever comes next begins another leader epoch."""
    state = PartitionKeys(storage.settings.key_prefix, partition).state
    await storage.call(state, "HSET", state, "rid", "0" * 40)


async def _run(storage: Storage, partition: TopicPartition, source: str) -> None:
    keys = PartitionKeys(storage.settings.key_prefix, partition)
    names = (keys.log, keys.state, keys.epochs)
    await storage.call(keys.log, "EVAL", source, 6, *names, *(name + b":kept" for name in names))
