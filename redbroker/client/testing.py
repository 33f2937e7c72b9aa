"""Tests of an app without a server: the same producer, consumers and groups over the engine in memory.

    async with app.test() as t:
        await t.send("orders", Order(id=1), key="42")      # returns when the handlers are done with it
        assert await t.sent("invoices") == [Invoice(1)]
        await t.advance(30)                                # retries that are due by then are handled

Time stands still unless `advance` moves it. What a handler raised is in `t.failures`; what stopped the app is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

from redbroker.client.clock import StillClock
from redbroker.client.connection import Connection
from redbroker.client.types import ConsumerRecord, Sent
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Read
from redbroker.engine.memory import MemoryTail, memory_engine
from redbroker.errors import KafkaError
from redbroker.types import TopicPartition
from redbroker.wire.records import iter_records

if TYPE_CHECKING:
    from redbroker.client.app import RedBroker
    from redbroker.engine.topics import Topic

__all__ = ["AppTest"]

SETTLE_S = 10.0
LOOK_S = 0.002
ALL_BYTES = 1 << 30


class MemoryConnection(Connection):
    """A connection to nothing: its engine lives in memory, with an app's settings, on a clock of its own."""

    def __init__(self, clock: StillClock, settings: Settings) -> None:
        super().__init__("embedded:")
        self.settings = settings.model_copy(update={"replicas": None, "min_insync_replicas": None})
        self.clock = clock

    async def __aenter__(self) -> Connection:
        context = memory_engine(self.settings, self.clock.now_ms)
        self._engine = await context.__aenter__()
        self._context = context
        return self


class AppTest:
    """What `async with app.test()` gives.

    `clock` and `engine` are there for tests that want more. All there is beside them:

        app = RedBroker()
        lines = app.topic("lines", value=str, partitions=1)
        async with app.test() as t:
            await t.send("lines", "first")  # returns when the handlers are done with it
            await lines.send("second")
            await t.settle()  # so does this
            await t.advance(60)  # time goes on, and what fell due is done
            assert await t.sent("lines") == ["first", "second"]
            assert [record.offset for record in await t.records("lines")] == [0, 1]
    """

    def __init__(self, app: RedBroker) -> None:
        self._app = app
        self.clock = StillClock()
        self.failures: list[tuple[ConsumerRecord, Exception]] = []
        self._stack = contextlib.AsyncExitStack()

    @property
    def engine(self) -> Engine:
        """The engine in memory."""
        return self._app.connection.engine

    async def __aenter__(self) -> AppTest:
        app, before = self._app, (self._app.connection, self._app.clock)
        app.connection, app.clock = MemoryConnection(self.clock, app.connection.settings), self.clock

        def restore() -> None:
            app.connection, app.clock = before

        async with contextlib.AsyncExitStack() as stack:
            stack.callback(restore)
            await stack.enter_async_context(app)
            for each in app.running:
                each.failures = self.failures
            self._stack = stack.pop_all()
        await self.settle()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def send(self, topic: str, value: Any, *, key: Any = None, headers: Any = ()) -> Sent:
        """Send a record, and return when every handler is done with what came of it."""
        sent = await self._app.send(topic, value, key=key, headers=headers)
        await self.settle()
        return sent

    async def advance(self, seconds: float) -> None:
        """Let time pass, and return when what fell due is done."""
        self.clock.advance(seconds)
        tail = self.engine.tail
        assert isinstance(tail, MemoryTail)
        tail.moved_clock()
        await self.settle()

    async def records(self, topic: str) -> list[ConsumerRecord]:
        """Every record of a topic, partition by partition, of its declared types."""
        found = self.engine.topics.get(topic)
        declared = self._app.topics.get(topic)
        if found is None:
            return []
        raw = [record for number in range(found.partitions) for record in await self._partition(found, number)]
        return raw if declared is None else [declared.decode(record) for record in raw]

    async def sent(self, topic: str) -> list[Any]:
        """The values of a topic's records."""
        return [record.value for record in await self.records(topic)]

    async def settle(self) -> None:
        """Return when nothing is left to do now; raises what stopped the app, TimeoutError after 10 s."""
        try:
            async with asyncio.timeout(SETTLE_S):
                while not await self._quiet():  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise TimeoutError(f"Handlers were not done after {SETTLE_S} s: {self._app.health()}") from None

    # --- inside --------------------------------------------------------------------------------------------------

    async def _quiet(self) -> bool:
        """Whether each subscription has taken up all there is, except what is not due, and is done with it.

        Looking takes a while: it counts only if nothing was begun or ended meanwhile.
        """
        before = self._activity()
        for each in self._app.running:
            for name in each.subscription.topics:
                topic = self.engine.topics.get(name)
                assert topic is not None
                ends = await self.engine.log.bounds([(topic, number) for number in range(topic.partitions)])
                for number, end in enumerate(ends):
                    place = TopicPartition(name, number)
                    if isinstance(end, KafkaError):
                        raise end
                    if place in each.resting:
                        continue
                    if place not in each.consumer.assignment() or end.next > await each.consumer.position(place):
                        return False
        return before == self._activity() and not any(each.lanes.in_flight for each in self._app.running)

    def _activity(self) -> list[tuple[int, int]]:
        """What changes with every record taken up or done with; raises what stopped the app."""
        for each in self._app.running:
            if each.lanes.failure is not None:
                raise each.lanes.failure
        if self._app.failure is not None:
            raise self._app.failure
        return [(sum(each.taken.values()), each.lanes.in_flight) for each in self._app.running]

    async def _partition(self, topic: Topic, number: int) -> list[ConsumerRecord]:
        [result] = await self.engine.log.read([Read(topic, number, 0, ALL_BYTES)], max_bytes=ALL_BYTES)
        if isinstance(result, KafkaError):
            raise result
        return [
            ConsumerRecord(
                topic.name, number, stored.base_offset + record.offset, record.timestamp, record.key, record.value,
                record.headers, stored.leader_epoch,
            )
            for stored in result.batches for record in iter_records(stored.batch)
        ]  # fmt: skip
