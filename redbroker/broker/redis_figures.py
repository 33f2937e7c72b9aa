"""What INFO of each Redis master says, as metrics: memory, load, persistence, replicas and how far they are behind."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from redbroker.metrics import Text, labelled

if TYPE_CHECKING:
    from redbroker.engine.survey import NodeState

GAUGES = {
    "used_memory": ("memory_used_bytes", "Memory in use."),
    "maxmemory": ("memory_max_bytes", "maxmemory; 0: as much as the machine has."),
    "total_system_memory": ("memory_system_bytes", "Memory of the machine."),
    "mem_fragmentation_ratio": ("memory_fragmentation_ratio", "Resident over used memory."),
    "connected_clients": ("clients", "Connections."),
    "connected_slaves": ("replicas", "Connected replicas."),
    "aof_delayed_fsync": ("aof_delayed_fsyncs", "Times a write waited for fsync."),
    "latest_fork_usec": ("last_fork_microseconds", "Time the last fork took."),
    "uptime_in_seconds": ("uptime_seconds", "Seconds since it was started."),
}
COUNTERS = {
    "total_commands_processed": ("commands_total", "Commands."),
    "total_net_input_bytes": ("received_bytes_total", "Bytes received."),
    "total_net_output_bytes": ("sent_bytes_total", "Bytes sent."),
    "evicted_keys": ("evicted_keys_total", "Evicted keys: records lost."),
    "total_error_replies": ("error_replies_total", "Commands answered with an error."),
    "used_cpu_user": ("cpu_user_seconds_total", "CPU time."),
}
REPLICA = re.compile(r"offset=(\d+)")


def write_nodes(text: Text, nodes: Mapping[str, NodeState | None], owned: Collection[str]) -> None:
    """Of every node whether and how fast it answered this worker; the rest only of the `owned` ones."""
    node_labels = {address: labelled(node=address) for address in nodes}
    answered = {address: node for address, node in nodes.items() if node is not None}
    text.family(
        "redbroker_redis_node_up", "gauge", "Whether the master answered this worker.",
        [(node_labels[address], int(node is not None)) for address, node in nodes.items()],
    )  # fmt: skip
    text.family(
        "redbroker_redis_answer_seconds", "gauge", "Time to an answer, waiting behind other calls included.",
        [(node_labels[address], node.seconds) for address, node in answered.items()],
    )  # fmt: skip
    infos = {address: answered[address].info for address in owned if address in answered}
    for field, (name, help_) in (GAUGES | COUNTERS).items():
        samples = [(node_labels[at], float(info[field])) for at, info in infos.items() if field in info]
        kind = "counter" if field in COUNTERS else "gauge"
        text.family(f"redbroker_redis_{name}", kind, help_, samples)  # type: ignore[arg-type]
    text.family(
        "redbroker_redis_replica_lag_bytes", "gauge", "How far the slowest replica is behind.",
        [(node_labels[at], lag) for at, info in infos.items() if (lag := replica_lag_bytes(info)) is not None],
    )  # fmt: skip
    text.family(
        "redbroker_redis_aof_ok", "gauge", "Whether the append-only file can be written.",
        [(node_labels[at], int(info.get("aof_last_write_status", "ok") == "ok")) for at, info in infos.items()],
    )  # fmt: skip


def replica_lag_bytes(info: Mapping[str, str]) -> int | None:
    """Bytes of replication stream that the slowest connected replica has not acknowledged; None without replicas."""
    replicas = [each for name, each in info.items() if name.startswith("slave")]
    offsets = [int(found[1]) for each in replicas if (found := REPLICA.search(each))]
    return max(0, int(info.get("master_repl_offset", 0)) - min(offsets)) if offsets else None
