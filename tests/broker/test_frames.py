"""Frames are cut right however the bytes arrive, and announcements cost no memory."""

from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from redbroker.broker.frames import AT_ONCE_BYTES, GROWTH, FrameBudget, FrameReader

FRAME_BYTES_MAX = 1 << 24


def feed(reader: FrameReader, data: bytes, pieces: list[int]) -> list[bytes]:
    """What an event loop does: receives at most `pieces[i]` bytes at a time, never more than the buffer takes."""
    frames: list[bytes] = []
    pos = turn = 0
    while pos < len(data) and not reader.broken:
        buffer = reader.buffer()
        nbytes = min(len(buffer), pieces[turn % len(pieces)], len(data) - pos)
        buffer[:nbytes] = data[pos : pos + nbytes]
        pos, turn = pos + nbytes, turn + 1
        frames += map(bytes, reader.received(nbytes))
    return frames


@given(
    st.lists(st.binary(min_size=8, max_size=300), max_size=20),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.integers(4, 128),
)
def test_frames_are_cut_whatever_the_pieces_they_arrive_in(
    frames: list[bytes], pieces: list[int], scratch: int
) -> None:
    reader = FrameReader(memoryview(bytearray(scratch)), FRAME_BYTES_MAX)
    data = b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)
    assert feed(reader, data, pieces) == frames
    assert not reader.unfinished
    assert reader.held_bytes == 0


def test_connections_share_one_scratch_buffer_without_mixing_their_bytes() -> None:
    scratch = memoryview(bytearray(64))
    readers = [FrameReader(scratch, FRAME_BYTES_MAX) for _ in range(5)]
    sent = [[bytes([65 + number]) * (8 + 7 * n) for n in range(20)] for number in range(5)]
    streams = [b"".join(struct.pack(">i", len(frame)) + frame for frame in frames) for frames in sent]
    got: list[list[bytes]] = [[] for _ in readers]
    chance = random.Random(1)
    while any(streams):
        number = chance.randrange(5)
        nbytes = min(chance.randint(1, 40), len(streams[number]))
        piece, streams[number] = streams[number][:nbytes], streams[number][nbytes:]
        got[number] += feed(readers[number], piece, [nbytes])
    assert got == sent


def test_a_frame_given_out_is_not_overwritten_by_the_next() -> None:
    reader = FrameReader(memoryview(bytearray(64)), FRAME_BYTES_MAX)
    first = struct.pack(">i", 8) + b"A" * 8
    [frame] = feed(reader, first, [64])
    feed(reader, struct.pack(">i", 8) + b"B" * 8, [64])
    assert frame == b"A" * 8


def test_a_large_frame_arrives_whole_through_growing_buffers() -> None:
    reader = FrameReader(memoryview(bytearray(1 << 16)), FRAME_BYTES_MAX)
    frame = random.Random(2).randbytes(9_000_000)
    [got] = feed(reader, struct.pack(">i", len(frame)) + frame, [1 << 15, 70_000])
    assert got == frame


def test_the_buffer_of_an_announced_frame_follows_what_really_arrives() -> None:
    reader = FrameReader(memoryview(bytearray(1 << 16)), 1 << 30)
    feed(reader, struct.pack(">i", 1 << 30) + b"x" * 10, [1 << 16])
    arrived = 10
    while arrived < 20_000_000:
        buffer = reader.buffer()
        assert arrived + len(buffer) == reader.held_bytes <= max(AT_ONCE_BYTES, GROWTH * arrived)
        nbytes = min(len(buffer), 100_000)
        reader.received(nbytes)
        arrived += nbytes


@given(st.integers(-(2**31), 2**31 - 1).filter(lambda size: not 8 <= size <= 1_000))
def test_an_impossible_size_breaks_the_stream_after_the_frames_before_it(size: int) -> None:
    reader = FrameReader(memoryview(bytearray(4_096)), 1_000)
    good = struct.pack(">i", 8) + b"A" * 8
    assert feed(reader, good + struct.pack(">i", size) + good, [4_096]) == [b"A" * 8]
    assert str(size) in reader.broken


class Paused:
    """A connection of the budget that remembers whether it may read."""

    def __init__(self) -> None:
        self.unfinished_bytes = 0
        self.budget: FrameBudget | None = None
        self.reads = True

    def update_reading(self) -> None:
        """Ask the budget."""
        assert self.budget is not None
        self.reads = self.budget.may_read(self)

    def receive(self, nbytes: int) -> None:
        """More of the unfinished frame."""
        assert self.budget is not None
        self.unfinished_bytes += nbytes
        self.budget.count(nbytes, 0)

    def complete(self) -> int:
        """The unfinished frame is whole; gives its bytes."""
        assert self.budget is not None
        nbytes, self.unfinished_bytes = self.unfinished_bytes, 0
        self.budget.count(-nbytes, nbytes)
        return nbytes


def budget_of(count: int, bytes_max: int) -> tuple[FrameBudget, list[Paused]]:
    readers = [Paused() for _ in range(count)]
    budget = FrameBudget(bytes_max, readers)
    for reader in readers:
        reader.budget = budget
    return budget, readers


def test_everybody_pauses_at_the_bound_and_goes_on_when_a_quarter_is_free() -> None:
    budget, readers = budget_of(3, 1_000)
    budget.count(0, 1_001)
    assert [reader.reads for reader in readers] == [False] * 3
    budget.count(0, -100)
    assert [reader.reads for reader in readers] == [False] * 3
    budget.count(0, -200)
    assert [reader.reads for reader in readers] == [True] * 3


def test_unfinished_frames_take_half_and_leave_the_rest_to_small_requests() -> None:
    budget, readers = budget_of(4, 1_000)
    for reader, nbytes in zip(readers[:3], (160, 180, 170), strict=True):
        reader.receive(nbytes)
    assert budget.crowded
    assert [reader.reads for reader in readers] == [False, True, False, True]
    budget.count(0, 400)
    assert readers[3].reads
    budget.count(0, -400)
    readers[1].receive(200)
    held = readers[1].complete()
    assert [reader.reads for reader in readers] == [True] * 4
    budget.count(0, -held)


def test_the_largest_unfinished_frame_is_read_on_when_nothing_else_can_free_memory() -> None:
    budget, readers = budget_of(3, 1_000)
    budget.count(0, 100)  # a parked request, which may stay for long
    for reader, nbytes in zip(readers, (300, 400, 300), strict=True):
        reader.receive(nbytes)
    assert budget.full
    assert [reader.reads for reader in readers] == [False, True, False]
    readers[1].receive(200)
    held = readers[1].complete()
    assert not readers[1].reads  # its request runs and will free enough: nobody else may read until then
    budget.count(0, -held)
    assert not budget.full


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(100, 2_000))
def test_the_budget_never_leaves_everybody_waiting_for_nothing(seed: int, count: int, bytes_max: int) -> None:
    chance = random.Random(seed)
    budget, readers = budget_of(count, bytes_max)
    running: list[int] = []
    for _ in range(200):
        readable = [reader for reader in readers if reader.reads]
        assert readable or running
        if running and (not readable or chance.random() < 0.4):
            budget.count(0, -running.pop())
        else:
            reader = chance.choice(readable)
            reader.receive(chance.randint(1, 300))
            if chance.random() < 0.3:
                running.append(reader.complete())
        assert budget.held_bytes == sum(running) + sum(reader.unfinished_bytes for reader in readers)
