"""Finding the masters: by INFO and CLUSTER SLOTS from any node that answers, or by asking the Sentinels.

Everybody who may know is asked at once. The first answer opens a short grace for others, and the one with the
highest configuration epoch wins, so that a node that missed a failover does not decide.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Coroutine, Iterable
from typing import Any

import hiredis

from redbroker.engine.resp import Alone, Pipe, Word, open_pipe
from redbroker.engine.slots import Master, Topology, read_cluster_nodes, read_cluster_shards, read_cluster_slots
from redbroker.engine.target import Access, Address, StorageError, Target
from redbroker.errors import ErrorCode

ASKED_MAX = 8
GRACE_S = 0.05
PATIENCE_S = 2.0
IN_STEP = re.compile(rb"state=online,offset=[1-9]")


async def discover(target: Target, known: Iterable[Address] = (), *, timeout_s: float = PATIENCE_S) -> Topology:
    """The topology now; `known` are masters seen before. `StorageError` tells what every server asked said."""
    if target.sentinel:
        return await _best(target.seeds, [_ask_sentinel(seed, target, timeout_s) for seed in target.seeds], timeout_s)
    places = list(dict.fromkeys((*target.seeds, *known)))
    random.shuffle(places)
    places = places[:ASKED_MAX]
    return await _best(places, [_ask_node(place, target.access, timeout_s) for place in places], timeout_s)


async def _best(
    places: Iterable[Address], questions: Iterable[Coroutine[Any, Any, Topology]], timeout_s: float
) -> Topology:
    tasks = {asyncio.create_task(question): place for place, question in zip(places, questions, strict=True)}
    waiting: set[asyncio.Task[Topology]] = set(tasks)
    found: list[Topology] = []
    failed: list[tuple[Address, Exception]] = []
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        while waiting and not found:
            left_s = deadline - asyncio.get_running_loop().time()
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            _sort(done, tasks, found, failed)
        if waiting and found:
            done, waiting = await asyncio.wait(waiting, timeout=GRACE_S)
            _sort(done, tasks, found, failed)
    finally:
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
    if found:
        return max(found, key=lambda topology: topology.epoch)
    failed += [(tasks[task], TimeoutError("no answer")) for task in waiting]
    raise _explained(failed)


def _sort(
    done: Iterable[asyncio.Task[Topology]],
    tasks: dict[asyncio.Task[Topology], Address],
    found: list[Topology],
    failed: list[tuple[Address, Exception]],
) -> None:
    for task in done:
        error = task.exception()
        if error is None:
            found.append(task.result())
        elif isinstance(error, Exception):
            failed.append((tasks[task], error))


def _explained(failed: list[tuple[Address, Exception]]) -> StorageError:
    for _, error in failed:
        if isinstance(error, StorageError):
            return error
    reasons = "; ".join(f"{place}: {_reason(error)}" for place, error in failed)
    return StorageError(ErrorCode.BROKER_NOT_AVAILABLE, f"No Redis master can be reached by storage_url ({reasons}).")


def _reason(error: Exception) -> str:
    """In people's words; asyncio's own repeat the address."""
    if isinstance(error, ConnectionRefusedError | FileNotFoundError | PermissionError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


async def ask(
    address: Address, access: Access, *commands: tuple[Word, ...], timeout_s: float, may_refuse: int = 0
) -> list[Any]:
    """The replies of one server, over a connection of its own. Refusals raise `StorageError`.

    So many of the last commands may be refused: forbidden, renamed away or unknown, their reply is None.
    """
    pipe: Pipe = await open_pipe(address, access, Alone(), timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            replies = await pipe.ask(*commands)
    finally:
        pipe.abort(ConnectionError("done"))
        await pipe.gone.wait()
    for place, (words, reply) in enumerate(zip(commands, replies, strict=True)):
        if isinstance(reply, hiredis.ReplyError) and place >= len(commands) - may_refuse:
            replies[place] = None
        elif isinstance(reply, hiredis.ReplyError):
            sentence = f"Redis at {address}, named by storage_url, refused {words[0]!s} {words[1]!s}: {reply}."
            raise StorageError(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, sentence)
        elif isinstance(reply, Exception):
            raise reply
    return replies


def info_field(info: bytes, name: str) -> str:
    """One field of an INFO reply, empty when it is missing."""
    for line in info.decode().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    return ""


def connected(replication: bytes) -> tuple[int, int]:
    """How many replicas a master's INFO lists, and how many of them have yet to get their copy.

    One that still loads what it was sent is "online" too, but has acknowledged no offset.
    """
    replicas = int(info_field(replication, "connected_slaves") or 0)
    return replicas, replicas - len(IN_STEP.findall(replication))


async def _ask_node(address: Address, access: Access, timeout_s: float) -> Topology:
    cluster, replication = await ask(address, access, ("INFO", "cluster"), ("INFO", "replication"), timeout_s=timeout_s)
    if info_field(cluster, "cluster_enabled") != "1":
        if info_field(replication, "role") != "master":
            raise ConnectionError("is a replica, its master is needed")
        replicas, copying = connected(replication)
        return Topology(False, (Master(address, ((0, 0),), replicas, copying),), knows_the_away=False)
    commands = (("CLUSTER", "SLOTS"), ("CLUSTER", "INFO"), ("CLUSTER", "SHARDS"))
    slots, state, told = await ask(address, access, *commands, timeout_s=timeout_s, may_refuse=1)
    epoch = int(info_field(state, "cluster_current_epoch") or 0)
    shards = None if told is None else read_cluster_shards(told)
    if shards is None:
        (nodes,) = await ask(address, access, ("CLUSTER", "NODES"), timeout_s=timeout_s, may_refuse=1)
        shards = None if nodes is None else read_cluster_nodes(nodes)
    topology = read_cluster_slots(slots, address, epoch, shards)
    if not topology.masters:
        raise ConnectionError("its cluster serves no slots yet")
    return topology


async def _ask_sentinel(address: Address, target: Target, timeout_s: float) -> Topology:
    (reply,) = await ask(address, target.sentinel_access, ("SENTINEL", "MASTER", target.sentinel), timeout_s=timeout_s)
    fields = dict(zip(reply[::2], reply[1::2], strict=False))
    master = Address(fields[b"ip"].decode(), int(fields[b"port"]))
    (role,) = await ask(master, target.access, ("INFO", "replication"), timeout_s=timeout_s)
    if info_field(role, "role") != "master":
        raise ConnectionError(f"names {master}, which is not a master (any more)")
    # Those that are away count, too: Sentinel knows them, and a master lists its own before Sentinel asks for them.
    replicas, copying = connected(role)
    replicas = max(replicas, int(fields[b"num-slaves"]))
    return Topology(False, (Master(master, ((0, 0),), replicas, copying),), int(fields[b"config-epoch"]))
