"""What it costs an append to ask the server for its replication id: the append script with and without INFO.

The copy without INFO is told the id that the log was opened under; nothing else differs. One batch a call is the
dearest case; in practice the batches of a turn share a call. They take turns, several times. How much slower the first
is, in percent: `cost` in time on the server (INFO commandstats), `cost_of_calls` in calls per second of a full
pipeline, each the median of the turns.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import redis

from bench.clients import run
from bench.frames import one_record_batch
from redbroker.engine.keys import PartitionKeys
from redbroker.engine.scripts import script
from redbroker.types import TopicPartition

TURNS = 8
PIPELINE = 500
TOPIC_ID = "0" * 32
ASKING = "local info = replication()\n"


def sources() -> dict[str, str]:
    """The script as it is, and the copy that does not ask."""
    asking = script("append").source.decode()
    if asking.count(ASKING) != 1:
        raise AssertionError("the append script asks for INFO in another way now: mend this copy of it")
    return {"asking": asking, "told": asking.replace(ASKING, "local info = 'master_replid:' .. field[2]\n")}


def replication_id(url: str, calls: int, batches: int, record_bytes: int) -> dict[str, Any]:
    """One run; see the module."""
    server = redis.Redis.from_url(url)
    keys = PartitionKeys("rb", TopicPartition("replication-id", 0))
    opened = script("open_partition")
    named = [keys.log, keys.state, keys.epochs, keys.producers, keys.times, *keys.compaction]
    server.eval(opened.source.decode(), len(named), *named, TOPIC_ID, 1, 0)
    append = script("append")
    names = [getattr(keys, name) for name in append.keys]
    words = [*names, TOPIC_ID, 1, 86_400, 1_000, 0, 0, "0 0", 1, *[one_record_batch(b"x" * record_bytes)] * batches]
    shas = {name: server.script_load(source) for name, source in sources().items()}

    def turn(sha: str) -> tuple[float, float]:
        """(microseconds per call on the server, seconds per call)."""
        server.config_resetstat()
        began = time.perf_counter()
        for _ in range(calls // PIPELINE):
            pipeline = server.pipeline(transaction=False)
            for _ in range(PIPELINE):
                pipeline.evalsha(sha, len(names), *words)
            pipeline.execute()
        seconds = time.perf_counter() - began
        stats: Any = server.info("commandstats")
        server.delete(keys.log)
        return stats["cmdstat_evalsha"]["usec_per_call"], seconds / calls

    on_server, of_calls, cpu = [], [], time.process_time()
    for number in range(TURNS + 1):
        order = ("asking", "told") if number % 2 else ("told", "asking")
        took = {name: turn(shas[name]) for name in order}
        if number:  # the first was to warm up
            on_server.append(took["asking"][0] / took["told"][0])
            of_calls.append(took["asking"][1] / took["told"][1])
    served = 2 * calls * (TURNS + 1)
    return {
        "cost": (statistics.median(on_server) - 1) * 100, "cost_of_calls": (statistics.median(of_calls) - 1) * 100,
        "us": {name: round(each[0], 2) for name, each in took.items()},
        "cpu_us": (time.process_time() - cpu) / served * 1e6, "served": served,
    }  # fmt: skip


if __name__ == "__main__":
    run(replication_id)
