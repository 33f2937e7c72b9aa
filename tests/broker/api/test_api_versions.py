"""The first request of every client: what is advertised is what is implemented, and any client can read it."""

from __future__ import annotations

import struct
from typing import Any, cast

import pytest

from redbroker.broker.api import APIS, api_versions, load
from redbroker.broker.dispatch import answer, read_request
from redbroker.broker.server import Server
from redbroker.config import Settings
from redbroker.wire import schema
from tests.support.raw import RawEngine

load()
pytestmark = pytest.mark.anyio
API = api_versions.API


async def ask(version: int, body: bytes) -> bytes:
    """The answer's frame, without its size."""
    flexible = b"\0" if version >= 3 else b""
    frame = struct.pack(">hhih", 18, version, 41, 2) + b"me" + flexible + body
    server = Server(cast("Any", RawEngine()), Settings())
    segments = await answer(read_request(frame), server.broker, "somewhere")
    assert segments is not None
    data = b"".join(segments)
    assert struct.unpack_from(">ii", data) == (len(data) - 4, 41)
    return data[4:]


def decoded(frame: bytes, version: int) -> Any:
    """The body, which always begins right after the correlation id: the header is v0 (KIP-511)."""
    response, end = schema.decoder(API.response, version, version >= 3)(frame, 4)
    assert end == len(frame)
    return response


def software(name: str, version: str) -> bytes:
    return b"".join(bytes([len(text) + 1]) + text.encode() for text in (name, version)) + b"\0"


@pytest.mark.parametrize("version", range(5))
async def test_every_version_lists_the_registry(version: int) -> None:
    response = decoded(await ask(version, software("a-client", "1.2.3") if version >= 3 else b""), version)
    assert response.error_code == 0
    listed = {key.api_key: (key.min_version, key.max_version) for key in response.api_keys}
    assert listed == {key: api.advertised for key, api in APIS.items()}
    assert [key.api_key for key in response.api_keys] == sorted(APIS)
    assert response.throttle_time_ms == 0


@pytest.mark.parametrize(("version", "lowest"), [(3, 1), (4, 0)])
async def test_the_consumer_protocol_is_a_finalized_feature_and_the_only_one(version: int, lowest: int) -> None:
    response = decoded(await ask(version, software("a", "1")), version)
    assert [(f.name, f.min_version, f.max_version) for f in response.supported_features] == [
        ("group.version", lowest, 1)
    ]
    [finalized] = response.finalized_features
    assert (finalized.name, finalized.min_version_level, finalized.max_version_level) == ("group.version", 1, 1)
    assert response.finalized_features_epoch >= 0
    assert {68, 69} <= {key.api_key for key in response.api_keys}


@pytest.mark.parametrize("version", [5, 9, 32_767, -1])
async def test_an_unknown_version_is_told_in_a_v0_body_that_lists_everything(version: int) -> None:
    response = decoded(await ask(version, b"whatever a newer client may send"), 0)
    assert response.error_code == 35
    assert [key.api_key for key in response.api_keys] == sorted(APIS)


@pytest.mark.parametrize("name", ["", "-client", "client-", "a client", "client\n", "ünïcode", "a/b"])
@pytest.mark.parametrize("version", [3, 4])
async def test_a_malformed_software_name_or_version_is_an_invalid_request(name: str, version: int) -> None:
    if len(name) == len(name.encode()):
        assert decoded(await ask(version, software(name, "1.0")), version).error_code == 42
        assert decoded(await ask(version, software("client", name)), version).error_code == 42


@pytest.mark.parametrize("name", ["a", "apache-kafka-java", "librdkafka", "confluent.net", "A1"])
async def test_sound_software_names_are_taken(name: str) -> None:
    assert decoded(await ask(3, software(name, "4.2.0")), 3).error_code == 0


def test_produce_is_advertised_from_the_versions_that_clients_test_for() -> None:
    assert APIS[0].advertised[0] == 0 < APIS[0].low
