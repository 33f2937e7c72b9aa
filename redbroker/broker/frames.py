"""Cut length-prefixed frames out of a byte stream, and bound the memory they hold.

    scratch buffer, one per worker      | size a | frame a | size b | frame b | size c | fra     cut out as bytes
    own buffer, per unfinished frame                                             | frame c · · · |   received in place

All connections of a worker receive into one scratch buffer: an event loop hands a buffer out and fills it within one
callback, so nothing is left in it between callbacks, and an idle connection holds no buffer at all. Complete frames
are cut out as independent `bytes` (many pipelined requests cost one system call). A frame that is not complete yet
moves to a buffer of its own, into which the rest is received directly, never accumulated.

A client's announcement costs nothing: the buffer of an unfinished frame never exceeds `AT_ONCE_BYTES` or `GROWTH` times
what has really arrived (Python clears a new bytearray, so an untouched one is real memory too), and `FrameBudget`
counts the buffers of all connections of the worker.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from redbroker.wire.frame import SIZE

__all__ = ["SCRATCH_BYTES", "FrameBudget", "FrameReader", "Reader"]

SCRATCH_BYTES = 262_144
AT_ONCE_BYTES = 16_384  # a frame up to here gets its buffer in one piece
GROWTH = 4
FRAME_OVERHEAD_BYTES = 100  # what a small frame costs beside its bytes
HEAD_BYTES = SIZE.size
REQUEST_BYTES_MIN = 8  # api key, version, correlation id

Frame = bytes | bytearray


class FrameReader:
    """The receiving half of one connection: `buffer()` is where to receive, `received(n)` gives the complete frames.

    `broken` tells why the stream cannot be read any further: a size that is too small for a request (or negative) or
    above `frame_bytes_max`. The frames before it are given all the same.
    """

    __slots__ = ("_filled", "_frame", "_frame_bytes_max", "_head", "_scratch", "_size", "_view", "broken", "held_bytes")

    def __init__(self, scratch: memoryview, frame_bytes_max: int) -> None:
        self._scratch = scratch
        self._frame_bytes_max = frame_bytes_max
        self._head = b""  # up to three bytes of a size that is not complete
        self._frame: bytearray | None = None
        self._view = scratch
        self._size = 0
        self.broken = ""
        self._filled = 0  # bytes that have arrived of the unfinished frame
        self.held_bytes = 0  # the size of its buffer

    @property
    def unfinished(self) -> bool:
        """True within a frame."""
        return self._frame is not None or bool(self._head)

    def buffer(self) -> memoryview:
        """The memory to receive into; valid until the next call of `received`."""
        if self._frame is not None:
            return self._view[self._filled :]
        if self._head:
            self._scratch[: len(self._head)] = self._head
            return self._scratch[len(self._head) :]
        return self._scratch

    def received(self, nbytes: int) -> list[Frame]:
        """Frames (without their sizes) completed by the `nbytes` just received."""
        if self._frame is None:
            return self._cut(len(self._head) + nbytes)
        self._filled += nbytes
        if self._filled < self.held_bytes:
            return []
        if self._filled < self._size:
            self._enlarge(self._view)
            return []
        frame, self._frame, self._view, self.held_bytes = self._frame, None, self._scratch, 0
        return [frame]

    def _cut(self, end: int) -> list[Frame]:
        """Everything complete in the scratch buffer; what remains is put aside."""
        frames: list[Frame] = []
        scratch, pos = self._scratch, 0
        self._head = b""
        while end - pos >= HEAD_BYTES:
            size: int = SIZE.unpack_from(scratch, pos)[0]
            if not REQUEST_BYTES_MIN <= size <= self._frame_bytes_max:
                self.broken = f"a frame announces {size} bytes"
                return frames
            pos += HEAD_BYTES
            if end - pos < size:
                self._begin(size, scratch[pos:end])
                return frames
            frames.append(bytes(scratch[pos : pos + size]))
            pos += size
        self._head = bytes(scratch[pos:end])
        return frames

    def _begin(self, size: int, arrived: memoryview) -> None:
        """Give an unfinished frame a buffer of its own."""
        self._size, self._filled = size, len(arrived)
        self._enlarge(arrived)

    def _enlarge(self, arrived: memoryview) -> None:
        """A buffer for more of a frame that has proved itself so far; at most a third of the frame is copied in all."""
        self.held_bytes = min(self._size, max(AT_ONCE_BYTES, GROWTH * self._filled))
        self._frame = bytearray(self.held_bytes)
        self._view = memoryview(self._frame)
        self._view[: self._filled] = arrived


class Reader(Protocol):
    """A connection as the budget sees it."""

    @property
    def unfinished_bytes(self) -> int:
        """Bytes held by its unfinished frame."""
        ...

    def update_reading(self) -> None:
        """Pause or resume reading, as the budget now allows."""
        ...


class FrameBudget:
    """The bytes of request frames that all connections of a worker hold, and who may read when there are too many.

    | state | since | until | who may read |
    |---|---|---|---|
    | crowded | unfinished frames hold half of `bytes_max` | three eighths | those at the beginning of a frame |
    | full | all frames hold `bytes_max` | three quarters | nobody |

    If it is unfinished frames that hold the memory, waiting would never end: so the largest is `favoured` and may be
    read to its end. The bound is thus `bytes_max`, one frame, and one receive of each connection. While either state
    lasts, the server closes whose frame takes too long.
    """

    def __init__(self, bytes_max: int, readers: Collection[Reader]) -> None:
        self.bytes_max = bytes_max
        self.unfinished_bytes = 0
        self.complete_bytes = 0
        self.crowded = False
        self.full = False
        self.favoured: Reader | None = None
        self._readers = readers

    @property
    def held_bytes(self) -> int:
        """All that is held now."""
        return self.unfinished_bytes + self.complete_bytes

    def may_read(self, reader: Reader) -> bool:
        """Whether this connection may receive."""
        if self.full or (self.crowded and reader.unfinished_bytes):
            return self.favoured is reader
        return True

    def count(self, unfinished: int, complete: int) -> None:
        """Add (or, negative, give back) bytes of unfinished and of complete frames."""
        self.unfinished_bytes += unfinished
        self.complete_bytes += complete
        most = self.bytes_max
        crowded = self.unfinished_bytes > (most * 3 // 8 if self.crowded else most // 2)
        full = self.unfinished_bytes + self.complete_bytes > (most * 3 // 4 if self.full else most)
        if crowded or full or self.crowded or self.full:
            self._settle(crowded, full)

    def _settle(self, crowded: bool, full: bool) -> None:
        """Enter the states, and let those who are concerned know."""
        changed = (crowded, full) != (self.crowded, self.full)
        self.crowded, self.full = crowded, full
        before, self.favoured = self.favoured, self._favourite()
        for reader in list(self._readers) if changed else {before, self.favoured} - {None}:
            if reader is not None:
                reader.update_reading()

    def _favourite(self) -> Reader | None:
        """Who must be read though memory is short: nobody while requests under way can free enough of it."""
        if not self.unfinished_bytes or (self.complete_bytes * 4 >= self.bytes_max if self.full else not self.crowded):
            return None
        if self.favoured is not None and self.favoured.unfinished_bytes:
            return self.favoured
        return max(self._readers, key=lambda reader: reader.unfinished_bytes, default=None)
