"""The bytes a producer may hold: taken by each record, given back when it is settled, waited for in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

__all__ = ["Gate", "Room"]


class Room:
    """`used` of `most` bytes. Who waits first is let in first, also before smaller ones that would fit."""

    __slots__ = ("_waiting", "most", "used")

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def fits(self, nbytes: int) -> bool:
        """Whether so many bytes may be taken at once, without overtaking anybody."""
        return self.used + nbytes <= self.most and not self._waiting

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    async def wait(self, nbytes: int) -> None:
        """Return when so many bytes are free and it is one's turn; they are not taken yet.

        Take them before the next `await`: the one behind is let in only at the end of the loop's turn.
        """
        if self.fits(nbytes):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((nbytes, turn))
        try:
            await turn
        finally:
            if not self._waiting or self._waiting[0][1] is not turn:
                self._leave(turn)
            else:
                self._waiting.popleft()
            asyncio.get_running_loop().call_soon(self._let_in)

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """Someone behind the first was cancelled."""
        self._waiting = deque(each for each in self._waiting if each[1] is not turn)

    def give(self, nbytes: int) -> None:
        """Bytes are free again."""
        self.used -= nbytes
        self._let_in()

    def _let_in(self) -> None:
        if self._waiting:
            nbytes, turn = self._waiting[0]
            if self.used + nbytes <= self.most and not turn.done():
                turn.set_result(None)


class Gate:
    """What threads may hand to an event loop ahead of it: so many records and bytes, or one that is larger."""

    def __init__(self, records: int, nbytes: int) -> None:
        self._records_max, self._nbytes_max = records, nbytes
        self._records = self._nbytes = 0
        self._moved = threading.Condition()

    def enter(self, nbytes: int) -> None:
        """Return when there is room; it is taken."""
        with self._moved:
            self._moved.wait_for(
                lambda: (
                    not self._records
                    or (self._records < self._records_max and self._nbytes + nbytes <= self._nbytes_max)
                )
            )
            self._records += 1
            self._nbytes += nbytes

    def leave(self, nbytes: int) -> None:
        """Give it back."""
        with self._moved:
            self._records -= 1
            self._nbytes -= nbytes
            self._moved.notify_all()
