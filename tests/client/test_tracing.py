"""A trace goes on from who sends to who handles, over retries, and costs nothing where nobody traces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from redbroker import blocking
from redbroker.client import tracing
from redbroker.client.app import RedBroker
from redbroker.client.context import Context
from redbroker.client.errors import SerializationError
from redbroker.client.retries import Retry
from redbroker.client.types import ConsumerRecord
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

REMOTE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def provider() -> None:
    """There is one per process, and it cannot be taken back."""
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(made)


@pytest.fixture(autouse=True)
def exporter() -> Iterator[InMemorySpanExporter]:
    EXPORTER.clear()
    yield EXPORTER


def record(*headers: tuple[str, bytes | None], value: bytes | None = b"tea") -> ConsumerRecord:
    return ConsumerRecord("orders", 2, 41, 1_000, None, value, headers, 1)


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def own_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def service() -> RedBroker:
    app = RedBroker("redis://nowhere.invalid:1")

    @app.topic("orders", value=str, partitions=1).subscribe(
        group="billing", retry=Retry(attempts=2, backoff_s=1), dlq="dead", to="invoices"
    )
    async def bill(order: str, ctx: Context) -> str:
        if order == "late" and ctx.attempt == 1:
            raise ValueError("not yet")
        return f"{order} {baggage.get_baggage('tenant')}"

    app.topic("invoices", value=str)
    return app


async def test_a_handler_and_what_it_sends_belong_to_the_senders_trace(exporter: InMemorySpanExporter) -> None:
    tracer = trace.get_tracer("test")
    async with service().test() as t:
        with tracer.start_as_current_span("buy"):
            token = context.attach(baggage.set_baggage("tenant", "ann"))
            await t.send("orders", "tea", headers=[("a", b"1"), ("traceparent", REMOTE)])
            context.detach(token)
        [invoice], [order] = await t.records("invoices"), await t.records("orders")
    handled, bought = exporter.get_finished_spans()
    assert (handled.name, handled.kind) == ("process orders", trace.SpanKind.CONSUMER)
    assert parent_of(handled) == own_id(bought)
    assert handled.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.consumer.group.name": "billing",
        "messaging.message.body.size": 3,
    }
    assert [name for name, _ in order.headers] == ["a", "traceparent", "baggage"]
    assert f"{own_id(handled):016x}" in (dict(invoice.headers)["traceparent"] or b"").decode()
    assert invoice.value == "tea ann"


async def test_each_attempt_is_a_span_below_the_one_before(exporter: InMemorySpanExporter) -> None:
    async with service().test() as t:
        with trace.get_tracer("test").start_as_current_span("buy"):
            await t.send("orders", "late")
        await t.advance(1)
    first, bought, second = exporter.get_finished_spans()
    assert (parent_of(first), parent_of(second)) == (own_id(bought), own_id(first))
    assert (first.status.status_code, second.status.status_code) == (trace.StatusCode.ERROR, trace.StatusCode.UNSET)
    assert (first.attributes or {})["error.type"] == "ValueError"
    assert [event.name for event in first.events] == ["exception"]
    assert (second.attributes or {})["messaging.destination.name"] == "orders.billing.retry-1"


async def test_who_has_no_span_sends_headers_as_they_are() -> None:
    async with service().test() as t:
        await t.send("orders", "tea", headers={"traceparent": REMOTE})
        await t.send("orders", "tea")
        passed_on, plain = await t.records("orders")
    assert (list(passed_on.headers), list(plain.headers)) == ([("traceparent", REMOTE)], [])


async def test_headers_that_are_none_are_refused_within_a_span_as_without() -> None:
    app = service()
    async with app.test():
        with trace.get_tracer("test").start_as_current_span("buy"):
            for headers in (5, [("a",)], [(1, b"")]):
                with pytest.raises(SerializationError, match="The headers of a record for orders"):
                    await app.send_bytes("orders", b"tea", headers=headers)


async def test_what_stops_the_app_is_noted_once(exporter: InMemorySpanExporter) -> None:
    app = RedBroker("redis://nowhere.invalid:1")

    @app.topic("orders", value=str).subscribe(group="billing")
    async def bill(order: str) -> None:
        raise ValueError("no such customer")

    async with app.test() as t:
        with pytest.raises(ValueError, match="no such customer"):
            await t.send("orders", "tea")
    [ended] = exporter.get_finished_spans()
    assert [event.name for event in ended.events] == ["exception"]
    assert ended.status.description == "no such customer"


def test_a_blocking_producer_takes_the_callers_context_along(valkey: Server) -> None:
    with blocking.Producer(valkey.url) as producer, trace.get_tracer("test").start_as_current_span("buy") as span:
        producer.send("orders", b"1")
        producer.send_nowait("orders", b"2", headers=[("traceparent", REMOTE)]).result(10)
    with blocking.Consumer("orders", storage=valkey.url, auto_offset_reset="earliest") as consumer:
        records = [*itertools.islice(consumer, 2)]
    for each in records:
        [(name, value)] = each.headers
        assert name == "traceparent"
        assert f"{span.get_span_context().span_id:016x}".encode() in value


def test_a_loop_over_a_consumer_goes_on_with_the_trace_and_records_what_leaves_it(
    exporter: InMemorySpanExporter,
) -> None:
    with pytest.raises(KeyError), tracing.processing(record(("traceparent", REMOTE), value=None)) as span:
        assert trace.get_current_span() is span
        raise KeyError("tea")
    [ended] = exporter.get_finished_spans()
    assert f"{parent_of(ended):016x}".encode() in REMOTE
    assert (ended.attributes or {})["messaging.kafka.message.tombstone"] is True
    assert ended.status.status_code is trace.StatusCode.ERROR


@pytest.mark.parametrize("broken", [b"\xff\xfe", b"00-0-0-01", None, b""])
def test_a_broken_header_begins_a_new_trace(exporter: InMemorySpanExporter, broken: bytes | None) -> None:
    with (
        trace.get_tracer("test").start_as_current_span("around"),
        tracing.processing(record(("traceparent", broken))),
    ):
        pass
    ended, _ = exporter.get_finished_spans()
    assert ended.parent is None


async def test_without_opentelemetry_everything_is_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.__import__", without_opentelemetry(__import__))
    tracing.installed.cache_clear()
    try:
        async with service().test() as t:
            await t.send("orders", "late", headers=[("traceparent", REMOTE)])
            await t.advance(1)
            assert await t.sent("invoices") == ["late None"]
            [order] = await t.records("orders")
            assert order.headers == [("traceparent", REMOTE)]
    finally:
        tracing.installed.cache_clear()


def without_opentelemetry(real: object) -> object:
    def imported(name: str, *args: object, **fields: object) -> object:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **fields)  # type: ignore[operator]

    return imported
