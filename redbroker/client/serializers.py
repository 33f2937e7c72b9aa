"""Values as bytes and back: bytes, text, JSON, and typed ones by dataclass, pydantic or msgspec.

    encode, decode = serializer_for(Order)
    Producer(…, value_serializer=encode)

An encoder takes None to None: that is a deletion in a compacted topic, not a value. What a decoder cannot read it
refuses with ValueError or TypeError; `decoded` makes that one sentence with topic, partition and offset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from redbroker.client.errors import DeserializationError
from redbroker.client.types import ConsumerRecord

__all__ = ["BYTES", "JSON", "STR", "Serializer", "decoded", "serializer_for"]


class Serializer(NamedTuple):
    """Both ways of one type: `encode(value) -> bytes | None`, `decode(bytes | None) -> value`."""

    encode: Callable[[Any], bytes | None]
    decode: Callable[[bytes | None], Any]


def _pass(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"bytes are expected, not {type(value).__name__}")


def _encode_text(value: Any) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"str is expected, not {type(value).__name__}")
    return value.encode()


BYTES = Serializer(_pass, lambda data: data)
STR = Serializer(_encode_text, lambda data: None if data is None else data.decode())
JSON = Serializer(
    lambda value: None if value is None else orjson.dumps(value),
    lambda data: None if data is None else orjson.loads(data),
)
"""Whatever orjson takes: dict, list, str, numbers, dataclasses, datetimes, UUIDs."""


def serializer_for(kind: Any) -> Serializer:
    """The serializer of a type: bytes, str, `dict`, `list` or Any (JSON), a dataclass, a pydantic model, a msgspec
    Struct, or any other annotation that pydantic can validate (`int`, `list[Order]`, `Order | Refund`).

    Typed values travel as JSON and are checked both ways. TypeError for what is no type of data.

        >>> encode, decode = serializer_for(list[int])
        >>> decode(encode([1, 2]))
        [1, 2]
    """
    if kind is bytes:
        return BYTES
    if kind is str:
        return STR
    if kind in (Any, dict, list):
        return JSON
    if hasattr(kind, "__struct_fields__"):
        return _of_struct(kind)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
    except Exception as fault:
        raise TypeError(f"{kind!r} is no type of keys or values: {fault}") from None
    exact = isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind))

    def encode(value: Any) -> bytes | None:
        if value is None:
            return None
        if exact and not isinstance(value, kind):
            raise TypeError(f"{kind.__name__} is expected, not {type(value).__name__}")
        return adapter.dump_json(value if exact else adapter.validate_python(value, strict=True))

    def decode(data: bytes | None) -> Any:
        return None if data is None else adapter.validate_json(data)

    return Serializer(encode, decode)


def _of_struct(kind: Any) -> Serializer:
    """A msgspec Struct, by msgspec itself."""
    import msgspec

    encoder, decoder = msgspec.json.Encoder(), msgspec.json.Decoder(kind)

    def encode(value: Any) -> bytes | None:
        if value is None:
            return None
        if not isinstance(value, kind):
            raise TypeError(f"{kind.__name__} is expected, not {type(value).__name__}")
        return bytes(encoder.encode(value))

    return Serializer(encode, lambda data: None if data is None else decoder.decode(data))


def decoded(record: ConsumerRecord, key: Serializer, value: Serializer) -> ConsumerRecord:
    """A record of bytes with its key and value decoded; `DeserializationError` names the record and the part."""
    part = "key"
    try:
        made = key.decode(record.key)
        part = "value"
        return record._replace(key=made, value=value.decode(record.value))
    except Exception as fault:
        why = str(fault)
        if isinstance(fault, ValidationError):
            first = fault.errors(include_url=False, include_input=False)[0]
            why = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        place = f"{record.topic}-{record.partition} at offset {record.offset}"
        raise DeserializationError(f"The {part} of {place} cannot be decoded: {why}", record) from fault
