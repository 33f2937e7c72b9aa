"""What INFO says is told once, with the replicas' lag worked out."""

from __future__ import annotations

from redbroker.broker.redis_figures import replica_lag_bytes, write_nodes
from redbroker.engine.survey import NodeState
from redbroker.metrics import Text


def test_the_slowest_replica_counts() -> None:
    info = {
        "master_repl_offset": "100",
        "slave0": "ip=1,port=1,state=online,offset=90,lag=0",
        "slave1": "ip=2,port=2,state=online,offset=40,lag=1",
    }
    assert replica_lag_bytes(info) == 60
    assert replica_lag_bytes({"master_repl_offset": "100"}) is None


def test_only_the_owner_tells_of_memory_but_everybody_of_answers() -> None:
    nodes = {"a:1": NodeState(0.5, {"used_memory": "7"}), "b:1": NodeState(0.25, {"used_memory": "8"}), "c:1": None}
    text = Text()
    write_nodes(text, nodes, ["b:1", "c:1"])
    lines = set(text.lines)
    assert 'redbroker_redis_memory_used_bytes{node="b:1"} 8.0' in lines
    assert not [line for line in lines if line.startswith('redbroker_redis_memory_used_bytes{node="a:1"}')]
    assert {'redbroker_redis_node_up{node="c:1"} 0', 'redbroker_redis_answer_seconds{node="a:1"} 0.5'} <= lines
