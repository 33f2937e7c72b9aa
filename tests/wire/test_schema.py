"""Every table of every API module against codecs that others wrote: kafka-python's, and kio's generated ones.

Both are only fed valid messages; our own decoders get the broken ones too. An API added to the registry is covered
without a change here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import importlib
import random
from typing import Any

import pytest
from kio import index as kio_index
from kio import serial as kio_serial

from redbroker.broker.api import APIS, load
from redbroker.wire.schema import Field, MalformedMessage, Struct, decoder
from tests.wire.samples import broken, encoded, object_of

load()
MESSAGES_EACH = 12
BROKEN_MESSAGES_EACH = 30
KAFKA_PYTHON = [
    importlib.import_module(f"kafka.protocol.{name}") for name in ("admin", "consumer", "metadata", "producer", "sasl")
]
SIDES = [(api, side) for api in APIS.values() for side in ("request", "response")]


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else value.name


def kafka_python_class(name: str) -> Any:
    return next((getattr(module, name) for module in KAFKA_PYTHON if hasattr(module, name)), None)


def as_kafka_python(struct: Struct, value: Any, cls: Any, version: int, flexible: bool) -> Any:
    """Our object as one of kafka-python's; tagged fields only where they differ from their defaults."""
    fields = cls._struct.fields
    values = {}
    for line in struct.plain(version, flexible) + struct.tagged(version, flexible):
        mine = getattr(value, line.name)
        if line.tag is not None and flexible and is_default(line, mine):
            continue
        if line.name in fields and line.name != "authorized_operations":
            values[line.name] = convert(line, mine, fields[line.name], version, flexible)
        else:  # (topic_, cluster_)authorized_operations: a set of bits over there
            values["authorized_operations"] = {bit for bit in range(32) if mine >> bit & 1}
    return cls(version=version, **values)


def is_default(line: Field, value: Any) -> bool:
    if line.struct is not None and not line.array and line.nulls is None:
        return bool(value == line.struct.cls())
    return bool(value == line.default)


def convert(line: Field, value: Any, theirs: Any, version: int, flexible: bool) -> Any:
    if value is None or line.struct is None:
        return value
    if line.array:
        return [as_kafka_python(line.struct, item, theirs.data_class, version, flexible) for item in value]
    return as_kafka_python(line.struct, value, theirs.data_class, version, flexible)


def same(struct: Struct, mine: Any, theirs: Any, version: int, flexible: bool) -> None:
    """Compares our object with a kio entity, in which durations, times and error codes have types of their own."""
    live = [line for line in struct.fields if version in line.versions]
    members = dataclasses.fields(theirs)
    assert len(live) == len(members), (struct.name, [f.name for f in live], [m.name for m in members])
    by_name = {m.name: getattr(theirs, m.name) for m in members}
    for line, member in zip(live, members, strict=True):
        value = by_name[line.name] if line.name in by_name else getattr(theirs, member.name)
        compare(line, getattr(mine, line.name), value, version, flexible)


def compare(line: Field, mine: Any, theirs: Any, version: int, flexible: bool) -> None:
    if mine is None or (line.type == "uuid" and mine.int == 0):
        assert theirs is None or theirs.int == 0, line.name
    elif line.array:
        assert len(mine) == len(theirs), line.name
        for left, right in zip(mine, theirs, strict=True):
            compare(line.item, left, right, version, flexible)
    elif line.struct is not None:
        same(line.struct, mine, theirs, version, flexible)
    elif isinstance(theirs, datetime.timedelta):
        assert theirs == datetime.timedelta(milliseconds=mine), line.name
    elif isinstance(theirs, datetime.datetime):
        assert round(theirs.timestamp() * 1000) == mine, line.name
    elif isinstance(theirs, enum.Enum):
        assert theirs.value == mine, line.name
    else:
        assert theirs == mine, line.name


@pytest.mark.parametrize(("api", "side"), SIDES, ids=name_of)
def test_kafka_python_writes_the_same_bytes(api: Any, side: str) -> None:
    struct: Struct = getattr(api, side)
    cls = kafka_python_class(api.name + side.capitalize())
    versions = [v for v in range(api.low, api.high + 1) if cls is not None and v <= cls.max_version]
    if not versions:
        pytest.skip("kafka-python does not know it")
    dice = random.Random(struct.name)
    for version in versions:
        flexible = version >= api.flexible
        assert flexible == cls.flexible_version_q(version), f"v{version}"
        for _ in range(MESSAGES_EACH):
            message = object_of(dice, struct, version)
            data = encoded(struct, version, flexible, message)
            theirs = as_kafka_python(struct, message, cls, version, flexible)
            assert data == bytes(theirs.encode(version=version)), f"v{version} {message}"
            again, pos = decoder(struct, version, flexible)(data, 0)
            assert pos == len(data)
            assert encoded(struct, version, flexible, again) == data


@pytest.mark.parametrize(("api", "side"), SIDES, ids=name_of)
def test_kio_reads_the_same_values(api: Any, side: str) -> None:
    """At the lowest and highest version, and at those that kafka-python does not know: kio is slow to load."""
    struct: Struct = getattr(api, side)
    dice = random.Random(struct.name)
    cls = kafka_python_class(api.name + side.capitalize())
    other_knows = -1 if cls is None else cls.max_version
    known = 0
    for version in sorted({api.low, api.high, *range(max(api.low, other_knows + 1), api.high + 1)}):
        try:
            load_schema = kio_index.load_request_schema if side == "request" else kio_index.load_response_schema
            entity = load_schema(api.key, version)
        except (kio_index.UnknownEntity, kio_index.UnknownAPIKey):
            continue
        known += 1
        flexible = version >= api.flexible
        assert flexible == entity.__flexible__, f"v{version}"
        read = kio_serial.entity_reader(entity)
        for _ in range(MESSAGES_EACH):
            message = object_of(dice, struct, version, tame=True)
            data = encoded(struct, version, flexible, message)
            theirs, size = read(data, 0)
            assert size == len(data), f"v{version} {message}"
            same(struct, message, theirs, version, flexible)
    if not known:
        pytest.skip("kio does not know it")


@pytest.mark.parametrize(("api", "side"), SIDES, ids=name_of)
def test_broken_messages_are_malformed_and_nothing_else(api: Any, side: str) -> None:
    struct: Struct = getattr(api, side)
    dice = random.Random(struct.name)
    for version in range(api.low, api.high + 1):
        flexible = version >= api.flexible
        decode = decoder(struct, version, flexible)
        valid = [encoded(struct, version, flexible, object_of(dice, struct, version)) for _ in range(3)]
        for _ in range(BROKEN_MESSAGES_EACH):
            data = broken(dice, dice.choice(valid))
            with contextlib.suppress(MalformedMessage):
                _, pos = decode(data, 0)
                assert pos <= len(data)
