"""Storage on one real server: order, sizes, refusals, and what happens when the server stops, dies or forgets."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from redbroker.errors import ErrorCode, KafkaError
from tests.support.servers import Server
from tests.support.storages import ONCE, Load, keys_of, make_script, opened

pytestmark = pytest.mark.anyio


async def test_words_of_every_kind_arrive_as_they_are(valkey: Server) -> None:
    async with opened(valkey.url) as storage:
        big = bytes(range(256)) * 40
        words = [b"bytes", "text é", 17, memoryview(b"view"), big, memoryview(big)[1:], bytearray(b"array"), b""]
        await storage.call(b"list", "RPUSH", "list", *words)
        expected = [b"bytes", "text é".encode(), b"17", b"view", big, big[1:], b"array", b""]
        assert await storage.call(b"list", "LRANGE", "list", 0, -1) == expected


async def test_calls_of_one_tick_are_answered_in_their_order(valkey: Server) -> None:
    async with opened(valkey.url) as storage:
        calls = [storage.run(ONCE, keys_of("order"), [n, b"v" * (n % 3 * 2000)]) for n in range(1, 500)]
        assert await asyncio.gather(*calls) == list(range(1, 500))


async def test_a_scripts_refusal_is_the_kafka_error_it_names(valkey: Server) -> None:
    async with opened(valkey.url) as storage:
        with pytest.raises(KafkaError) as refused:
            await storage.run(ONCE, keys_of("refusal"), [7, b""])
        assert refused.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert refused.value.message == "after 0"
        raising = make_script("raising", 1, "return redis.call('NONSENSE')")
        with pytest.raises(KafkaError) as unknown:
            await storage.run(raising, [b"k"], [])
        assert unknown.value.code is ErrorCode.UNKNOWN_SERVER_ERROR


async def test_forgotten_scripts_keep_the_order_of_pipelined_calls(valkey: Server) -> None:
    async with opened(valkey.url) as storage, Load(storage, [f"flush{i}" for i in range(20)]) as load:
        for _ in range(10):
            await asyncio.to_thread(valkey.command, "SCRIPT", "FLUSH")
            await load.goes_on(100)
    assert load.errors == []


async def test_an_unloaded_script_is_sent_whole_and_calls_behind_it_wait_their_turn(valkey: Server) -> None:
    async with opened(valkey.url) as storage:
        calls = [storage.run(ONCE, keys_of("whole"), [n, b"x" * 3000]) for n in range(1, 4)]
        await asyncio.sleep(0)
        calls += [storage.run(ONCE, keys_of("whole"), [n, b"x"]) for n in range(4, 20)]
        assert await asyncio.gather(*calls) == list(range(1, 20))


async def test_a_server_killed_under_load_loses_and_doubles_no_acknowledged_write() -> None:
    with Server("--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(server.url) as storage:
            async with Load(storage, [f"killed{i}" for i in range(10)]) as load:
                for _ in range(3):
                    await load.goes_on(500)
                    await asyncio.to_thread(server.restart)
                    await load.goes_on()
            await load.check()
            assert {error.code for error in load.errors} <= {ErrorCode.NOT_LEADER_OR_FOLLOWER}


async def test_a_call_that_must_run_once_is_not_sent_again() -> None:
    with Server() as server:
        async with opened(server.url) as storage:
            server.stop()
            once = storage.run(ONCE, keys_of("once"), [1, b""], once=True)
            again = storage.run(ONCE, keys_of("again"), [1, b""])
            await asyncio.sleep(0.05)
            await asyncio.to_thread(server.restart)
            with pytest.raises(KafkaError) as failed:
                await once
            assert failed.value.code is ErrorCode.REQUEST_TIMED_OUT
            assert await again == 1


async def test_a_stopped_server_fails_calls_in_time_and_is_used_again_when_it_continues() -> None:
    with Server() as server:
        async with opened(server.url, storage_timeout_ms=500) as storage:
            await storage.call(b"k", "SET", "k", 1)
            server.stop()
            start = asyncio.get_running_loop().time()
            with pytest.raises(KafkaError) as failed:
                await storage.call(b"k", "GET", "k")
            assert asyncio.get_running_loop().time() - start < 0.7
            assert failed.value.code is ErrorCode.REQUEST_TIMED_OUT
            with pytest.raises(KafkaError) as away:
                await storage.call(b"k", "GET", "k")
            assert away.value.retriable
            server.cont()
            async with asyncio.timeout(5):
                while True:
                    try:
                        assert await storage.call(b"k", "GET", "k") == b"1"
                        break
                    except KafkaError as error:
                        assert error.retriable


async def test_calls_to_a_dead_server_fail_after_the_retry_time() -> None:
    with Server() as server:
        async with opened(server.url, storage_retry_ms=200) as storage:
            server.kill()
            await asyncio.sleep(0.05)
            start = asyncio.get_running_loop().time()
            with pytest.raises(KafkaError) as failed:
                await storage.call(b"k", "GET", "k")
            assert failed.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert 0.15 < asyncio.get_running_loop().time() - start < 0.5


async def test_a_call_given_up_takes_those_behind_it_for_the_same_log_along() -> None:
    with Server() as server:
        async with opened(server.url, storage_retry_ms=200) as storage:
            server.kill()
            await asyncio.sleep(0.05)
            first = storage.run(ONCE, keys_of("log"), [1, b""])
            await asyncio.sleep(0.1)
            second = storage.run(ONCE, keys_of("log"), [2, b""])
            other = storage.run(ONCE, keys_of("other"), [1, b""])
            await asyncio.wait([first])
            assert second.done() and not other.done()
            await asyncio.wait([other])
            errors = [call.exception() for call in (first, second, other)]
            assert all(isinstance(e, KafkaError) and e.code is ErrorCode.NOT_LEADER_OR_FOLLOWER for e in errors)


async def test_a_full_server_refuses_writes_and_goes_on_reading() -> None:
    with Server() as server:
        async with opened(server.url) as storage:
            await storage.run(ONCE, keys_of("full"), [1, b"first"])
            server.command("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(KafkaError) as failed:
                await storage.run(ONCE, keys_of("full"), [2, b"x" * 100_000])
            assert failed.value.code is ErrorCode.KAFKA_STORAGE_ERROR
            log, _ = keys_of("full")
            assert await storage.call(log, "XRANGE", log, "-", "+") == [[b"1-1", [b"b", b"first"]]]


async def test_more_calls_than_allowed_are_refused_and_the_rest_succeed(valkey: Server) -> None:
    async with opened(valkey.url, storage_pending_max=10) as storage:
        calls = [storage.call(b"k", "INCR", "k") for _ in range(15)]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert replies[:10] == list(range(1, 11))
        assert {error.code for error in replies[10:] if isinstance(error, KafkaError)} == {ErrorCode.REQUEST_TIMED_OUT}
        assert await storage.call(b"k", "INCR", "k") == 11


async def test_a_cancelled_call_leaves_the_others_their_replies(valkey: Server) -> None:
    async with opened(valkey.url) as storage:
        calls = [storage.call(b"k", "INCR", "k") for _ in range(5)]
        calls[2].cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert [replies[i] for i in (0, 1, 3, 4)] == [1, 2, 4, 5]


async def test_calls_under_way_at_close_fail_and_so_do_later_ones(valkey: Server) -> None:
    async with opened(valkey.url) as storage:
        waiting = storage.call(b"k", "BLPOP", "nothing", 0)
        await asyncio.sleep(0.05)
    for call in (waiting, storage.call(b"k", "GET", "k")):
        with pytest.raises(KafkaError) as failed:
            await call
        assert failed.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_big_writes_and_reads_pass_with_writing_paused_in_between(valkey: Server) -> None:
    async with opened(valkey.url) as storage:
        big = bytes(3_000_000)
        calls = [storage.run(ONCE, keys_of("big"), [n, big]) for n in range(1, 21)]
        assert await asyncio.gather(*calls) == list(range(1, 21))
        log, _ = keys_of("big")
        assert [fields[1] for _, fields in await storage.call(log, "XRANGE", log, "-", "+")] == [big] * 20


async def test_a_call_that_nobody_waits_for_any_more_ends_silently_when_the_storage_is_closed(valkey: Server) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with opened(valkey.url) as storage:
        await storage.call(b"k", "GET", "k")
        calls = [storage.call(b"k", "GET", "k") for _ in range(3)]
        waiting = asyncio.ensure_future(calls[0])
        calls[1].cancel()
    with pytest.raises(KafkaError, match="The storage was closed"):
        await waiting
    assert calls[1].cancelled()
    del calls, waiting
    gc.collect()
    await asyncio.sleep(0)
    assert not told
