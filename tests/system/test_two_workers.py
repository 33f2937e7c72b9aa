"""Two workers on one embedded Valkey, real clients, and one worker that goes: suddenly, or in good order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.clients import Consuming, Producing, create_topic, leaders
from examples.processes import Process, stop_all

pytestmark = pytest.mark.system

TOPIC = "orders"
PARTITIONS = 4
RECORDS = 20_000
LEADERS_MOVE_S = 6.0
"""worker_timeout_ms, a heartbeat, and what a busy machine needs."""


@contextmanager
def two_workers(folder: Path) -> Iterator[list[Process]]:
    processes: list[Process] = []
    try:
        words = ("worker", "--storage", f"embedded:{folder}", "--port", "0")
        processes.append(Process(*words))
        processes.append(Process(*words))
        create_topic(processes[0].address, TOPIC, PARTITIONS)
        yield processes
    finally:
        stop_all(processes)


def wait_until_led_by(address: str, within_s: float) -> float:
    """Seconds until one worker leads every partition."""
    began = time.monotonic()
    while set(leaders(address, TOPIC).values()) != {address}:
        assert time.monotonic() - began < within_s, f"after {within_s} s: {leaders(address, TOPIC)}"
        time.sleep(0.05)
    return time.monotonic() - began


def send_all(producer: Producing, sent: dict[bytes, list[bytes]], at_half: object) -> None:
    """Send under steady load, and call `at_half` when half is acknowledged."""
    called = False
    for number in range(RECORDS):
        key, value = b"%d" % (number % 97), b"%d" % number
        sent.setdefault(key, []).append(value)
        producer.send(key, value, int(time.time() * 1_000))
        if not called and producer.acknowledged >= RECORDS // 2:
            called = True
            assert callable(at_half)
            at_half()
        producer.catch_up(2_000)
    assert called, "the load was over before half of it was acknowledged"
    producer.close()


def read_all(consumer: Consuming) -> None:
    deadline = time.monotonic() + 30
    while consumer.count < RECORDS and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # a record too many would come now
    consumer.close()


def test_a_worker_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with two_workers(tmp_path) as (survivor, victim):
        addresses = f"{victim.address},{survivor.address}"
        assert set(leaders(addresses, TOPIC).values()) == {survivor.address, victim.address}
        sent: dict[bytes, list[bytes]] = {}
        producer, consumer = Producing(addresses, TOPIC), Consuming(addresses, TOPIC, PARTITIONS)

        send_all(producer, sent, victim.kill)
        wait_until_led_by(survivor.address, LEADERS_MOVE_S)
        read_all(consumer)

        assert not producer.errors
        assert producer.acknowledged == RECORDS
        assert consumer.values == sent
        assert consumer.gaps == 0


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_worker_that_drains_under_load_costs_no_client_an_error(tmp_path: Path, idempotent: bool) -> None:
    with two_workers(tmp_path) as (survivor, leaver):
        addresses = f"{leaver.address},{survivor.address}"
        sent: dict[bytes, list[bytes]] = {}
        producer, consumer = Producing(addresses, TOPIC, idempotent=idempotent), Consuming(addresses, TOPIC, PARTITIONS)

        def drain() -> None:
            assert leaver.stop() == 0
            wait_until_led_by(survivor.address, 2.0)

        send_all(producer, sent, drain)
        read_all(consumer)

        assert not producer.errors
        assert not consumer.errors
        assert {key: sorted(values) for key, values in consumer.values.items()} == {
            key: sorted(values) for key, values in sent.items()
        }
        assert consumer.gaps == 0
