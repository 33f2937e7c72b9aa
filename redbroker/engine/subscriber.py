"""One connection that listens to sharded pub/sub channels of one Redis node.

    SSUBSCRIBE c  ->  ["ssubscribe", c, n]      confirmed
                  ->  -MOVED …                  refused: the channel's slot is elsewhere
                      ["smessage", c, payload]  a message
                      ["sunsubscribe", c, n]    unasked: the slot moved away
    PING          ->  ["pong", ""]              proof of life, every `PING_S`

It never reconnects: `Listener.lost` is told once, and `tail.Tail` decides where its channels go.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import hiredis

from redbroker.engine.resp import Call, Pipe, encode, open_pipe, settle_errands
from redbroker.engine.target import Access, Address

PING_S = 1.0


class Listener(Protocol):
    """Who a subscriber reports to."""

    def heard(self, channel: bytes, message: bytes) -> None:
        """A message arrived."""

    def confirmed(self, channel: bytes) -> None:
        """From now on messages of the channel arrive."""

    def dropped(self, subscriber: Subscriber, channel: bytes, why: str) -> None:
        """The node refused the channel or gave it up."""

    def lost(self, subscriber: Subscriber, error: Exception) -> None:
        """The connection is gone with all its channels."""


class MessagePipe(Pipe):
    """A pipe that hands out messages once its greeting is over."""

    def buffer_updated(self, nbytes: int) -> None:
        """Answer the greeting's errands, then pass everything to the subscriber."""
        self.heard = self._loop.time()
        owner = self.owner
        assert isinstance(owner, Subscriber)
        try:
            self._reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]
            while (reply := self._reader.gets()) is not False:
                if self.pending:
                    self.pending.popleft().answer(reply)
                else:
                    owner.received(reply)
        except hiredis.ProtocolError as error:
            self.abort(ConnectionError(f"not a Redis reply: {error}"))

    def write(self, *commands: Iterable[bytes]) -> None:
        """Send commands whose replies are messages."""
        self._transport.write(b"".join(bytes(part) for words in commands for part in _parts(words)))


class Subscriber:
    """The channels of one node."""

    def __init__(self, listener: Listener, address: Address, silent_s_max: float) -> None:
        self.address = address
        self.channels: set[bytes] = set()
        self._listener = listener
        self._silent_s_max = silent_s_max
        self._asked: deque[tuple[bytes, bytes]] = deque()
        self._pipe: MessagePipe | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, access: Access, timeout_s: float) -> None:
        """Connect; OSError or StorageError when that fails."""
        pipe = await open_pipe(self.address, access, self, timeout_s=timeout_s, pipe_class=MessagePipe)
        assert isinstance(pipe, MessagePipe)
        if pipe.gone.is_set():
            raise ConnectionError("lost at once")
        self._pipe = pipe
        self._ping()

    def subscribe(self, channels: Iterable[bytes]) -> None:
        """Ask for channels, one command each: channels of different slots may not share one."""
        self._ask(b"SSUBSCRIBE", [channel for channel in channels if channel not in self.channels])

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        """Give channels up."""
        self._ask(b"SUNSUBSCRIBE", [channel for channel in channels if channel in self.channels])

    def _ask(self, command: bytes, channels: list[bytes]) -> None:
        if self._pipe is None or not channels:
            return
        if command == b"SSUBSCRIBE":
            self.channels.update(channels)
        else:
            self.channels.difference_update(channels)
        self._asked.extend((command.lower(), channel) for channel in channels)
        self._pipe.write(*((command, channel) for channel in channels))

    def received(self, reply: Any) -> None:
        """One reply or message."""
        if isinstance(reply, hiredis.ReplyError):
            command, channel = self._asked.popleft() if self._asked else (b"", b"")
            if command == b"ssubscribe":
                self._drop(channel, str(reply))
        elif isinstance(reply, list) and reply[0] == b"smessage":
            self._listener.heard(reply[1], reply[2])
        elif isinstance(reply, list) and reply[0] in (b"ssubscribe", b"sunsubscribe"):
            if self._asked and self._asked[0] == (reply[0], reply[1]):
                self._asked.popleft()
                if reply[0] == b"ssubscribe" and reply[1] in self.channels:
                    self._listener.confirmed(reply[1])
            elif reply[0] == b"sunsubscribe":
                self._drop(reply[1], "its slot moved away")

    def _drop(self, channel: bytes, why: str) -> None:
        if channel in self.channels:
            self.channels.discard(channel)
            self._listener.dropped(self, channel, why)

    def _ping(self) -> None:
        pipe = self._pipe
        if pipe is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - pipe.heard > self._silent_s_max:
            pipe.abort(TimeoutError("silent"))
            return
        pipe.write((b"PING",))
        self._timer = loop.call_later(min(PING_S, self._silent_s_max / 3), self._ping)

    # --- the pipe's owner --------------------------------------------------------------------------------------

    def refused(self, call: Call, error: hiredis.ReplyError) -> None:
        """Never: the greeting's errands take refusals as values."""

    def sending(self) -> None:
        """PING watches over silence."""

    def lost(self, pipe: Pipe, error: Exception) -> None:
        """The socket is gone."""
        settle_errands(pipe.pending, error)
        if self._timer is not None:
            self._timer.cancel()
        if self._pipe is not None:
            self._pipe = None
            self._listener.lost(self, error)

    async def close(self) -> None:
        """Close without a word to the listener."""
        pipe, self._pipe = self._pipe, None
        if self._timer is not None:
            self._timer.cancel()
        if pipe is not None:
            pipe.abort(ConnectionError("closed"))
            await pipe.gone.wait()


def _parts(words: Iterable[bytes]) -> list[bytes]:
    payload = encode(words)
    return [payload] if isinstance(payload, bytes) else [bytes(part) for part in payload]
