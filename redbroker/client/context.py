"""What a handler gets beside the value: the record it came in, and a way to send more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redbroker.client.retries import Failure
from redbroker.client.types import ConsumerRecord, Sent

__all__ = ["Context"]

Send = Callable[..., Awaitable[Sent]]


class Context:
    """One attempt at one record.

    `record` has key and value as the topic's types; `attempt` is 1 the first time; `origin` tells where the record was
    first sent, which differs from `record` in a retry.

        async def bill(order: Order, ctx: Context) -> None:
            await ctx.send("invoices", Invoice(order.id), key=ctx.key)
    """

    __slots__ = ("_send", "attempt", "group", "origin", "record")

    def __init__(self, record: ConsumerRecord, origin: Failure, group: str, send: Send) -> None:
        self.record, self.origin, self.group, self._send = record, origin, group, send
        self.attempt = origin.attempts + 1

    @property
    def key(self) -> Any:
        """The record's key."""
        return self.record.key

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """The record's headers, in order; a name may come more than once."""
        return self.record.headers

    async def send(self, topic: str, value: Any, *, key: Any = None, headers: Any = ()) -> Sent:
        """Send a record and wait until it is stored; as the topic's declared types, if the app declares it.

        It is stored before this record counts as done: a crash in between repeats both. DeliveryError when it fails.
        """
        return await self._send(topic, value, key=key, headers=headers)
