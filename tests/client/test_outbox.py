"""Whatever a log answers, and in whatever order things fail: every record once, in order, or told to have failed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redbroker.client.errors import DeliveryError
from redbroker.client.outbox import Outbox, Way
from redbroker.engine.appends import Appended
from redbroker.engine.log import Append
from redbroker.engine.topics import Topic
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import iter_records

TOPIC = Topic("orders", UUID(int=1), 1)

STORED, UNCERTAIN, LOST, UNWRITTEN, FORGETS, REFUSED = range(6)


class ScriptedLog:
    """Judges sequences as lib/producers.lua does, and lets each call go as the script says."""

    def __init__(self, script: list[int]) -> None:
        self.script = list(script)
        self.records: list[bytes] = []
        self.producers: dict[int, tuple[int, list[tuple[int, int, int]]]] = {}
        self.underway = self.most_underway = 0

    def submit(self, entries: list[Append], *, acks: int, timeout_ms: int) -> list[asyncio.Future[Any]]:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self.underway += 1
        self.most_underway = max(self.most_underway, self.underway)
        loop.call_soon(self.answer, entries[0], answer)
        return [answer]

    def answer(self, entry: Append, answer: asyncio.Future[Any]) -> None:
        self.underway -= 1
        fate = self.script.pop(0) if self.script else STORED
        if fate in (LOST, UNWRITTEN):
            code = ErrorCode.REQUEST_TIMED_OUT if fate == LOST else ErrorCode.NOT_LEADER_OR_FOLLOWER
            answer.set_result(KafkaError(code))
            return
        if fate == REFUSED:
            answer.set_result(KafkaError(ErrorCode.CLUSTER_AUTHORIZATION_FAILED))
            return
        if fate == FORGETS:  # a failover without what this producer wrote last
            self.producers = {
                key: (epoch, window[:1] + window[1:-1]) for key, (epoch, window) in self.producers.items()
            }
        result = self.judge(entry)
        answer.set_result(KafkaError(ErrorCode.REQUEST_TIMED_OUT) if fate == UNCERTAIN else result)

    def judge(self, entry: Append) -> Appended | KafkaError:
        head = entry.header
        epoch, window = self.producers.get(head.producer_id, (-1, []))
        first, last = head.base_sequence, head.base_sequence + head.count - 1
        if epoch == head.producer_epoch and window:
            for low, high, offset in window[-5:]:
                if (low, high) == (first, last):
                    return Appended(offset, 0, 1, True)
            if window[-1][1] + 1 != first:
                return KafkaError(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
        elif head.producer_epoch < epoch:
            return KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH)
        elif epoch >= 0 and head.producer_epoch > epoch and first != 0:
            return KafkaError(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
        elif epoch != head.producer_epoch:
            window = []
        base = len(self.records)
        self.records += [record.value or b"" for record in iter_records(entry.batch)]
        self.producers[head.producer_id] = (head.producer_epoch, [*window, (first, last, base)])
        return Appended(base, 0, 1, False)


def way_to(log: ScriptedLog, **changed: Any) -> Way:
    ids = iter(range(1_000_000))
    topics = SimpleNamespace(reload=lambda: asyncio.sleep(0), get=lambda name: TOPIC)
    engine: Any = SimpleNamespace(log=log, topics=topics, new_producer_id=lambda: next(ids))
    told = {
        "acks": -1, "codec": "none", "idempotent": True, "max_in_flight": 5, "batch_bytes": 60, "linger_s": 0,
        "delivery_timeout_s": 60, "request_timeout_ms": 1_000, "pause_s": 0, "pause_max_s": 0,
    }  # fmt: skip
    return Way(engine, lambda batch: None, **{**told, **changed})


async def deliver(log: ScriptedLog, count: int, way: Way) -> list[Any]:
    """Each record's offset, or its error; a few turns of the loop lie between some of them."""
    outbox = Outbox(way, TOPIC, 0)
    futures = []
    for number in range(count):
        futures.append(outbox.add(1, None, b"%d" % number, (), 34))
        if number % 7 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(30):
        return await asyncio.gather(*futures, return_exceptions=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([STORED, STORED, STORED, UNCERTAIN, LOST, UNWRITTEN]), max_size=40))
def test_what_fails_for_a_while_is_stored_once_and_in_order(script: list[int]) -> None:
    log = ScriptedLog(script)
    told = asyncio.run(deliver(log, 40, way_to(log)))
    assert log.records == [b"%d" % number for number in range(40)]
    assert [sent.offset for sent in told] == list(range(40))
    assert log.most_underway <= 5


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([STORED, STORED, UNCERTAIN, LOST, UNWRITTEN, REFUSED, FORGETS]), max_size=40))
@example([STORED, UNCERTAIN, STORED, FORGETS, FORGETS])
def test_what_is_refused_for_good_is_told_and_holds_nothing_up(script: list[int]) -> None:
    log = ScriptedLog(script)
    told = asyncio.run(deliver(log, 40, way_to(log)))
    for number, sent in enumerate(told):
        if isinstance(sent, DeliveryError):
            assert sent.record.value == b"%d" % number
            assert sent.code is ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        else:
            assert log.records[sent.offset] == b"%d" % number
    offsets = [sent.offset for sent in told if not isinstance(sent, DeliveryError)]
    assert len(offsets) == len(set(offsets))
    if FORGETS not in script:  # what was uncertain when the log forgot is taken once more, behind what came after it
        assert offsets == sorted(offsets)


def test_after_its_delivery_timeout_a_record_has_failed_and_the_next_begin_anew() -> None:
    log = ScriptedLog([LOST] * 3)
    way = way_to(log, delivery_timeout_s=0.0)

    async def both() -> list[Any]:
        early = await deliver(log, 2, way)
        way.delivery_timeout_s = 60
        return [*early, *(await deliver(log, 2, way))]

    first, second, third, fourth = asyncio.run(both())
    for failed in (first, second):
        assert isinstance(failed, DeliveryError) and failed.code is ErrorCode.REQUEST_TIMED_OUT
        assert "delivery_timeout_ms" in failed.message
    assert (third.offset, fourth.offset) == (0, 1)


def test_the_epoch_after_the_last_one_is_a_new_producers_first() -> None:
    log = ScriptedLog([STORED, REFUSED])
    way = way_to(log)

    async def run() -> tuple[int, int]:
        outbox = Outbox(way, TOPIC, 0)
        outbox._epoch = 32_767
        before = outbox._producer_id
        await outbox.add(1, None, b"a", (), 34)
        with pytest.raises(DeliveryError):
            await outbox.add(1, None, b"b", (), 34)
        await outbox.add(1, None, b"c", (), 34)
        return before, outbox._producer_id

    before, after = asyncio.run(run())
    assert before != after and log.producers[after] == (0, [(0, 0, 1)])
