"""The typed service, without a server."""

from __future__ import annotations

import pytest

from examples.typed_service import Invoice, Order, app, banks_away, closed_accounts

pytestmark = pytest.mark.anyio


async def test_orders_become_invoices_or_wait_or_are_put_aside() -> None:
    banks_away.add("bob")
    closed_accounts.add("eve")
    async with app.test() as t:
        await t.send("orders", Order(1, "ann", 500), key="ann")
        await t.send("orders", Order(2, "bob", 700), key="bob")
        await t.send("orders", Order(3, "eve", 900), key="eve")
        assert await t.sent("invoices") == [Invoice(1, 500)]
        assert len(await t.records("orders.dlq")) == 1
        await t.advance(1)
        assert len(await t.sent("invoices")) == 1
        await t.advance(2)
        assert sorted(each.order for each in await t.sent("invoices")) == [1, 2]
