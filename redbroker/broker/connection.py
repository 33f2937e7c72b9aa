"""One client connection: frames in, answers out in request order.

    socket -> FrameReader -> _waiting -> _slots (running, at most requests_in_flight_max, started in arrival order)
    socket <- writelines  <- answered slots at the head of _slots, all that are ready in one call

Requests of one connection run concurrently, so that pipelined requests share a round trip to storage; tasks start in
arrival order, which is what keeps appends in order. Reading pauses (`update_reading` is the one place that decides)
while too many requests are unanswered, while the client does not read its answers, or while the worker's
`FrameBudget` is exhausted; so a client can make us hold no more than those bounds, whatever it sends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from redbroker.broker.dispatch import Refused, Request, answer, read_request
from redbroker.broker.frames import FRAME_OVERHEAD_BYTES, Frame, FrameReader
from redbroker.broker.turnstile import Turnstile

if TYPE_CHECKING:
    from redbroker.broker.server import Server

__all__ = ["Connection"]

log = logging.getLogger(__name__)

HEAVY_BYTES, DECODED_FACTOR = 65_536, 32  # a larger control request counts as often: its objects, not its bytes
WRITE_HIGH_BYTES = 262_144  # answers the transport buffers before the client counts as not reading


class Slot:
    """The place of one request in the order of answers."""

    __slots__ = ("abandoned", "answered", "begun", "closes", "held_bytes", "request", "segments", "task", "turn")

    def __init__(self, request: Request | None, held_bytes: int) -> None:
        self.request = request
        self.held_bytes = held_bytes
        self.segments: list[Any] | None = None
        self.begun = self.abandoned = self.answered = False
        self.closes = False
        self.turn: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one accepted socket. All state belongs to the event loop's thread."""

    __slots__ = (
        "_delivered", "_delivered_s", "_flush_due", "_frame_began_s", "_loop", "_lost", "_muted", "_reader",
        "_reading", "_received_s", "_released_bytes", "_server", "_slots", "_transport", "_turnstile", "_waiting",
        "_write_paused", "_written", "closing", "host",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(server.scratch, server.settings.frame_bytes_max)
        self._slots: deque[Slot] = deque()
        self._turnstile = Turnstile()
        self._waiting: deque[Frame | Refused] = deque()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._reading = True
        self._write_paused = False
        self._flush_due = False
        self._released_bytes = 0  # of frames whose requests are answered, not yet given back to the budget
        self._lost = False
        self._muted: asyncio.TimerHandle | None = None  # until when nothing is read, or begun (KIP-219)
        self._written = self._delivered = 0  # bytes given to the transport, and of those, taken by the client
        self._received_s = self._delivered_s = self._frame_began_s = self._loop.time()
        self.closing = False
        self.host = ""

    # --- the transport's calls --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client was accepted; refused at once when there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.host = str(peer[0]) if isinstance(peer, tuple) else "local"
        if not self._server.admit(self):
            self.closing = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._loop.call_soon(self.update_reading)  # uvloop begins to read after this call, whatever was said in it

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the event loop puts what it receives."""
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` were received: start what is complete."""
        if self.closing:
            return
        self._received_s = self._loop.time()
        self._server.metrics.bytes_received += nbytes
        reader = self._reader
        before = reader.held_bytes
        frames = reader.received(nbytes)
        if frames or not before:
            self._frame_began_s = self._received_s
        self._server.budget.count(
            reader.held_bytes - before, sum(map(len, frames)) + FRAME_OVERHEAD_BYTES * len(frames)
        )
        self._waiting += frames
        if reader.broken:
            self._waiting.append(Refused("malformed", reader.broken))
        self._start_waiting()
        if len(self._slots) + len(self._waiting) >= self._server.settings.requests_in_flight_max or reader.broken:
            self.update_reading()

    def pause_writing(self) -> None:
        """The client reads slower than we answer: hold answers, and read no more requests."""
        self._write_paused = True
        self.update_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone. Parked requests end; the others run on, so that nothing half done is left behind.

        Frames that had arrived are still served: a producer with acks=0 may send and leave.
        """
        self._server.forget(self)
        self.closing = self._lost = True
        self._write_paused = False
        self._drop_unfinished()
        self._end_parked()
        self._flush()

    # --- what the server asks ---------------------------------------------------------------------------------

    @property
    def unfinished_bytes(self) -> int:
        """Bytes held by the frame that is being received."""
        return self._reader.held_bytes

    def stalled_s(self, now_s: float) -> float:
        """Seconds since the client stopped within a frame, or took none of the answers that wait for it."""
        unread_bytes = self._transport.get_write_buffer_size()
        if not unread_bytes or self._written - unread_bytes != self._delivered:
            self._delivered, self._delivered_s = self._written - unread_bytes, now_s
        within_frame_s = now_s - self._received_s if self._reading and self._reader.unfinished else 0.0
        return max(within_frame_s, now_s - self._delivered_s)

    def unfinished_s(self, now_s: float) -> float:
        """Seconds since the frame that holds memory, but is not whole, began."""
        return now_s - self._frame_began_s if self._reader.held_bytes else 0.0

    def idle_s(self, now_s: float) -> float:
        """Seconds since anything came from the client, if nothing is owed to it."""
        return 0.0 if self._slots or self._waiting else now_s - self._received_s

    def update_reading(self) -> None:
        """Receive from the socket or not: decided here and nowhere else."""
        reading = not (
            self.closing
            or self._muted is not None
            or self._write_paused
            or self._server.broker.draining.is_set()
            or self._reader.broken
            or len(self._slots) + len(self._waiting) >= self._server.settings.requests_in_flight_max
            or not self._server.budget.may_read(self)
        )
        if reading == self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._received_s = self._loop.time()
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def drain(self) -> None:
        """Read no more, and close as soon as what is in flight is answered."""
        self.update_reading()
        self._flush()

    def close(self, reason: str) -> None:
        """Drop the client now; `reason` is the word it is counted under."""
        if not self._lost:
            self._server.metrics.closed(reason)
            self._transport.abort()

    # --- requests ---------------------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        """Begin the requests that have arrived, in order, as far as the bound allows."""
        bound = self._server.settings.requests_in_flight_max
        while self._waiting and len(self._slots) < bound and (self._muted is None or self._lost):
            frame = self._waiting.popleft()
            if isinstance(frame, Refused):
                self._refuse_in_turn(frame)
                return
            held = len(frame) + FRAME_OVERHEAD_BYTES
            try:
                request = read_request(frame, self._server.settings.control_frame_bytes_max)
            except Refused as refused:
                self._server.budget.count(0, -held)
                self._refuse_in_turn(refused)
                return
            if self._lost and request.api.parks:
                self._server.budget.count(0, -held)
                continue
            if held > HEAVY_BYTES and not request.api.bulk:
                self._server.budget.count(0, held * (DECODED_FACTOR - 1))
                held *= DECODED_FACTOR
            slot = Slot(request, held)
            self._slots.append(slot)
            slot.task = self._loop.create_task(self._serve(slot, request))

    async def _serve(self, slot: Slot, request: Request) -> None:
        """Run one request to its answer, whatever happens."""
        slot.begun = True
        try:
            if slot.abandoned:
                return
            if request.api.in_turn and (self._slots[0] is not slot or self._write_paused):
                slot.turn = self._loop.create_future()
                await slot.turn
            slot.segments = await answer(request, self._server.broker, self.host, self._turnstile)
            if request.throttle_ms:
                self._mute(request.throttle_ms / 1_000)
        except Refused as refused:
            slot.closes = True
            self._log_refused(refused)
        except asyncio.CancelledError:
            pass  # its client is gone
        except BaseException:
            slot.closes = True
            raise
        finally:
            slot.answered = True
            slot.request = slot.task = None
            self._released_bytes += slot.held_bytes
            if not self._flush_due:
                if len(self._slots) == 1:  # a lone answer leaves at once; several leave together after this loop tick
                    self._flush()
                else:
                    self._flush_due = True
                    self._loop.call_soon(self._flush)

    def _mute(self, pause_s: float) -> None:
        """Read nothing for a while: the client was told to pause (KIP-219), and may not know how."""
        if self._muted is not None:
            self._muted.cancel()
        self._muted = self._loop.call_later(pause_s, self._unmute)
        self.update_reading()

    def _unmute(self) -> None:
        self._muted = None
        self._start_waiting()
        self.update_reading()

    def _refuse_in_turn(self, refused: Refused) -> None:
        """This stream cannot be read any further: close it once the requests before it are answered, or parked."""
        self._log_refused(refused)
        self.closing = True
        dropped = [frame for frame in self._waiting if not isinstance(frame, Refused)]
        self._waiting.clear()
        self._server.budget.count(0, -sum(len(frame) + FRAME_OVERHEAD_BYTES for frame in dropped))
        self._drop_unfinished()
        self._end_parked()  # with reading paused it would not even be noticed that the client has gone
        slot = Slot(None, 0)
        slot.answered = slot.closes = True
        self._slots.append(slot)
        self.update_reading()
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _end_parked(self) -> None:
        """Requests that wait for something to happen wait for nobody any more."""
        for slot in self._slots:
            if slot.task is not None and slot.request is not None and slot.request.api.parks:
                slot.abandoned = True
                if slot.begun:  # a task cancelled before its first step would never come to its `finally`
                    slot.task.cancel()

    def _drop_unfinished(self) -> None:
        """Give back what an unfinished frame holds; nothing more is read."""
        held = self._reader.held_bytes
        self._reader = FrameReader(self._server.scratch, 0)
        self._server.budget.count(-held, 0)

    def _log_refused(self, refused: Refused) -> None:
        self._server.metrics.closed(refused.reason)
        log.info("The connection from %s is closed: %s.", self.host, refused)

    # --- answers ----------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send the answers that are ready and in turn, then go on with what waited for that."""
        self._flush_due = False
        if self._released_bytes:
            self._server.budget.count(0, -self._released_bytes)
            self._released_bytes = 0
        segments: list[Any] = []
        while self._slots and self._slots[0].answered and not self._write_paused:
            slot = self._slots.popleft()
            if slot.segments:
                segments += slot.segments
            if slot.closes:
                self._write(segments)
                self._end()
                return
        self._write(segments)
        if self._waiting:
            self._start_waiting()
        if self._slots:
            turn = self._slots[0].turn
            if turn is not None and not turn.done() and not self._write_paused:
                turn.set_result(None)
        elif self._server.broker.draining.is_set() and not self._waiting:
            self._end()
            return
        if not self._reading:
            self.update_reading()

    def _write(self, segments: list[Any]) -> None:
        if segments and not self._lost:
            nbytes = sum(map(len, segments))
            self._written += nbytes
            self._server.metrics.bytes_sent += nbytes
            self._transport.writelines(segments)

    def _end(self) -> None:
        """Close after what was written has left; requests that still run keep nobody waiting."""
        self.closing = True
        self._transport.close()
