"""An app tested without a server: its handlers run, time moves when told to."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from redbroker.client.app import RedBroker
from redbroker.client.connection import Connection
from redbroker.client.context import Context
from redbroker.client.errors import DeserializationError, SerializationError
from redbroker.client.retries import Retry
from redbroker.errors import KafkaError

pytestmark = pytest.mark.anyio


@dataclass
class Order:
    id: int


@dataclass
class Invoice:
    order: int


def service(**options: object) -> RedBroker:
    app = RedBroker("redis://nowhere.invalid:1")
    app.topic("invoices", key=str, value=Invoice)

    @app.topic("orders", key=str, value=Order, partitions=3).subscribe(
        group="billing",
        **{"retry": Retry(attempts=3, backoff_s=10), "dlq": "dead", "to": "invoices", **options},  # type: ignore[arg-type]
    )
    async def bill(order: Order, ctx: Context) -> Invoice | None:
        if order.id == 13 or (order.id == 7 and ctx.attempt == 1):
            raise ValueError("unlucky")
        return Invoice(order.id) if order.id else None

    return app


async def test_what_a_handler_returns_is_sent_on() -> None:
    async with service().test() as t:
        sent = await t.send("orders", Order(1), key="42")
        assert (sent.topic, sent.offset) == ("orders", 0)
        await t.send("orders", Order(0), key="42")
        [record] = await t.records("invoices")
        assert (record.key, record.value) == ("42", Invoice(1))


async def test_a_retry_is_due_when_time_has_come_and_not_before() -> None:
    async with service().test() as t:
        await t.send("orders", Order(7), key="a")
        await t.send("orders", Order(8), key="a")
        assert await t.sent("invoices") == [Invoice(8)]  # who comes after a failed record does not wait for it
        assert [str(error) for _, error in t.failures] == ["unlucky"]
        await t.advance(9.9)
        assert await t.sent("invoices") == [Invoice(8)]
        await t.advance(0.1)
        assert await t.sent("invoices") == [Invoice(8), Invoice(7)]


async def test_what_fails_for_good_is_a_dead_letter_with_its_cause_and_origin() -> None:
    app = service()
    async with app.test() as t:
        sent = await t.send("orders", Order(13), key="a", headers=[("trace", b"7f")])
        for wait_s in (10, 20):
            assert await t.records("dead") == []
            await t.advance(wait_s)
        [dead] = await t.records("dead")
        assert (dead.key, dead.value) == (b"a", b'{"id":13}')
        headers = dict(dead.headers)
        assert headers["trace"] == b"7f"
        assert headers["redbroker-attempt"] == b"3"
        assert headers["redbroker-cause"] == b"ValueError: unlucky"
        assert (headers["redbroker-origin"] or b"").startswith(f"orders/{sent.partition}/{sent.offset}/".encode())
        [health] = app.health()["subscriptions"]
        assert (health["handled"], health["retried"], health["dead"]) == (0, 2, 1)


async def test_dead_letters_that_are_handled_or_sent_again_have_all_their_attempts() -> None:
    app, seen = service(), []

    @app.topic("dead", key=bytes, value=bytes).subscribe(group="undertaker", retry=Retry(attempts=2, backoff_s=10))
    async def bury(order: bytes, ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.origin.topic))
        if ctx.attempt == 1:
            raise ValueError("not yet")

    async with app.test() as t:
        await t.send("orders", Order(13))
        for _ in range(4):
            await t.advance(30)
        assert seen == [(1, "orders"), (2, "orders")]
        [dead] = await t.records("dead")
        await t.send("orders", Order(7), headers=dead.headers)
        await t.advance(10)
        assert await t.sent("invoices") == [Invoice(7)]


async def test_an_exception_that_is_not_worth_a_retry_is_dead_at_once() -> None:
    async with service(retry=Retry(on=(OSError,))).test() as t:
        await t.send("orders", Order(13))
        assert len(await t.records("dead")) == 1


@pytest.mark.parametrize(("policy", "dead"), [("skip", 0), ("dead-letter", 1)])
async def test_a_value_that_cannot_be_decoded_harms_no_other(policy: str, dead: int) -> None:
    app = service(undecodable=policy)
    async with app.test() as t:
        await app.send_bytes("orders", b"{", partition=0)
        await app.send_bytes("orders", b'{"id": 5}', partition=0)
        await t.settle()
        assert await t.sent("invoices") == [Invoice(5)]
        assert len(await t.records("dead")) == dead
        assert len(t.failures) == 1
        assert app.health()["subscriptions"][0]["skipped"] == 1 - dead


async def test_a_value_that_cannot_be_decoded_stops_the_app_unless_allowed_to_pass() -> None:
    app = service()
    async with app.test() as t:
        await app.send_bytes("orders", b"{")
        with pytest.raises(DeserializationError, match=r"The value of orders-\d at offset 0 cannot be decoded"):
            await t.settle()


async def test_functions_that_are_not_async_work_and_so_do_two_groups() -> None:
    app, seen = RedBroker("redis://nowhere.invalid:1"), []
    numbers = app.topic("numbers", value=int)

    @numbers.subscribe(group="one")
    def one(number: int) -> None:
        seen.append(("one", number))

    @numbers.subscribe(group="two")
    def two(number: int, ctx: Context) -> None:
        seen.append(("two", number))

    async with app.test() as t:
        await t.send("numbers", 5)
    assert sorted(seen) == [("one", 5), ("two", 5)]


async def test_each_test_begins_with_nothing_and_the_app_is_itself_again_after_it() -> None:
    app = service()
    before = app.connection
    for _ in range(2):
        async with app.test() as t:
            await t.send("orders", Order(1))
            assert await t.sent("invoices") == [Invoice(1)]
    assert app.connection is before


async def test_an_app_that_shares_a_connection_is_tested_without_it() -> None:
    app = RedBroker(Connection("redis://nowhere.invalid:1"))
    lines = app.topic("lines", value=str)
    async with app.test() as t:
        await lines.send("first")
        assert await t.sent("lines") == ["first"]


async def test_a_handler_that_is_async_in_disguise_is_awaited() -> None:
    app, seen = RedBroker("redis://nowhere.invalid:1"), []

    class Handler:
        async def __call__(self, line: str) -> None:
            seen.append(line)

    handler = Handler()
    app.topic("lines", value=str).subscribe(group="objects")(handler)
    app.topics["lines"].subscribe(group="wrapped")(lambda line: handler(line))
    async with app.test() as t:
        await t.send("lines", "first")
    assert seen == ["first", "first"]


async def test_the_settings_of_the_app_count_and_readers_of_new_records_have_begun() -> None:
    storage = {"replicas": 2, "min_insync_replicas": 3}  # of which memory has none
    app, seen = RedBroker("redis://nowhere:1", auto_create_topics=False, num_partitions=7, **storage), []
    lines = app.topic("lines", value=str)
    lines.subscribe(group="g", auto_offset_reset="latest")(seen.append)
    async with app.test() as t:
        await t.send("lines", "first")
        assert seen == ["first"]
        assert {(await lines.send("more", partition=number)).partition for number in range(7)} == set(range(7))
        with pytest.raises(KafkaError, match="There is no topic 'others', and auto_create_topics is off"):
            await t.send("others", "first")


async def test_time_may_go_on_for_years() -> None:
    async with service(retry=Retry(attempts=2, backoff_s=10)).test() as t:
        await t.advance(10 * 365 * 86_400)
        await t.send("orders", Order(7))
        await t.advance(10)
        assert await t.sent("invoices") == [Invoice(7)]


async def test_a_value_of_another_type_is_refused_where_it_is_sent() -> None:
    async with service().test() as t:
        with pytest.raises(SerializationError, match="The value of a record for orders is wrong: Order is expected"):
            await t.send("orders", Invoice(1))
        with pytest.raises(SerializationError, match="The key of a record"):
            await t.send("orders", Order(1), key=5)


async def test_a_chain_of_handlers_is_waited_for_to_its_end() -> None:
    app, seen = RedBroker("redis://nowhere.invalid:1"), []
    for stage in range(5, 0, -1):
        topic = app.topic(f"stage-{stage}", value=int, partitions=2)
        topic.subscribe(group="g", to=f"stage-{stage + 1}")(lambda number: number + 1)

    @app.topic("stage-6", value=int).subscribe(group="last")
    async def last(number: int) -> None:
        seen.append(number)

    async with app.test() as t:
        for turn in range(1, 20):
            await t.send("stage-1", 0)
            assert seen == [5] * turn
