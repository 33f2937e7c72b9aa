"""The clients without async: in one thread, in many, interrupted, forgotten."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import redbroker
from redbroker.blocking import Admin, Consumer, Producer
from redbroker.client import blocking
from redbroker.client.errors import DeliveryError
from redbroker.config import SettingsError
from redbroker.errors import KafkaError
from redbroker.types import TopicPartition
from tests.support.servers import Server, wait_until

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


@pytest.mark.parametrize("end", ["flush", "close"])
def test_what_waits_for_room_is_flushed_and_delivered_before_closing(valkey: Server, end: str) -> None:
    with Producer(valkey.unix_url, num_partitions=1, buffer_bytes=20_000) as producer:
        producer.send("t", b"v")
        valkey.command("CLIENT", "PAUSE", 300, "WRITE")
        futures = [producer.send_nowait("t", bytes(500)) for _ in range(1_000)]
        if end == "flush":
            producer.flush(30)
            assert producer.counts() == ({"t": 1_001}, {})
    assert [future.result(10).offset for future in futures] == list(range(1, 1_001))


def test_no_more_bytes_are_handed_over_than_the_buffer_has(valkey: Server) -> None:
    with Producer(valkey.unix_url, buffer_bytes=1_000_000) as producer:
        producer.send("t", b"v")
        valkey.command("CLIENT", "PAUSE", 300, "WRITE")
        futures, most = [], 0
        for _ in range(30):
            futures.append(producer.send_nowait("t", bytes(300_000)))
            most = max(most, sum(not future.done() for future in futures))
        assert most <= 4  # one that has just ended may not have said so yet


def filled(server: Server, count: int) -> None:
    with Producer(server.unix_url, num_partitions=1) as producer:
        for future in [producer.send_nowait("t", b"%d" % n) for n in range(count)]:
            future.result(30)


def reader(server: Server, **settings: object) -> Consumer:
    return Consumer("t", storage=server.unix_url, auto_offset_reset="earliest", **settings)


def test_a_consumer_iterates_gets_many_seeks_and_commits(valkey: Server) -> None:
    filled(valkey, 20)
    first = TopicPartition("t", 0)
    with reader(valkey, group_id="g") as consumer:
        seen = []
        for record in consumer:
            seen.append(record.value)
            if len(seen) == 5:
                break
        assert seen == [b"0", b"1", b"2", b"3", b"4"]
        assert next(consumer).offset == 5
        assert [record.offset for record in consumer.getmany(3, timeout_ms=10_000)] == [6, 7, 8]
        consumer.commit()
        committed = consumer.committed(first)[first]
        assert committed is not None and committed.offset == 9
        assert consumer.assignment() == {first}
        assert consumer.end_offsets(first) == {first: 20}
        valkey.command("CLIENT", "PAUSE", 200, "WRITE")
        future = consumer.commit_nowait({first: 5})
        assert not future.done()
        assert future.result(30) is None
        assert consumer.committed(first)[first] == (5, "", -1)
        consumer.seek(first, 19)
        assert consumer.getmany(timeout_ms=10_000)[0].value == b"19"
        consumer.pause(first)
        assert consumer.getmany(timeout_ms=10) == []
        consumer.resume(first)
        assert consumer.health().state == "joined"
        with pytest.raises(KafkaError):
            consumer.seek(TopicPartition("other", 0), 1)
    with pytest.raises(RuntimeError, match="This consumer is not open"):
        iter(consumer)
    assert threads() == 0


def test_what_a_failed_block_had_in_hand_is_handed_out_again(valkey: Server) -> None:
    filled(valkey, 3)
    with pytest.raises(ZeroDivisionError), reader(valkey, group_id="g") as consumer:
        assert next(consumer).offset == 0
        assert next(consumer).offset == 1
        raise ZeroDivisionError
    with reader(valkey, group_id="g") as consumer:
        assert next(consumer).offset == 1


@pytest.mark.parametrize("call", ["for", "getmany"])
def test_closing_from_another_thread_wakes_who_reads(valkey: Server, call: str) -> None:
    filled(valkey, 1)
    consumer = reader(valkey, group_id="g").open()
    waiting, seen, errors = threading.Event(), [], []

    def read() -> None:
        try:
            if call == "for":
                for record in consumer:
                    seen.append(record.offset)
                    waiting.set()
            else:
                seen.extend(record.offset for record in consumer.getmany(timeout_ms=30_000))
                waiting.set()
                consumer.getmany(timeout_ms=60_000)
        except RuntimeError as error:
            errors.append(str(error))

    worker = threading.Thread(target=read)
    worker.start()
    assert waiting.wait(30)
    consumer.close()
    worker.join(30)
    assert not worker.is_alive()
    assert seen == [0]
    assert errors in (
        [],
        ["This consumer was closed by another thread."],
        ["This consumer is not open: use it inside `with`."],
    )
    assert bool(errors) == (call == "getmany")
    assert threads() == 0


def test_what_another_thread_has_in_hand_is_not_done_when_this_one_closes(valkey: Server) -> None:
    filled(valkey, 2)
    consumer = reader(valkey, group_id="g").open()
    worker = threading.Thread(target=consumer.getmany, kwargs={"timeout_ms": 30_000})
    worker.start()
    worker.join(60)
    consumer.close()
    with reader(valkey, group_id="g") as again:
        assert next(again).offset == 0


@pytest.mark.system
def test_an_interrupt_ends_a_loop_that_waits_for_records(valkey: Server) -> None:
    filled(valkey, 1)
    script = f"""
from redbroker.blocking import Consumer
try:
    with Consumer("t", storage={valkey.unix_url!r}, auto_offset_reset="earliest", group_id="g") as consumer:
        for record in consumer:
            print(record.offset, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (said, process.returncode) == ("interrupted\n", 0)


@pytest.mark.system
@pytest.mark.parametrize("end", ["forgotten", "interrupted", "forked"])
def test_a_script_ends_however_it_ends(valkey: Server, end: str) -> None:
    script = f"""
import os, sys, threading, time
from redbroker.blocking import Producer
producer = Producer({valkey.unix_url!r}, linger_ms={60_000 if end == "interrupted" else 0}).open()
if {end!r} == "interrupted":
    def tell():
        while not producer._client._way.unfinished:
            time.sleep(0.01)
        print("ready", flush=True)

    threading.Thread(target=tell, daemon=True).start()
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
            with producer:
                producer.send("t", b"x", partition=0)
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
            with Admin(valkey.unix_url) as admin:
                wait_until(lambda: bool(admin.list_topics()))  # the record is taken
            process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    if end == "interrupted":
        assert said == "interrupted\n"
    with Admin(valkey.unix_url) as admin:
        assert admin.describe_topic("t").partitions[0].end == (2 if end == "forked" else 1)


@pytest.mark.parametrize("client", [Admin, Consumer, Producer])
def test_the_names_are_the_same_as_with_async(client: type) -> None:
    theirs = getattr(redbroker, client.__name__)
    names = {name for name in vars(theirs) if not name.startswith("_") and callable(getattr(theirs, name))}
    missing = {name for name in names if not callable(getattr(client, name, None))}
    assert missing == ({"ready"} & names), "`ready` is for callers of an event loop: here `send_nowait` waits by itself"


def test_nothing_is_left_open_by_these_tests() -> None:
    assert not blocking.OPEN
