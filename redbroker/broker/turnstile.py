"""The order in which requests of one connection reach the log, where some of them have to wait for something first.

Requests run side by side, and what awaits nothing keeps its order by itself. One that must wait before it appends (for
a topic this worker has not heard of) takes a ticket; so does every request behind it until the ticket is given back:

    1 takes a ticket, asks Redis      2 takes a ticket, waits for 1      3 finds nobody waiting: passes
    1 appends, gives it back ───────► 2 appends, gives it back
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Ticket", "Turnstile"]

Ticket = asyncio.Future[None]


class Turnstile:
    """The tickets of one connection, in order."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()

    @property
    def busy(self) -> bool:
        """True while somebody waits, or has yet to append: whoever comes now takes a ticket too."""
        return bool(self._tickets)

    def ticket(self) -> Ticket:
        """The last place; await it before appending, then `give_back` whatever happened."""
        ticket: Ticket = asyncio.get_running_loop().create_future()
        if not self._tickets:
            ticket.set_result(None)
        self._tickets.append(ticket)
        return ticket

    def give_back(self, ticket: Ticket) -> None:
        """Let the next one pass."""
        self._tickets.remove(ticket)
        if self._tickets and not self._tickets[0].done():
            self._tickets[0].set_result(None)
