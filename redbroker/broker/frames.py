"""Cut length-prefixed frames out of a byte stream, and bound the memory they hold.

    scratch buffer, one per worker      | size a | frame a | size b | frame b | size c | fra     cut out as bytes
    own buffer, per unfinished frame                                             | frame c · · · |   received in place

All connections of a worker receive into one scratch buffer: an event loop hands a buffer out and fills it within one
callback, so nothing is left in it between callbacks, and an idle connection holds no buffer at all. Complete frames
are cut out as independent `bytes` (many pipelined requests cost one system call). A frame that is not complete yet
moves to a buffer of its own, into which the rest is received directly, never accumulated.

A client's announcement costs nothing: the buffer of an unfinished frame never exceeds `AT_ONCE_BYTES` or `GROWTH` times
what has really arrived, and `FrameBudget` counts what has arrived over all connections of the worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from redbroker.wire.frame import SIZE

__all__ = ["SCRATCH_BYTES", "FrameBudget", "FrameReader", "Reader"]

SCRATCH_BYTES = 262_144
AT_ONCE_BYTES = 1_048_576  # a frame up to here gets its buffer in one piece
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

    __slots__ = ("_frame", "_frame_bytes_max", "_head", "_scratch", "_size", "_view", "broken", "filled")

    def __init__(self, scratch: memoryview, frame_bytes_max: int) -> None:
        self._scratch = scratch
        self._frame_bytes_max = frame_bytes_max
        self._head = b""  # up to three bytes of a size that is not complete
        self._frame: bytearray | None = None
        self._view = scratch
        self._size = 0
        self.broken = ""
        self.filled = 0  # bytes that have arrived of the unfinished frame

    @property
    def unfinished(self) -> bool:
        """True within a frame."""
        return self._frame is not None or bool(self._head)

    def buffer(self) -> memoryview:
        """The memory to receive into; valid until the next call of `received`."""
        if self._frame is not None:
            return self._view[self.filled :]
        if self._head:
            self._scratch[: len(self._head)] = self._head
            return self._scratch[len(self._head) :]
        return self._scratch

    def received(self, nbytes: int) -> list[Frame]:
        """Frames (without their sizes) completed by the `nbytes` just received."""
        if self._frame is None:
            return self._cut(len(self._head) + nbytes)
        self.filled += nbytes
        if self.filled < len(self._frame):
            return []
        if self.filled < self._size:
            self._grow()
            return []
        frame, self._frame, self._view, self.filled = self._frame, None, self._scratch, 0
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
        self._size, self.filled = size, len(arrived)
        self._frame = bytearray(min(size, max(AT_ONCE_BYTES, GROWTH * self.filled)))
        self._view = memoryview(self._frame)
        self._view[: self.filled] = arrived

    def _grow(self) -> None:
        """Enlarge the buffer of a large frame that has proved itself; at most a third of the frame is copied in all."""
        larger = bytearray(min(self._size, GROWTH * self.filled))
        view = memoryview(larger)
        view[: self.filled] = self._view
        self._frame, self._view = larger, view


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

    At `bytes_max` everybody pauses until a quarter is free again. If only unfinished frames hold the memory, waiting
    would never end, so the one that has most is `favoured` and read to its end: the bound is `bytes_max` and one frame,
    and one receive of each connection. Time-outs against those that then send nothing are the server's.
    """

    def __init__(self, bytes_max: int, readers: Iterable[Reader]) -> None:
        self.bytes_max = bytes_max
        self.unfinished_bytes = 0
        self.complete_bytes = 0
        self.full = False
        self.favoured: Reader | None = None
        self._readers = readers

    @property
    def held_bytes(self) -> int:
        """All that is held now."""
        return self.unfinished_bytes + self.complete_bytes

    def may_read(self, reader: Reader) -> bool:
        """Whether this connection may receive."""
        return not self.full or self.favoured is reader

    def count(self, unfinished: int, complete: int) -> None:
        """Add (or, negative, give back) bytes of unfinished and of complete frames."""
        self.unfinished_bytes += unfinished
        self.complete_bytes += complete
        held = self.unfinished_bytes + self.complete_bytes
        if self.full:
            self._relieve(held)
        elif held >= self.bytes_max:
            self.full = True
            self._relieve(held)
            self._update_all()

    def _relieve(self, held: int) -> None:
        if held <= self.bytes_max * 3 // 4:
            self.full, self.favoured = False, None
            self._update_all()
        elif self.favoured is not None and not self.favoured.unfinished_bytes:
            self._favour(None)
        if self.full and self.favoured is None and self.complete_bytes <= 0 < self.unfinished_bytes:
            self._favour(max(self._readers, key=lambda reader: reader.unfinished_bytes, default=None))

    def _favour(self, reader: Reader | None) -> None:
        before, self.favoured = self.favoured, reader
        for changed in (before, reader):
            if changed is not None:
                changed.update_reading()

    def _update_all(self) -> None:
        for reader in list(self._readers):
            reader.update_reading()
