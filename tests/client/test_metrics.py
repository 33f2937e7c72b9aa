"""An app's figures as a scrape sees them, from the app's own event loop and from another thread."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from redbroker.client import metrics
from redbroker.client.app import RedBroker
from redbroker.client.errors import DeliveryError
from redbroker.client.retries import Retry
from redbroker.engine.log import Append
from redbroker.errors import ErrorCode, KafkaError

pytestmark = pytest.mark.anyio


def service() -> tuple[RedBroker, CollectorRegistry]:
    app, registry = RedBroker("redis://nowhere.invalid:1"), CollectorRegistry()

    @app.topic("orders", value=int, partitions=1).subscribe(
        group="billing", retry=Retry(attempts=2, backoff_s=1), dlq="dead", undecodable="skip"
    )
    async def bill(order: int) -> None:
        if order < 0:
            raise ValueError("a negative order")

    app.metrics(registry)
    return app, registry


def told(registry: CollectorRegistry) -> dict[str, float]:
    """Samples by name, and topic where there is no group."""
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            group, topic = sample.labels.get("group"), sample.labels.get("topic")
            found[sample.name.removeprefix("redbroker_client_") + (f" {topic}" if topic and not group else "")] = (
                sample.value
            )
            assert group in (None, "billing")
    return found


async def test_everything_that_becomes_of_records_is_counted() -> None:
    app, registry = service()
    async with app.test() as t:
        for order in (1, 2, 3, -1):
            await t.send("orders", order)
        await app.send_bytes("orders", b"?")
        await t.settle()
        await t.advance(1)
        found = told(registry)
        assert found.pop("oldest_handler_seconds") == 0
        assert found == {
            "up": 1, "healthy": 1, "records_handled_total": 3, "records_retried_total": 1, "records_dead_total": 1,
            "records_skipped_total": 1, "lag_records": 0, "lag_seconds": 0, "partitions": 2, "in_flight_records": 0,
            "records_sent_total orders": 5, "records_sent_total orders.billing.retry-1": 1,
            "records_sent_total dead": 1, "records_failed_total orders": 0, "records_failed_total dead": 0,
            "records_failed_total orders.billing.retry-1": 0,
        }  # fmt: skip
        assert await asyncio.to_thread(told, registry) == told(registry)


async def test_what_could_not_be_delivered_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    app, registry = service()
    async with app.test() as t:
        await t.send("orders", 1)

        def refuse(entries: list[Append], **_: object) -> list[asyncio.Future[Any]]:
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(KafkaError(ErrorCode.CLUSTER_AUTHORIZATION_FAILED))
            return [answer]

        monkeypatch.setattr(t.engine.log, "submit", refuse)
        with pytest.raises(DeliveryError):
            await app.send("orders", 2)
        found = told(registry)
        assert (found["records_sent_total orders"], found["records_failed_total orders"]) == (1, 1)


async def test_an_app_that_does_not_run_or_answer_says_so_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    app, registry = service()
    assert told(registry) == {"up": 0}
    monkeypatch.setattr(metrics, "ANSWER_S", 0.05)
    async with app.test():
        assert told(registry)["up"] == 1
        scrape = asyncio.get_running_loop().run_in_executor(None, told, registry)
        time.sleep(0.3)  # noqa: ASYNC251 - that is the point
        assert await scrape == {"up": 0}
        assert (await asyncio.to_thread(told, registry))["up"] == 1
    assert told(registry) == {"up": 0}


async def test_names_are_known_before_the_app_runs() -> None:
    app, registry = service()
    with pytest.raises(ValueError, match="Duplicated"):
        app.metrics(registry)
    assert b"# TYPE redbroker_client_lag_seconds gauge" in generate_latest(registry)
