"""A typed service: orders in, invoices out; what fails is tried again later, and at last put aside.

python -m examples.typed_service            # needs Redis or Valkey at localhost:6379; Ctrl-C drains and leaves
"""

from __future__ import annotations

from dataclasses import dataclass

from redbroker import Context, RedBroker, Retry


@dataclass
class Order:
    """What customers send."""

    id: int
    customer: str
    cents: int


@dataclass
class Invoice:
    """What they get."""

    order: int
    cents: int


class BankAwayError(Exception):
    """Worth another try."""


app = RedBroker("redis://localhost:6379")
orders = app.topic("orders", key=str, value=Order, partitions=12)
invoices = app.topic("invoices", key=str, value=Invoice)
closed_accounts: set[str] = set()
banks_away: set[str] = set()


@orders.subscribe(
    group="billing",
    parallel_by_key=16,
    retry=Retry(attempts=5, backoff="exp", backoff_s=1, on=(BankAwayError,)),
    dlq="orders.dlq",
    undecodable="dead-letter",
    to="invoices",
)
async def bill(order: Order, ctx: Context) -> Invoice | None:
    """One invoice per order; 16 orders at once, those of one customer in order."""
    if order.customer in closed_accounts:
        raise ValueError(f"{order.customer} has no account")  # no retry helps: to orders.dlq at once
    if order.customer in banks_away and ctx.attempt < 3:
        raise BankAwayError
    return Invoice(order.id, order.cents) if order.cents else None


if __name__ == "__main__":
    app.run()
