"""Storage on one real server: order, sizes, refusals, and what happens when the server stops, dies or forgets."""

from __future__ import annotations

import asyncio

import pytest

from redbroker.errors import ErrorCode, KafkaError
from tests.support.servers import Server
from tests.support.storages import ONCE, keys_of, make_script, opened

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
