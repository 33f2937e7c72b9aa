"""The clients without async: in one thread, in many, interrupted, forgotten."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from redbroker.blocking import Admin, Producer
from redbroker.client import blocking
from redbroker.client.errors import DeliveryError
from redbroker.config import SettingsError
from redbroker.errors import KafkaError
from tests.support.servers import Server

ROOT = Path(__file__).parents[2]


def threads() -> int:
    return sum(thread.name == "redbroker" for thread in threading.enumerate())


def test_clients_share_one_thread_that_ends_with_the_last(valkey: Server) -> None:
    with Producer(valkey.unix_url, num_partitions=1) as producer, Admin(valkey.unix_url) as admin:
        assert threads() == 1
        sent = producer.send("t", b"v", key=b"k")
        assert (sent.topic, sent.offset) == ("t", 0)
        futures = [producer.send_nowait("t", b"%d" % n, partition=0) for n in range(100)]
        producer.flush(30)
        assert [future.result(30).offset for future in futures] == list(range(1, 101))
        assert [each.end for each in admin.describe_topic("t").partitions] == [101]
        assert admin.config.client_id == "redbroker"
    assert threads() == 0
    with pytest.raises(RuntimeError, match="This producer is not open: use it inside `with`"):
        producer.send("t", b"v")
    with producer:
        assert producer.send("t", b"v").offset == 101
    producer.close()


def test_errors_are_raised_where_the_call_is(valkey: Server) -> None:
    with Producer(valkey.unix_url) as producer, Admin(valkey.unix_url) as admin:
        with pytest.raises(DeliveryError, match="partitions 0 to 3, not 9"):
            producer.send("t", b"v", partition=9)
        with pytest.raises(KafkaError, match="There is no topic nope"):
            admin.delete_topic("nope")
        with pytest.raises(RuntimeError, match="open already"):
            producer.open()
        with pytest.raises(AttributeError):
            _ = admin.nothing
    with pytest.raises(SettingsError, match="did you mean linger_ms"):
        Producer(valkey.unix_url, linger=1)
    assert threads() == 0


def test_many_threads_may_use_one_producer(valkey: Server) -> None:
    with Producer(valkey.unix_url, num_partitions=1) as producer:
        offsets: list[int] = []

        def work() -> None:
            offsets.extend(producer.send("t", b"v", partition=0).offset for _ in range(25))

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
    assert sorted(offsets) == list(range(100))


@pytest.mark.system
@pytest.mark.parametrize("end", ["forgotten", "interrupted", "forked"])
def test_a_script_ends_however_it_ends(valkey: Server, end: str) -> None:
    script = f"""
import os, sys, time
from redbroker.blocking import Producer
producer = Producer({valkey.unix_url!r}, linger_ms={60_000 if end == "interrupted" else 0}).open()
if {end!r} == "interrupted":
    print("ready", flush=True)
    try:
        producer.send("t", b"v", partition=0)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
elif {end!r} == "forked":
    producer.send("t", b"v", partition=0)
    child = os.fork()
    if child == 0:
        try:
            producer.send("t", b"w")
        except RuntimeError:
            with producer.__class__({valkey.unix_url!r}) as other:
                other.send("t", b"x", partition=0)
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
else:
    producer.send_nowait("t", b"v", partition=0)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if end == "interrupted":
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    if end == "interrupted":
        assert said == "interrupted\n"
    with Admin(valkey.unix_url) as admin:
        assert admin.describe_topic("t").partitions[0].end == (2 if end == "forked" else 1)


def test_nothing_is_left_open_by_these_tests() -> None:
    assert not blocking.OPEN
