"""storage_url: what its forms mean, and that whoever writes a wrong one is told so in one sentence."""

from __future__ import annotations

import asyncio

import pytest

from redbroker.config import Settings
from redbroker.engine.connection import Storage
from redbroker.engine.target import Access, Address, StorageError, parse_target
from redbroker.errors import ErrorCode
from tests.support.clusters import TlsServer
from tests.support.servers import Server, free_port, redis_binary
from tests.support.storages import ONCE, keys_of, opened

pytestmark = pytest.mark.anyio


def target(url: str) -> object:
    return parse_target(Settings(storage_url=url))


def test_every_form_of_url_is_understood() -> None:
    parsed = parse_target(Settings(storage_url="redis://us%40er:p%3Aw@one,two:7000,[::1]:7001/3"))
    assert parsed.seeds == (Address("one", 6379), Address("two", 7000), Address("::1", 7001))
    assert parsed.access == Access(None, "us@er", "p:w", 3)
    unix = parse_target(Settings(storage_url="unix://:pw@/run/redis.sock?db=2"))
    assert (unix.seeds, unix.access) == ((Address("/run/redis.sock", 0),), Access(None, "", "pw", 2))
    watched = parse_target(Settings(storage_url="redis+sentinel://a,b:5000/main/1?sentinel_password=s"))
    assert watched.seeds == (Address("a", 26379), Address("b", 5000))
    assert (watched.sentinel, watched.access.database, watched.sentinel_access.password) == ("main", 1, "s")
    secure = parse_target(Settings(storage_url="rediss://h"))
    assert secure.access.tls is not None and secure.access.tls.check_hostname


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "http://h", "redis://", "redis://h:port", "redis://h:70000", "redis://h/x", "redis://h/1/2",
     "unix://relative", "redis+sentinel://h:1", "redis://user:hidden@h:x"],
)  # fmt: skip
def test_a_wrong_url_is_refused_by_name_and_keeps_its_password_secret(url: str) -> None:
    with pytest.raises(StorageError, match="storage_url") as refused:
        target(url)
    assert refused.value.code is ErrorCode.INVALID_CONFIG
    assert "hidden" not in refused.value.message


async def test_nobody_there_is_told_in_one_sentence() -> None:
    port = free_port()
    with pytest.raises(StorageError, match=rf"storage_url \(127.0.0.1:{port}: .*refused") as failed:
        await Storage.open(Settings(storage_url=f"redis://127.0.0.1:{port}"))
    assert failed.value.code is ErrorCode.BROKER_NOT_AVAILABLE


async def test_a_port_that_speaks_something_else_is_told_in_one_sentence() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StorageError, match=r"storage_url .*not a Redis reply"):
            await Storage.open(Settings(storage_url=f"redis://127.0.0.1:{port}"))


async def test_passwords_and_acl_users_open_the_door_and_wrong_ones_are_named() -> None:
    with Server(password="first") as server:
        rules = ("on", ">sec:ret", "~rb:*", "&rb:*", "+@all", "-@dangerous", "+info", "-set")
        server.command("ACL", "SETUSER", "worker", *rules)
        for url in (server.url, server.unix_url, f"redis://worker:sec%3Aret@{server.address}"):
            async with opened(url) as storage:
                assert await storage.run(ONCE, keys_of("acl"), [1, b""]) == 1
        async with opened(f"redis://worker:sec%3Aret@{server.address}") as storage:
            with pytest.raises(Exception, match="CLUSTER_AUTHORIZATION_FAILED"):
                await storage.call(b"rb:x", "SET", "rb:x", 1)
        for wrong in (f"redis://:wrong@{server.address}", f"redis://{server.address}", f"redis://x:y@{server.address}"):
            with pytest.raises(StorageError, match="storage_url") as failed:
                await Storage.open(Settings(storage_url=wrong))
            assert failed.value.code is ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        with pytest.raises(StorageError, match="database in storage_url"):
            await Storage.open(Settings(storage_url=server.url + "/99"))


async def test_a_database_number_is_selected(valkey: Server) -> None:
    async with opened(valkey.url + "/3") as storage:
        await storage.call(b"k", "SET", "k", 1)
    assert valkey.info("db3").startswith("keys=1")


async def test_a_unix_socket_is_as_good_as_a_port(redis7: Server) -> None:
    async with opened(redis7.unix_url) as storage:
        assert await storage.run(ONCE, keys_of("unix"), [1, b"x" * 10_000]) == 1
        assert [address for address, _ in await storage.on_masters("PING")] == [redis7.socket_path]


@pytest.mark.skipif(redis_binary() is None, reason="no redis-server on this machine")
async def test_tls_is_spoken_and_certificates_are_checked() -> None:
    with TlsServer() as server:
        assert isinstance(server, TlsServer)
        async with opened(server.tls_url, storage_tls_ca_file=server.certificate) as storage:
            calls = [storage.run(ONCE, keys_of("tls"), [n, b"x" * 300_000]) for n in range(1, 11)]
            assert await asyncio.gather(*calls) == list(range(1, 11))
        async with opened(server.tls_url, storage_tls_verify=False) as storage:
            assert await storage.call(b"k", "GET", "k") is None
        with pytest.raises(StorageError, match=r"storage_url .*certificate"):
            await Storage.open(Settings(storage_url=server.tls_url))
    with pytest.raises(StorageError, match="storage_tls_ca_file"):
        await Storage.open(Settings(storage_url="rediss://h", storage_tls_ca_file="/nonexistent"))


async def test_a_replica_is_not_mistaken_for_its_master(valkey: Server) -> None:
    with Server("--replicaof", f"127.0.0.1 {valkey.port}") as replica:
        with pytest.raises(StorageError, match=r"storage_url .*replica"):
            await Storage.open(Settings(storage_url=replica.url))
        async with opened(f"redis://{replica.address},{valkey.address}") as storage:
            assert await storage.call(b"k", "SET", "k", 1) == b"OK"
