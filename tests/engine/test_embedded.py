"""The embedded Valkey: who starts it, who shares it, who stops it, and what survives."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redbroker.engine import embedded
from redbroker.engine.embedded import EmbeddedServer, embedded_directory, server_binary
from redbroker.engine.target import StorageError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def folder(tmp_path):
    """A data folder whose server is stopped at the end, whatever the test did."""
    yield tmp_path / "data"
    server = EmbeddedServer(tmp_path / "data")
    if server.socket.exists():
        with contextlib.suppress(redis.ConnectionError):
            client(server).shutdown()


def client(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.socket), decode_responses=True, retry=Retry(NoBackoff(), 0))


def process_id(server: EmbeddedServer) -> int:
    with client(server) as connection:
        return connection.info("server")["process_id"]


def running(pid: int) -> bool:
    """A zombie has ended: it only waits for its parent to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_start_that_is_cancelled_leaves_no_server_behind(folder, monkeypatch):
    async def never_answers(path):
        return None

    monkeypatch.setattr(embedded._Holder, "connect", never_answers)
    server = EmbeddedServer(folder)
    with anyio.move_on_after(0.2):
        await server.start()
    assert server._process is not None
    server._process.wait(10)


async def test_data_survive_a_restart_and_nothing_is_left_running(folder):
    server = EmbeddedServer(folder)
    await server.start()
    pid = process_id(server)
    with client(server) as connection:
        connection.set("k", "v")
    await server.leave()
    assert not running(pid)
    await server.start()
    with client(server) as connection:
        assert connection.get("k") == "v"
        assert connection.config_get("appendfsync", "maxmemory-policy") == {
            "appendfsync": "everysec", "maxmemory-policy": "noeviction",
        }  # fmt: skip
    await server.leave()


async def test_the_last_one_to_leave_stops_the_server(folder):
    first, second = EmbeddedServer(folder), EmbeddedServer(folder)
    await first.start()
    await second.start()
    pid = process_id(first)
    assert process_id(second) == pid
    await first.leave()
    assert running(pid)
    await second.leave()
    assert not running(pid)


async def test_many_that_start_at_once_share_one_server(folder):
    servers = [EmbeddedServer(folder) for _ in range(8)]
    async with anyio.create_task_group() as group:
        for server in servers:
            group.start_soon(server.start)
    assert len({process_id(server) for server in servers}) == 1
    pid = process_id(servers[0])
    async with anyio.create_task_group() as group:
        for server in servers:
            group.start_soon(server.leave)
    assert not running(pid)


HOLD = """
import anyio, sys
from pathlib import Path
from redbroker.engine.embedded import EmbeddedServer
async def main():
    await EmbeddedServer(Path(sys.argv[1])).start()
    print("up", flush=True)
    await anyio.sleep_forever()
anyio.run(main)
"""


def start_and_be_killed(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        other.kill()


async def test_a_killed_process_leaves_the_server_to_the_next(folder):
    await anyio.to_thread.run_sync(start_and_be_killed, folder)
    server = EmbeddedServer(folder)
    pid = process_id(server)
    await server.start()
    assert process_id(server) == pid
    await server.leave()
    assert not running(pid)


async def test_a_server_that_dies_is_started_again_by_one_of_those_who_use_it(folder):
    first, second = EmbeddedServer(folder), EmbeddedServer(folder)
    await first.start()
    await second.start()
    pid = process_id(first)
    with client(first) as connection:
        connection.set("k", "v")
    async with anyio.create_task_group() as group:
        group.start_soon(first.watch)
        group.start_soon(second.watch)
        await anyio.lowlevel.checkpoint()
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(5):
            while True:
                if len(holders(first)) == 2:
                    break
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert process_id(first) != pid
    with client(first) as connection:
        assert connection.get("k") == "v"
    await first.leave()
    await second.leave()


def holders(server: EmbeddedServer) -> list[str]:
    try:
        with client(server) as connection:
            return [each["name"] for each in connection.client_list() if each["name"].startswith("redbroker")]
    except (redis.ConnectionError, redis.BusyLoadingError):
        return []


async def test_a_log_that_was_cut_off_in_the_middle_of_a_write_is_loaded(folder):
    server = EmbeddedServer(folder)
    await server.start()
    with client(server) as connection:
        connection.set("k", "v")
    await server.leave()
    [log] = (folder / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes() + b"*3\r\n$3\r\nSET\r\n$1\r\nx")
    await server.start()
    with client(server) as connection:
        assert connection.get("k") == "v"
    await server.leave()


async def test_a_broken_log_is_told_with_the_servers_own_words(folder):
    server = EmbeddedServer(folder)
    await server.start()
    with client(server) as connection:
        connection.set("k", "v")
    await server.leave()
    [log] = (folder / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"*9nonsense" + log.read_bytes())
    with pytest.raises(StorageError, match="Bad file format reading the append only file"):
        await server.start()


async def test_a_path_too_long_for_a_socket_is_no_hindrance(tmp_path):
    folder = tmp_path / ("long" * 30) / "spaces @ and é"
    server = EmbeddedServer(folder)
    await server.start()
    try:
        assert server.socket.parent != folder
        assert process_id(server)
    finally:
        await server.leave()
    assert not server.socket.exists()
    assert (folder / "appendonlydir").is_dir()


async def test_an_unusable_folder_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"data folder .*file/data of storage_url is unusable: Not a directory"):
        await EmbeddedServer(tmp_path / "file" / "data").start()


async def test_a_folder_on_a_full_disk_is_told_in_one_sentence(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StorageError, match=r"disk of the data folder .* is full"):
        await EmbeddedServer(tmp_path / "data").start()


async def test_no_second_server_is_started_while_one_holds_the_folder(folder, monkeypatch):
    server = EmbeddedServer(folder)
    await server.start()
    hidden = server.socket.rename(folder / "hidden.sock")
    monkeypatch.setattr(embedded, "LOAD_S_MAX", 0.1)
    with pytest.raises(StorageError, match=r"holds .* but does not answer"):
        await EmbeddedServer(folder).start()
    hidden.rename(server.socket)
    await server.leave()


def test_a_platform_without_a_binary_is_told_in_one_sentence(monkeypatch):
    assert server_binary().is_file()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(StorageError, match="no server for this platform"):
        server_binary()


def test_the_folder_is_the_named_one_or_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert embedded_directory("embedded:") == Path("/data/redbroker")
    assert embedded_directory("embedded:here") == tmp_path / "here"
    assert embedded_directory("embedded:///abs") == Path("/abs")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert embedded_directory("embedded:") == Path("/home/somebody/.local/share/redbroker")
