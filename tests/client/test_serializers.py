"""What goes in comes out again; what does not fit is refused in one sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from redbroker.client.errors import DeserializationError
from redbroker.client.serializers import BYTES, JSON, STR, decoded, serializer_for
from redbroker.client.types import ConsumerRecord


@dataclasses.dataclass
class Order:
    """A dataclass of this test."""

    id: int
    items: list[str]


class Refund(BaseModel):
    """A pydantic model of this test."""

    order: int


class Parcel(msgspec.Struct):
    """A msgspec struct of this test."""

    id: int
    to: str | None = None


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (bytes, b"\xff"), (str, "é"), (dict, {"a": [1, None]}), (list, [1]), (Any, 1.5), (int, 7),
        (Order, Order(1, ["tea"])), (Refund, Refund(order=1)), (list[int], [1, 2]),
        (Parcel, Parcel(3, "é")),
    ],
)  # fmt: skip
def test_what_goes_in_comes_out(kind: Any, value: Any) -> None:
    encode, decode = serializer_for(kind)
    data = encode(value)
    assert isinstance(data, bytes)
    assert decode(data) == value and type(decode(data)) is type(value)
    assert encode(None) is None and decode(None) is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [(bytes, "text"), (str, b"bytes"), (Order, {"id": 1}), (Refund, Order(1, [])), (int, "7"), (Parcel, {"id": 3})],
)
def test_what_is_of_another_type_is_not_sent(kind: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        serializer_for(kind).encode(value)


def test_what_is_no_type_of_data_is_refused_when_it_is_named() -> None:
    with pytest.raises(TypeError, match="is no type of keys or values"):
        serializer_for(object())


def test_what_cannot_be_decoded_is_told_with_its_place() -> None:
    record = ConsumerRecord("orders", 2, 41, 0, b"k", b'{"order": "x"}')
    with pytest.raises(
        DeserializationError, match="The value of orders-2 at offset 41 cannot be decoded: order: "
    ) as no:
        decoded(record, STR, serializer_for(Refund))
    assert no.value.record is record
    with pytest.raises(DeserializationError, match="The key of orders-2 at offset 41"):
        decoded(record._replace(key=b"\xff"), STR, BYTES)
    with pytest.raises(DeserializationError, match="The value"):
        decoded(record._replace(value=b"{"), STR, JSON)
    for wrong in (b'{"id": "x"}', b"{}", b"{", b"\xff"):
        with pytest.raises(DeserializationError, match="The value of orders-2 at offset 41 cannot be decoded: "):
            decoded(record._replace(value=wrong), STR, serializer_for(Parcel))
    assert decoded(record, STR, JSON)[4:6] == ("k", {"order": "x"})
