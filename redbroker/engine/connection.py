"""Storage: the one place that opens Redis. Standalone, Sentinel and Cluster look the same from above.

    Storage.run(script, keys, args) --slot of keys[0]--> route --> Lane (or a Hold in its place) --> Pipe --> Redis
                                                           ^                                             |
                                                           +-- MOVED, ASK, NOSCRIPT, TRYAGAIN, lost -----+

Every call is one future: no task, no coroutine, no lock. What goes wrong is handled on the way back, in `refused`:
the call is redirected, or held and tried again while its patience (`storage_retry_ms`) lasts, and only then fails,
with a `KafkaError`. Calls of one slot keep their order through all of this: a `Hold` takes the slot's place until
everything sent before has been answered, then sends the refused calls, then those that came meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis

from redbroker.config import Settings
from redbroker.engine.acks import AckedCall, AckLane
from redbroker.engine.discovery import discover
from redbroker.engine.durability import Source
from redbroker.engine.hold import Hold
from redbroker.engine.lane import Lane
from redbroker.engine.refusals import TRANSIENT, UNSETTLED, translate
from redbroker.engine.resp import Call, Pipe, ScriptPrefix, Word, encode, open_pipe
from redbroker.engine.scripts import Script, all_scripts, script
from redbroker.engine.slots import SLOTS, Topology, key_slot, read_redirect
from redbroker.engine.target import Address, Target, parse_target
from redbroker.errors import ErrorCode, KafkaError
from redbroker.metrics import StorageCells

HOPS_MIN = 5
PREFIXES_MAX = 65_536
REFRESH_PAUSE_S = 0.2
TRANSIENT_PAUSE_S = 0.01
SETTLE_MS = 1_000
COUNTED = TRANSIENT | {"MOVED", "ASK", "NOSCRIPT", "OOM", "READONLY", "MISCONF", "NOREPLICAS"}

log = logging.getLogger(__name__)

Route = Lane | Hold


class Node:
    """One master and the two lanes to it."""

    __slots__ = ("acks", "address", "calls")

    def __init__(self, storage: Storage, address: Address) -> None:
        self.address = address
        self.calls = Lane(storage, address)
        self.acks = AckLane(storage, address)

    def retire(self) -> None:
        """It is no master any more."""
        self.calls.retire()
        self.acks.retire()

    async def close(self) -> None:
        """Close both lanes."""
        await self.calls.close()
        await self.acks.close()


class Storage:
    """Redis, whatever its shape: `call` a command or `run` a script by key, `await storage.close()` at the end."""

    def __init__(self, settings: Settings, target: Target, topology: Topology) -> None:
        self.settings = settings
        self.cells = StorageCells()
        self.cluster = topology.cluster
        self.knows_the_away = topology.knows_the_away
        self.target = target
        self.topology = topology
        self.several_masters = False
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Node] = []
        self._seen: list[Node] = []  # the owners at the last refresh; MOVED changes `_owners` in between
        self._calls: list[Route] = []
        self._acks: list[Route] = []
        self._prefixes: dict[tuple[bytes, tuple[bytes, ...], int], ScriptPrefix] = {}
        self._loads = [("SCRIPT", "LOAD", script.source) for script in all_scripts()]
        self._refreshing: asyncio.Task[None] | None = None
        self._settling: dict[bytes, asyncio.Task[None]] = {}
        self._closed = False
        self._watchers: list[Callable[[], None]] = []
        self._readers: list[Callable[[Topology], None]] = []
        self._apply(topology)

    @classmethod
    async def open(cls, settings: Settings) -> Storage:
        """Find the masters and connect; `StorageError` (a KafkaError) names the setting to change when that fails."""
        target = parse_target(settings)
        topology = await discover(target, timeout_s=settings.storage_timeout_ms / 1000)
        storage = cls(settings, target, topology)
        await asyncio.wait(
            [node.calls.connect() for node in storage._nodes.values()], timeout=settings.storage_timeout_ms / 1000
        )
        return storage

    @property
    def masters(self) -> list[Address]:
        """The masters that serve slots now."""
        return list(dict.fromkeys(node.address for node in dict.fromkeys(self._owners)))

    @property
    def replicas(self) -> int:
        """Replicas of the master that has the fewest, as last seen; those that are away count where they are known."""
        return min(master.replicas for master in self.topology.masters)

    @property
    def heard_s(self) -> float:
        """When a master last said anything, whichever, on the event loop's clock; 0 while there is no connection."""
        pipes = [lane.pipe for node in self._nodes.values() for lane in (node.calls, node.acks)]
        return max((pipe.heard for pipe in pipes if pipe is not None), default=0.0)

    @property
    def source(self) -> Source:
        """Who tells how many replicas there are."""
        if not self.knows_the_away:
            return "seen"
        return "cluster" if self.cluster else "sentinel"

    def master_of(self, key: bytes) -> Address:
        """The master that serves a key now."""
        return self._owners[key_slot(key) if self.cluster else 0].address

    # --- calls -----------------------------------------------------------------------------------------------

    def call(self, key: bytes, *words: Word, kind: type[Call] = Call) -> asyncio.Future[Any]:
        """One command (`words`), sent to the master of `key`; it may be sent again after a lost connection."""
        return self._on_slot(key_slot(key) if self.cluster else 0, words, kind)

    def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Word],
        *,
        once: bool = False,
        kind: type[Call] = Call,
    ) -> asyncio.Future[Any]:
        """One script on the master of `keys[0]`. `once`: never sent twice, REQUEST_TIMED_OUT when nobody knows."""
        loop = self._loop
        call = kind(loop=loop)
        names = keys if keys.__class__ is tuple else tuple(keys)
        prefix = self._prefixes.get((script.sha, names, len(args))) or self._prefix(script, names, len(args))
        call.prefix = prefix
        call.payload = encode(args, prefix.evalsha)
        call.slot = slot = prefix.slot
        call.born = loop.time()
        if once:
            call.once = True
        self._calls[slot].submit(call)
        return call

    def run_acked(
        self,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Word],
        *,
        replicas: int,
        timeout_ms: int,
        once: bool = False,
    ) -> asyncio.Future[tuple[Any, int]]:
        """As `run`, then wait for `replicas` of them, at most `timeout_ms`: `(reply, replicas that acknowledged)`."""
        call = AckedCall(loop=self._loop)
        names = tuple(keys)
        prefix = self._prefixes.get((script.sha, names, len(args))) or self._prefix(script, names, len(args))
        call.prefix, call.slot, call.once = prefix, prefix.slot, once
        call.payload = encode(args, prefix.evalsha)
        call.born = self._loop.time()
        call.replicas = replicas
        call.deadline = call.born + timeout_ms / 1000
        (self._acks if replicas else self._calls)[call.slot].submit(call)
        return call

    def _prefix(self, script: Script, names: tuple[bytes, ...], arguments: int) -> ScriptPrefix:
        if len(self._prefixes) >= PREFIXES_MAX:
            self._prefixes.clear()
        slot = key_slot(names[0]) if self.cluster else 0
        prefix = ScriptPrefix(script, names, arguments, slot)
        self._prefixes[script.sha, names, arguments] = prefix
        return prefix

    async def on_masters(self, *words: Word) -> list[tuple[str, Any]]:
        """The same command on every master: `(address, reply)` of each."""
        return [(address, await call) for address, call in self.each_master(*words).items()]

    def each_master(self, *words: Word, kind: type[Call] = Call) -> dict[str, asyncio.Future[Any]]:
        """The same without waiting: each master answers, or fails, on its own."""
        return {server: self._on_slot(slot, words, kind) for server, slot in self.slots().items()}

    def slots(self) -> dict[str, int]:
        """One slot of each master, by its address."""
        slots = {node: slot for slot, node in enumerate(self._owners)}
        return {str(node.address): slot for node, slot in slots.items()}

    def _on_slot(self, slot: int, words: Iterable[Word], kind: type[Call] = Call) -> Call:
        call = kind(loop=self._loop)
        call.payload = encode(words)
        call.slot, call.born, call.prefix = slot, self._loop.time(), None
        self._calls[slot].submit(call)
        return call

    # --- refusals: the router's side of a lane -----------------------------------------------------------------

    async def open_lane(self, lane: Lane) -> Pipe:
        """Connect a lane; every script is loaded, so that EVALSHA rarely needs its source."""
        return await open_pipe(
            lane.address,
            self.target.access,
            lane,
            timeout_s=self.settings.storage_timeout_ms / 1000,
            pending_max=self.settings.storage_pending_max,
            errands=self._loads,
        )

    def route(self, call: Call) -> None:
        """Submit a call to whatever serves its slot now."""
        self._table(call)[call.slot].submit(call)

    def _table(self, call: Call) -> list[Route]:
        return self._acks if isinstance(call, AckedCall) and call.replicas else self._calls

    def refused(self, lane: Lane, call: Call, error: hiredis.ReplyError) -> None:
        """A node refused a call: redirect it, try it again, or end it with the error in Kafka's terms."""
        text = str(error)
        word = text.partition(" ")[0]
        if word in COUNTED:
            self.cells.refusals[word] = self.cells.refusals.get(word, 0) + 1
        if word in ("MOVED", "ASK"):
            self._redirect(lane, call, text)
        elif word == "NOSCRIPT" and call.prefix is not None:
            call.payload = call.prefix.with_source(call.payload)
            self.again(lane, call)
        elif word == UNSETTLED:
            self._settle(text)
            self.again(lane, call, TRANSIENT_PAUSE_S)
        elif word in TRANSIENT:
            self.refresh_soon()
            self.again(lane, call, TRANSIENT_PAUSE_S * 2 ** min(call.hops, 4))
        else:
            call.fail(*translate(text))

    def _settle(self, text: str) -> None:
        """A partition has a new leader epoch that serves nothing yet: have it replicated, then lift the barrier."""
        _, replicas, key, *_ = text.encode().split()
        if key not in self._settling:
            task = self._loop.create_task(self._lift_barrier(key, int(replicas)))
            self._settling[key] = task
            task.add_done_callback(lambda _: self._settling.pop(key, None))

    async def _lift_barrier(self, key: bytes, replicas: int) -> None:
        settle = script("settle")
        with contextlib.suppress(KafkaError):  # the barrier ends by itself, too
            bumped, acked = await self.run_acked(settle, (key,), (b"",), replicas=replicas, timeout_ms=SETTLE_MS)
            if acked >= replicas:
                await self.run(settle, (key,), (bumped,))

    def _redirect(self, lane: Lane, call: Call, text: str) -> None:
        slot, address = read_redirect(text, lane.address)
        if not self.cluster or address is None:
            self.refresh_soon()
            self.again(lane, call, TRANSIENT_PAUSE_S)
        elif text.startswith("MOVED"):
            self._owners[slot] = self._node(address)
            self.refresh_soon()
            self.again(lane, call)
        elif isinstance(self._table(call)[slot], Hold):
            self.again(lane, call)  # one before it is held: it must not go to the importing node alone
        elif self._may_hop(call):
            node = self._node(address)
            (node.acks if self._table(call) is self._acks else node.calls).submit_asking(call)

    def again(self, lane: Lane, call: Call, delay_s: float = 0.0) -> None:
        """Hold the call's slot until `lane` has answered what was sent before, then try it again, in order."""
        hopping = self._may_hop(call)
        if not hopping and call.follows is None:
            return
        table = self._table(call)
        route = table[call.slot]
        if not isinstance(route, Hold):
            route = table[call.slot] = Hold(self, table, call.slot, self.settings.storage_pending_max)
        if hopping:
            route.again(lane, call, delay_s)
        elif call.follows is not None:
            route.give_up(lane, call.follows)

    def hold_back(self, call: Call) -> bool:
        """Give an unanswered call of a lost connection to its slot's hold; False when there is none."""
        route = self._table(call)[call.slot]
        if isinstance(route, Hold):
            route.hold_back(call)
        return isinstance(route, Hold)

    def _may_hop(self, call: Call) -> bool:
        """Count another try; a call that had `HOPS_MIN` and whose patience has ended fails here."""
        now = self._loop.time()
        if call.patience is None:
            call.patience = now + self.settings.storage_retry_ms / 1000
        call.hops += 1
        if call.hops > HOPS_MIN and now >= call.patience:
            call.fail(ErrorCode.NOT_LEADER_OR_FOLLOWER, "Redis is moving or failing over; try again.")
            return False
        return True

    def release(self, table: list[Route], slot: int) -> None:
        """Put the lane of the slot's owner back in its place (a `Hold` ends)."""
        owner = self._owners[slot]
        table[slot] = owner.acks if table is self._acks else owner.calls

    # --- topology ------------------------------------------------------------------------------------------------

    def on_topology_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a slot got another master."""
        self._watchers.append(callback)

    def on_refresh(self, callback: Callable[[Topology], None]) -> None:
        """Show `callback` the topology whenever it was read."""
        self._readers.append(callback)

    def refresh_soon(self) -> None:
        """Look at the topology again, at most once per `REFRESH_PAUSE_S`; nothing to do for a single server."""
        single = not self.cluster and not self.target.sentinel and len(self.target.seeds) == 1
        if self._refreshing is None and not single and not self._closed:
            self._refreshing = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._apply(await discover(self.target, list(self._nodes)))
        except KafkaError as error:
            log.warning("redis topology is unknown: %s", error.message)
        except Exception:
            log.exception("redis topology cannot be read")
        await asyncio.sleep(REFRESH_PAUSE_S)
        self._refreshing = None

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(self, address)
            node.calls.connect()
        return node

    def _apply(self, topology: Topology) -> None:
        """Take over a topology: owners, routes (holds stay), and calls that wait for a node which was replaced."""
        if topology.cluster != self.cluster:
            return  # a server of another kind took the address; calls to it will fail by themselves
        self.topology = topology
        for reader in self._readers:
            reader(topology)
        count = SLOTS if self.cluster else 1
        first = self._node(topology.masters[0].address)
        before = self._seen
        self._owners = self._owners or [first] * count
        for master in topology.masters:
            node = self._node(master.address)
            for start, end in master.ranges:
                self._owners[start : end + 1] = [node] * (end + 1 - start)
        self._calls[:] = self._routes(self._calls, [node.calls for node in self._owners])
        self._acks[:] = self._routes(self._acks, [node.acks for node in self._owners])
        serving = set(self._owners)
        self.several_masters = len(serving) > 1
        for node in list(self._nodes.values()):
            if node not in serving:
                del self._nodes[node.address]
                node.retire()
            else:
                node.calls.reroute_if_down()
                node.acks.reroute_if_down()
        self._seen = self._owners[:]
        if before != self._seen:
            for callback in self._watchers:
                callback()

    def _routes(self, old: list[Route], lanes: Sequence[Lane]) -> list[Route]:
        if not any(isinstance(route, Hold) for route in old):
            return list(lanes)
        return [route if isinstance(route, Hold) else lane for route, lane in zip(old, lanes, strict=True)]

    # --- end -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close every connection; calls under way fail with NOT_LEADER_OR_FOLLOWER."""
        self._closed = True
        background = [*self._settling.values(), *([self._refreshing] if self._refreshing else ())]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for table in (self._calls, self._acks):
            for route in table:
                if isinstance(route, Hold):
                    route.close()
        for node in [*self._nodes.values()]:
            await node.close()
