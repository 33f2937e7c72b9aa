"""The log against a list: whatever is appended, retried, trimmed and failed over, reads agree with a ten-line model."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.log import Append, Appended, Bounds, Log, Read, ReadResult
from redbroker.engine.tail import Tail
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import Record, build_batch, read_header

PRODUCERS = (1, 2, 2**62 + 1)


def test_the_log_agrees_with_a_list(valkey: Any) -> None:
    class Model(LogModel):
        url = valkey.url

    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class LogModel(RuleBasedStateMachine):
    """`entries` is the log: (base offset, count, batch); `sent` what each idempotent producer got for each sequence."""

    url = ""

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.topic = Topic("model", uuid.uuid4(), 1, {}, 1)
        self.entries: list[tuple[int, int, bytes]] = []
        self.start = self.next = 0
        self.sent: dict[int, list[tuple[int, int, bytes]]] = {producer: [] for producer in PRODUCERS}
        self.sequence = dict.fromkeys(PRODUCERS, 0)
        self.epochs = 0
        self.wait(self._open())

    async def _open(self) -> None:
        config = Settings(storage_url=self.url, key_prefix=f"m{uuid.uuid4().hex[:8]}")
        self.storage = await Storage.open(config)
        self.tail = Tail(self.storage, config)
        self.log = Log(self.storage, self.tail, config)
        self.prefix = config.key_prefix

    def teardown(self) -> None:
        async def close() -> None:
            await self.log.close()
            await self.tail.close()
            await self.storage.close()

        if hasattr(self, "loop"):
            self.wait(close())
            self.loop.close()

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def append(self, batches: list[bytes]) -> list[Appended | KafkaError]:
        entries = [Append(self.topic, 0, batch, read_header(batch)) for batch in batches]
        answers: list[Appended | KafkaError] = self.wait(self.log.append(entries, acks=1, timeout_ms=1000))
        return answers

    def stored(self, count: int, batch: bytes) -> int:
        base, self.next = self.next, self.next + count
        self.entries.append((base, count, batch))
        return base

    @rule(counts=st.lists(st.integers(1, 20), min_size=1, max_size=6), size=st.integers(0, 3000))
    def produce(self, counts: list[int], size: int) -> None:
        batches = [a_batch(count, size) for count in counts]
        answers = self.append(batches)
        expected = [self.stored(count, batch) for count, batch in zip(counts, batches, strict=True)]
        assert [answer.base_offset for answer in answers if isinstance(answer, Appended)] == expected

    @rule(producer=st.sampled_from(PRODUCERS), count=st.integers(1, 5))
    def produce_idempotently(self, producer: int, count: int) -> None:
        sequence = self.sequence[producer]
        batch = a_batch(count, 10, producer_id=producer, producer_epoch=0, base_sequence=sequence)
        [answer] = self.append([batch])
        base = self.stored(count, batch)
        assert isinstance(answer, Appended)
        assert (answer.base_offset, answer.duplicate) == (base, False)
        self.sequence[producer] += count
        self.sent[producer].append((sequence, base, batch))

    @rule(producer=st.sampled_from(PRODUCERS), back=st.integers(1, 8))
    def produce_again(self, producer: int, back: int) -> None:
        if len(self.sent[producer]) < back:
            return
        _, base, batch = self.sent[producer][-back]
        [answer] = self.append([batch])
        if back <= 5:
            assert isinstance(answer, Appended)
            assert (answer.base_offset, answer.duplicate) == (base, True)
        else:
            assert isinstance(answer, KafkaError)
            assert answer.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    @rule(share=st.floats(0, 1))
    def trim(self, share: float) -> None:
        before = int(self.next * share)
        [start] = self.wait(self.log.trim([(self.topic, 0, before)]))
        self.start = max(self.start, before)
        assert start == self.start
        self.entries = [entry for entry in self.entries if entry[0] + entry[1] > self.start]

    @rule()
    def fail_over(self) -> None:
        state = f"{self.prefix}:{{model:0}}:state"
        self.wait(self.log.bounds([(self.topic, 0)]))
        self.wait(self.storage.call(state.encode(), "HSET", state, "rid", "0" * 40))
        self.epochs += 1

    @rule(share=st.floats(0, 1), max_bytes=st.integers(1, 20_000))
    def read_some(self, share: float, max_bytes: int) -> None:
        offset = self.start + int((self.next - self.start) * share)
        [result] = self.wait(self.log.read([Read(self.topic, 0, offset, max_bytes)], max_bytes=max_bytes))
        assert isinstance(result, ReadResult)
        expected: list[tuple[int, bytes]] = []
        nbytes = 0
        for base, count, batch in self.entries:
            if base + count <= offset:
                continue
            if expected and nbytes + len(batch) > max_bytes:
                break
            expected.append((base, batch))
            nbytes += len(batch)
        assert [(stored.base_offset, stored.batch) for stored in result.batches] == expected

    @invariant()
    def bounds_agree(self) -> None:
        if not hasattr(self, "log"):
            return
        [bounds] = self.wait(self.log.bounds([(self.topic, 0)]))
        assert isinstance(bounds, Bounds)
        assert (bounds.log_start, bounds.next) == (self.start, self.next)
        assert bounds.nbytes >= sum(len(batch) for _, _, batch in self.entries)


def a_batch(count: int, size: int, **producer: Any) -> bytes:
    return build_batch([Record(i, 1000, None, bytes(size), []) for i in range(count)], **producer)
