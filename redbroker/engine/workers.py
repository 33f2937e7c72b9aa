"""Workers: who is alive, and which of them clients are sent to.

Each worker claims the small node id that belongs to its advertised address, and beats every `worker_heartbeat_ms`;
one that stays silent for `worker_timeout_ms` is removed by whichever worker beats next. Time is the Redis server's,
taken inside the scripts. While Redis is away the last known workers stay in use, but for one: a worker that hears
nothing of any master for `worker_timeout_ms` is dead to the others by now, and sends clients that still reach it there.

Partitions, groups and transactional ids are spread over the live workers by rendezvous hashing: every process computes
the same answer, and when a worker leaves only what it had moves. This is routing only. Any worker serves any request,
so a stale view costs a detour, never correctness.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import orjson

from redbroker.engine.scripts import script
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.keys import MetaKeys

log = logging.getLogger(__name__)

NODES_MAX = 1_000
"""Addresses that keep their node id; beyond that those without a live worker are forgotten."""
CACHED_LEADERS_MAX = 200_000
GONE_S = 5.0
"""How long a worker without partitions is still named to clients. librdkafka ends its thread for a broker that is no
longer named, and with it, for a second, the partitions that the same answer gives to another one."""
MASK = 2**64 - 1


class Worker(NamedTuple):
    """One live worker, as clients are told of it."""

    node_id: int
    host: str
    port: int
    rack: str | None = None


class Ring:
    """Rendezvous hashing over one set of workers: the worker whose mixed hash with the key is highest has the key."""

    __slots__ = ("_seeds", "workers")

    def __init__(self, workers: Iterable[Worker]) -> None:
        self.workers: tuple[Worker, ...] = tuple(sorted(workers))
        self._seeds = [_hash(f"worker:{worker.node_id}") for worker in self.workers]

    def owner(self, key: str) -> Worker:
        """The worker for a key; there must be one."""
        hashed = _hash(key)
        # Two rounds of multiply and fold: one leaves the weights of two workers correlated.
        once = [(hashed ^ seed) * 0x9E3779B97F4A7C15 & MASK for seed in self._seeds]
        twice = [(weight ^ weight >> 32) * 0xD6E8FEB86659FD93 & MASK for weight in once]
        return self.workers[twice.index(max(twice))]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


class Workers:
    """The live workers of one key space, cached, and this process's own place among them."""

    def __init__(
        self, storage: Storage, keys: MetaKeys, settings: Settings, gone: Callable[[], None] = lambda: None
    ) -> None:
        """`gone` is called when a live worker was there before and is not now, or may have gone a moment ago."""
        self._storage, self._keys, self._settings, self._tell_gone = storage, keys, settings, gone
        self._instance = secrets.token_hex(8)
        self._own: Worker | None = None
        self._replaced = False
        self._beaten_s = 0.0
        self._ring = Ring(())
        self._leaders: dict[tuple[str, int], Worker] = {}
        self._gone: dict[Worker, float] = {}
        self._known = b""
        self._changed = anyio.Event()
        self._refreshing = anyio.Lock()

    @property
    def node_id(self) -> int:
        """This worker's node id; -1 while it is not registered."""
        return -1 if self._own is None else self._own.node_id

    # --- who serves what, from the cache -------------------------------------------------------------------

    def live(self) -> Sequence[Worker]:
        """The live workers by node id."""
        return self._ring.workers

    def named(self) -> Sequence[Worker]:
        """The live workers, and those that were until a moment ago, or stepped aside."""
        if not self._gone:
            return self._ring.workers
        self._forget_gone()
        live = self._ring.workers
        ids = {worker.node_id for worker in live}
        return sorted((*live, *(worker for worker in self._gone if worker.node_id not in ids)))

    def leader(self, topic: str, partition: int) -> Worker:
        """The worker clients are told is the leader of a partition; LEADER_NOT_AVAILABLE when nobody is alive."""
        worker = self._leaders.get((topic, partition))
        if worker is None:
            if not self._ring.workers:
                raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, "No worker is alive.")
            if len(self._leaders) >= CACHED_LEADERS_MAX:
                self._leaders.clear()
            worker = self._leaders[topic, partition] = self._ring.owner(f"{topic}:{partition}")
        return worker

    def coordinator(self, key: str) -> Worker:
        """The worker for a group or transactional id; COORDINATOR_NOT_AVAILABLE when nobody is alive."""
        if not self._ring.workers:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, "No worker is alive.")
        return self._ring.owner(key)

    def controller(self) -> Worker:
        """The worker named as controller: the lowest node id. Any worker serves admin requests."""
        if not self._ring.workers:
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE, "No worker is alive.")
        return self._ring.workers[0]

    # --- being one of them ---------------------------------------------------------------------------------

    async def register(self, host: str, port: int, rack: str | None = None) -> int:
        """Join under the node id of this address; a live worker that claims the same address is replaced."""
        keys = self._keys
        node_id, replaced = await self._storage.run(
            script("register_worker"),
            (keys.workers, keys.nodes, keys.beats, keys.versions, keys.changes),
            (host, port, rack or "", self._instance, NODES_MAX),
        )
        self._own, self._replaced = Worker(int(node_id), host, port, rack), False
        if replaced:
            log.warning(
                "Another worker was registered as %s:%d (node %d) and has not left: if it still runs, give each worker"
                " its own --advertise address; this one takes its place.", host, port, self.node_id,
            )  # fmt: skip
        self.changed()  # from now on `run` keeps the beat
        await self.refresh()
        return self.node_id

    async def deregister(self) -> None:
        """Leave; the others hear of it at once."""
        own, self._own = self._own, None
        if own is None or self._replaced:
            return
        keys = self._keys
        await self._storage.run(
            script("deregister_worker"),
            (keys.workers, keys.beats, keys.versions, keys.changes),
            (own.node_id, self._instance),
        )

    # --- keeping the cache fresh ---------------------------------------------------------------------------

    def changed(self) -> None:
        """Somebody announced a change: look soon."""
        self._changed.set()

    async def refresh(self) -> None:
        """Beat if registered, and learn who else is alive."""
        async with self._refreshing:
            own = self._own
            if own is None or self._replaced:
                await self._look()
                return
            status = await self._beat(own)
        if status == b"expired" and self._own is own:
            log.warning(
                "Node %d was silent for more than worker_timeout_ms and taken for dead; it joins again.", own.node_id
            )
            await self.register(own.host, own.port, own.rack)

    async def run(self) -> None:
        """Beat and refresh every `worker_heartbeat_ms`, and whenever a change is announced; never returns."""
        settings = self._settings
        while True:
            beat_ms = min(settings.worker_heartbeat_ms, settings.worker_timeout_ms // 3)
            with anyio.move_on_after((beat_ms if self._own else settings.metadata_refresh_ms) / 1000):
                await self._changed.wait()
            self._changed = anyio.Event()
            try:
                with anyio.fail_after(settings.worker_timeout_ms / 1000):
                    await self.refresh()
            except (KafkaError, TimeoutError) as away:
                log.debug("No heartbeat, the last known workers stay in use: %s", away)
                self._step_aside()

    # --- inside --------------------------------------------------------------------------------------------

    def _step_aside(self) -> None:
        """Where all of Redis is silent, clients are better off with the others, if there are any."""
        own, heard_s = self._own, max(self._beaten_s, self._storage.heard_s)
        silent_s = anyio.current_time() - heard_s
        if own is None or self._replaced or silent_s < self._settings.worker_timeout_ms / 1000:
            return
        others = [worker for worker in self._ring.workers if worker.node_id != own.node_id]
        if others and len(others) < len(self._ring.workers):
            log.warning("Redis was silent for worker_timeout_ms: clients of node %d are sent elsewhere.", own.node_id)
            self._known = b""  # whatever Redis says next is news
            self._use(others)

    async def _beat(self, own: Worker) -> bytes:
        keys = self._keys
        status, version, workers = await self._storage.run(
            script("beat"),
            (keys.workers, keys.beats, keys.versions, keys.changes),
            (own.node_id, self._instance, self._settings.worker_timeout_ms, self._known),
        )
        self._beaten_s = anyio.current_time()
        if status == b"replaced" and self._own is own:
            self._replaced = True
            log.error(
                "Another worker has taken the address %s:%d (node %d): clients are sent there. Stop one of the two, or"
                " give each its own --advertise address.", own.host, own.port, own.node_id,
            )  # fmt: skip
        self._learn(version, workers)
        return bytes(status)

    def _forget_gone(self) -> None:
        # This worker, where it only stepped aside, is there: clients who reach nobody else must not lose it, too.
        now = anyio.current_time()
        self._gone = {
            worker: since for worker, since in self._gone.items() if now - since < GONE_S or worker == self._own
        }

    async def _look(self) -> None:
        keys = self._keys
        version, workers = await self._storage.run(
            script("live_workers"), (keys.workers, keys.versions), (self._known,)
        )
        self._learn(version, workers)

    def _learn(self, version: bytes, workers: Sequence[Any]) -> None:
        if version == self._known:
            return
        self._known = bytes(version)
        found = {worker.node_id: worker for worker in map(_unpack, workers)}
        if self._own is not None and not self._replaced:
            found[self._own.node_id] = self._own  # whoever else takes this worker for dead: it is not
        if tuple(sorted(found.values())) != self._ring.workers:
            self._use(found.values())

    def _use(self, workers: Iterable[Worker]) -> None:
        before, self._ring = self._ring, Ring(workers)
        self._forget_gone()
        gone = set(before.workers) - set(self._ring.workers)
        self._gone |= dict.fromkeys(gone, anyio.current_time())
        for worker in self._ring.workers:
            self._gone.pop(worker, None)
        if gone or (not before.workers and set(self._ring.workers) - {self._own}):
            self._tell_gone()  # those that are there already may know of one that this process never met
        self._leaders.clear()


def _unpack(stored: bytes) -> Worker:
    value = orjson.loads(stored)
    return Worker(value["id"], value["host"], value["port"], value.get("rack"))
