"""One pipelined connection to a Redis server: calls go out in order, replies come back in order.

All calls of one loop tick leave in one write. Small words are joined; a word of `BIG_WORD_BYTES` or more (a record
batch) is handed to the transport as it is, never copied here. A `Call` is the future its caller awaits and, at the
same time, all that is needed to send it again. Replies have RESP2 shapes: bytes, int, list, None.

    submit(call) -> pending ---- flush, once per tick ----> socket
    caller <- call.answer(reply) <- hiredis Reader <------- socket
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import hiredis

from redbroker.engine.scripts import Script
from redbroker.engine.target import Access, Address, StorageError
from redbroker.errors import ErrorCode, KafkaError

BIG_WORD_BYTES = 1024
READ_BUFFER_BYTES = 131_072
WRITE_CHUNK_BYTES = 1_048_576
READER_KEPT_BYTES = 1_048_576  # of an empty reader; above its own 16 KiB hiredis would grow it anew each time
SEGMENTS_PER_WRITE = 512

CRLF = b"\r\n"
LENGTHS = [b"$%d\r\n" % length for length in range(BIG_WORD_BYTES)]

Word = bytes | str | int | memoryview | bytearray
Payload = bytes | list[bytes | memoryview | bytearray]


class Call(asyncio.Future[Any]):
    """One command on its way, and the future of its reply.

    `payload` is the encoded command, `slot` its hash slot (0 outside a cluster), `born` the loop time it was made,
    `once` forbids sending it twice, `executed` tells that it may have been before it was sent again, `prefix` (set for
    scripts) lets EVAL take the place of EVALSHA, `patience` is the loop time until which it is tried again (None until
    something went wrong), `hops` counts how often it was sent on.
    """

    # What every call sets has a slot; the rest is rare and lives in the dict futures have.
    __slots__ = ("born", "payload", "prefix", "slot")

    born: float
    payload: Payload
    prefix: ScriptPrefix | None
    slot: int
    hops: int = 0
    once: bool = False
    executed: bool = False
    patience: float | None = None

    # What the connection does with a good reply; subclasses do something else with it.
    answer = asyncio.Future.set_result

    def fail(self, code: ErrorCode, sentence: str) -> None:
        """End it with an error, unless its caller has gone.

        Whoever waits hears it. That nobody does is no news: of two calls that fail together one may be all that is
        awaited, and callers run out of patience during a fault. So asyncio need not tell of exceptions never retrieved.
        """
        if not self.done():
            self.set_exception(KafkaError(code, sentence))
            self.exception()

    @property
    def follows(self) -> bytes | None:
        """What orders it: scripts of one first key (a partition's log) follow each other. None: it stands alone."""
        return self.prefix.keys[0] if self.prefix is not None else None


class ImpatientCall(Call):
    """A call of a reader that asks several masters together: given up once its own is silent, or away, for a moment.

    Nothing is ordered by it: whoever reads asks again.
    """

    __slots__ = ()

    @property
    def follows(self) -> None:
        """Nobody is given up with it."""
        return


class ScriptPrefix:
    """The first words of a script call, EVALSHA to the last key: encoded once per script, keys and argument count."""

    __slots__ = ("evalsha", "keys", "script", "slot", "words")

    def __init__(self, script: Script, keys: Sequence[bytes], arguments: int, slot: int) -> None:
        self.script, self.keys, self.slot = script, keys, slot
        self.words = 3 + len(keys) + arguments
        self.evalsha = self._encoded(b"EVALSHA", script.sha)

    def _encoded(self, command: bytes, body: bytes) -> bytes:
        words = (command, body, b"%d" % len(self.keys), *self.keys)
        return b"".join((b"*%d\r\n" % self.words, *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)))

    def with_source(self, payload: Payload) -> Payload:
        """The call as EVAL; a payload that is EVAL already stays as it is."""
        head = payload if isinstance(payload, bytes) else bytes(payload[0])
        if not head.startswith(self.evalsha):
            return payload
        head = self._encoded(b"EVAL", self.script.source) + head[len(self.evalsha) :]
        return head if isinstance(payload, bytes) else [head, *payload[1:]]


class Errand(Call):
    """A command of the connection's own (PING, ASKING, AUTH): never sent again, errors are its results."""

    __slots__ = ()

    def __init__(self, loop: asyncio.AbstractEventLoop, *words: Word) -> None:
        super().__init__(loop=loop)
        self.payload = encode(words)
        self.born = loop.time()
        self.slot, self.once, self.prefix = -1, True, None

    def answer(self, reply: Any) -> None:
        """Take a reply, a refusal or the loss of the connection: all are values here."""
        if not self.done():
            self.set_result(reply)


class Owner(Protocol):
    """Who a `Pipe` reports to."""

    def refused(self, call: Call, error: hiredis.ReplyError) -> None:
        """The server answered `call` with an error."""

    def lost(self, pipe: Pipe, error: Exception) -> None:
        """The connection is gone; `pipe.pending` holds the calls without an answer."""

    def sending(self) -> None:
        """Calls are being written: watch their age."""


def encode(words: Iterable[Word], prefix: bytes = b"") -> Payload:
    """A command in RESP; `prefix` holds its array header and first words, when they are known already.

    Gives bytes, or a list of segments in which big words stand uncopied.
    """
    parts: list[bytes | memoryview | bytearray] = [prefix]
    big = False
    for word in words:
        if word.__class__ is not bytes:
            if isinstance(word, int):
                word = b"%d" % word
            elif isinstance(word, str):
                word = word.encode()
        length = len(word)
        if length < BIG_WORD_BYTES:
            parts += (LENGTHS[length], word, CRLF)
        else:
            big = True
            parts += (b"$%d\r\n" % length, word, CRLF)
    if not prefix:
        parts[0] = b"*%d\r\n" % (len(parts) // 3)
    return joined(parts) if big else b"".join(parts)


def joined(parts: Sequence[bytes | memoryview | bytearray]) -> list[bytes | memoryview | bytearray]:
    """The same segments with runs of small ones joined."""
    segments: list[bytes | memoryview | bytearray] = []
    run: list[bytes | memoryview | bytearray] = []
    for part in parts:
        if len(part) < BIG_WORD_BYTES:
            run.append(part)
        else:
            if run:
                segments.append(b"".join(run))
                run = []
            segments.append(part)
    if run:
        segments.append(b"".join(run))
    return segments


class Pipe(asyncio.BufferedProtocol):
    """The connected socket: `submit` a call, its reply comes to `call.answer` or to `owner.refused`."""

    def __init__(self, owner: Owner, pending_max: int) -> None:
        self.owner = owner
        self.pending: deque[Call] = deque()
        self.heard = 0.0
        self.gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pending_max = pending_max
        self._out: list[bytes | memoryview | bytearray] = []
        self._big = False
        self._scheduled = False
        self._paused = False
        self._closed = False
        self._why: Exception | None = None
        self._reader = hiredis.Reader()
        self._reader.setmaxbuf(READER_KEPT_BYTES)
        self._buffer = bytearray(READ_BUFFER_BYTES)
        self._view = memoryview(self._buffer)

    # --- calls out -------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Send a call in this tick's write.

        More than `storage_pending_max` calls in flight are refused with REQUEST_TIMED_OUT: clients back off and try
        again, without the storm of metadata requests that NOT_LEADER_OR_FOLLOWER would bring.
        """
        pending = self.pending
        if len(pending) >= self._pending_max and not isinstance(call, Errand):
            call.fail(ErrorCode.REQUEST_TIMED_OUT, "Too many calls wait for this Redis node (storage_pending_max).")
            return
        pending.append(call)
        payload = call.payload
        if payload.__class__ is bytes:
            self._out.append(payload)
        else:
            self._out += payload  # type: ignore[arg-type]
            self._big = True
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was submitted, unless the transport is full."""
        self._scheduled = False
        if self._paused or self._closed or not self._out:
            return
        out, self._out = self._out, []
        self.owner.sending()
        if not self._big and len(out) <= SEGMENTS_PER_WRITE:
            self._transport.write(b"".join(out))
            return
        self._write_in_chunks(out)

    def _write_in_chunks(self, out: list[bytes | memoryview | bytearray]) -> None:
        """Write at most about a chunk beyond the transport's high-water mark; the rest waits for resume_writing."""
        self._big = False
        start = size = 0
        for at, part in enumerate(out, 1):
            size += len(part)
            if size >= WRITE_CHUNK_BYTES or at - start >= SEGMENTS_PER_WRITE or at == len(out):
                self._transport.writelines(joined(out[start:at]))
                start, size = at, 0
                if self._paused and at < len(out):
                    self._out = out[at:]
                    self._big = True
                    return

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._paused = False
        self.flush()

    # --- replies in ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=WRITE_CHUNK_BYTES)
        self.heard = self._loop.time()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the transport puts what it reads."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Hand out every whole reply."""
        self.heard = self._loop.time()
        gets, popleft, refusal = self._reader.gets, self.pending.popleft, hiredis.ReplyError
        try:
            self._reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]
            while (reply := gets()) is not False:
                call = popleft()
                if reply.__class__ is refusal:
                    self._refused(call, reply)
                    continue
                try:  # contextlib.suppress costs more than the call it would guard
                    call.answer(reply)
                except asyncio.InvalidStateError:
                    continue  # its caller was cancelled and needs no answer
        except (hiredis.ProtocolError, IndexError) as error:
            self.abort(ConnectionError(f"not a Redis reply: {error}"))

    def _refused(self, call: Call, error: hiredis.ReplyError) -> None:
        if isinstance(call, Errand):
            call.answer(error)
        elif not call.done():
            self.owner.refused(call, error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._closed = True
        self._out.clear()
        self.gone.set()
        self.owner.lost(self, self._why or exc or ConnectionError("closed by the server"))

    def abort(self, why: Exception) -> None:
        """Close at once; the owner hears `why`."""
        self._why = self._why or why
        self._transport.abort()

    async def ask(self, *commands: Sequence[Word]) -> list[Any]:
        """The replies of a few commands of our own; refusals and a lost connection are values among them."""
        errands = [Errand(self._loop, *words) for words in commands]
        for errand in errands:
            self.submit(errand)
        return [await errand for errand in errands]


class Alone:
    """Owner of a pipe that only runs errands."""

    def refused(self, call: Call, error: hiredis.ReplyError) -> None:
        """Never: errands take refusals as values."""

    def lost(self, pipe: Pipe, error: Exception) -> None:
        """Errands under way get the loss as their value."""
        settle_errands(pipe.pending, error)

    def sending(self) -> None:
        """Whoever opened it has a deadline."""


def settle_errands(calls: Iterable[Call], error: Exception) -> None:
    """Tell the errands among `calls` that their connection is gone."""
    for call in calls:
        if isinstance(call, Errand):
            call.answer(error)


async def open_pipe(
    address: Address,
    access: Access,
    owner: Owner,
    *,
    timeout_s: float,
    pending_max: int = 1_000,
    errands: Sequence[Sequence[Word]] = (),
    pipe_class: type[Pipe] = Pipe,
) -> Pipe:
    """Connect, authenticate, select the database and run `errands` (their refusals do not matter).

    OSError (which TimeoutError is too) when it may work later, `StorageError` when credentials or database are wrong.
    """
    pipe: Pipe | None = None
    try:
        async with asyncio.timeout(timeout_s):
            pipe = await open_socket(address, access, lambda: pipe_class(owner, pending_max))
            greeting = hello(access)
            replies = await pipe.ask(*greeting, *errands)
            for words, reply in zip(greeting, replies, strict=False):
                check_hello(address, words[0], reply)
            for reply in replies:
                check_loading(reply)
    except BaseException:
        if pipe is not None:
            with contextlib.suppress(Exception):
                pipe.abort(ConnectionError("greeting failed"))
        raise
    return pipe


async def open_socket(address: Address, access: Access, factory: Any) -> Any:
    """Connect a protocol by TCP, TLS or unix socket."""
    loop = asyncio.get_running_loop()
    if not address.port:
        transport, protocol = await loop.create_unix_connection(factory, address.host)
        # By itself it holds 208 KiB, less than one call with big batches: the server would run dry while we work.
        # The kernel gives as much of it as net.core.wmem_max allows; TCP finds its size by itself.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_CHUNK_BYTES)
        return protocol
    return (await loop.create_connection(factory, address.host, address.port, ssl=access.tls))[1]


def hello(access: Access) -> list[tuple[Word, ...]]:
    """The first commands of a connection."""
    commands: list[tuple[Word, ...]] = []
    if access.password:
        commands.append(("AUTH", *filter(None, (access.username,)), access.password))
    if access.database:
        commands.append(("SELECT", access.database))
    commands.append(("CLIENT", "SETNAME", "redbroker"))
    return commands


def check_hello(address: Address, command: Word, reply: Any) -> None:
    """Raise what the answer to one of the first commands means."""
    if not isinstance(reply, Exception):
        return
    if not isinstance(reply, hiredis.ReplyError):
        raise reply
    check_loading(reply)
    text = str(reply)
    if command == "AUTH" or text.startswith("NOAUTH"):
        sentence = f"Redis at {address} refused the user or password in storage_url: {text.rstrip('.')}."
        raise StorageError(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, sentence)
    if command == "SELECT":
        raise StorageError(ErrorCode.INVALID_CONFIG, f"Redis at {address} refused the database in storage_url: {text}.")


def check_loading(reply: Any) -> None:
    """A server that still loads its data is as good as away."""
    if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("LOADING"):
        raise ConnectionError(str(reply))
