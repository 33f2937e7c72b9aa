"""Trace context in record headers, where `opentelemetry-api` is installed; without it nothing here does anything.

    with a span of the sender ──► send: headers `traceparent`, `tracestate`, `baggage`   (by the propagators in force)
                                          │
    span "process orders" of a handler ◄──┘ its child; what the handler sends is below it, retries too

A sender without a span of its own sends its headers as they are: those of a record passed on stay. The names of spans
and attributes are OpenTelemetry's for messaging; to a tracing system, a topic is one of Kafka's however it was reached.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from redbroker.client.types import ConsumerRecord

__all__ = ["carried", "failed", "injected", "installed", "processing"]

Pairs = tuple[tuple[str, bytes | None], ...]

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
TOPIC = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
GROUP = "messaging.consumer.group.name"
OFFSET = "messaging.kafka.offset"
TOMBSTONE = "messaging.kafka.message.tombstone"
BODY_BYTES = "messaging.message.body.size"
ERROR_TYPE = "error.type"


class Api(NamedTuple):
    """What of OpenTelemetry is used."""

    context: Any
    propagate: Any
    trace: Any


@functools.cache
def installed() -> Api | None:
    """OpenTelemetry's API, if there is one; it is imported by the first client that opens."""
    try:
        return Api(*(importlib.import_module(f"opentelemetry.{name}") for name in Api._fields))
    except ImportError:
        return None


def carried(api: Api) -> Pairs:
    """The headers that take the current context along; none outside of a span."""
    if not api.context.get_current():
        return ()
    carrier: dict[str, str] = {}
    api.propagate.inject(carrier)
    return tuple((name, value.encode()) for name, value in carrier.items())


def injected(headers: Pairs, added: Pairs) -> Pairs:
    """A record's headers and those; one of the same name gives way."""
    names = {name for name, _ in added}
    return (*(each for each in headers if each[0] not in names), *added)


@contextlib.contextmanager
def processing(record: ConsumerRecord, group: str | None = None) -> Iterator[Any]:
    """Run a block within the context that a record brought, in a span of its own; gives the span, or None.

    An app's handlers run in one already. An exception that leaves the block is recorded in the span.

        async for record in consumer:
            with processing(record, "billing"):
                await bill(record)
    """
    api = installed()
    if api is None:
        yield None
        return
    told: dict[str, Any] = {
        SYSTEM: "kafka", OPERATION: "process", OPERATION_TYPE: "process", TOPIC: record.topic,
        PARTITION: str(record.partition), OFFSET: record.offset,
    }  # fmt: skip
    if group is not None:
        told[GROUP] = group
    if record.value is None:
        told[TOMBSTONE] = True
    elif isinstance(record.value, bytes):
        told[BODY_BYTES] = len(record.value)
    tracer = api.trace.get_tracer("redbroker")
    # Into an empty context: a record that brought none begins a trace, whatever goes on where it is handled.
    token = api.context.attach(api.propagate.extract(carrier_of(record.headers), api.context.Context()))
    try:
        with tracer.start_as_current_span(
            f"process {record.topic}", kind=api.trace.SpanKind.CONSUMER, attributes=told,
            record_exception=False, set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield span
            except Exception as error:
                failed(span, error)
                raise
    finally:
        api.context.detach(token)


def failed(span: Any, error: BaseException) -> None:
    """Note in a span of `processing` why it failed; what leaves the block is noted anyway."""
    api = installed()
    if api is not None and span.is_recording():
        span.record_exception(error)
        span.set_attribute(ERROR_TYPE, type(error).__qualname__)
        span.set_status(api.trace.Status(api.trace.StatusCode.ERROR, str(error)))


def carrier_of(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """Headers as propagators read them: text by name, the last of a name counts."""
    return {name: value.decode(errors="replace") for name, value in headers if value is not None}
