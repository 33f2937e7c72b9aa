"""The registry of APIs, and the document made from it."""

from __future__ import annotations

import pytest

from redbroker.broker.api import APIS, Api, load, span
from redbroker.broker.api.__main__ import table
from redbroker.errors import ErrorCode, KafkaError

load()


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_every_api_is_whole(api: Api) -> None:
    assert api.handler is not None
    assert api.advertised[0] <= api.low <= api.high == api.advertised[1]
    assert api.doc.startswith(f"{api.name}:"), "the first line of the module says what the API does"


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_every_api_can_tell_a_refusal_in_every_version(api: Api) -> None:
    assert api.refusal is not None
    for version in range(api.low, api.high + 1):
        codec = api.codec(version)
        body: list[bytes] = []
        error = KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR)
        request = api.Request(acks=-1) if api.name == "Produce" else api.Request()
        codec.encode(api.refusal(request, error, version), body.append)
        assert body


def test_two_modules_cannot_claim_one_key() -> None:
    taken = next(iter(APIS.values()))

    async def handler(request: object, ctx: object) -> None:
        return None

    with pytest.raises(ValueError, match=taken.name):
        Api(taken.key, "Second", "0", None, "", "")(handler)


def test_a_version_range_may_be_a_single_version() -> None:
    assert span("3") == (3, 3)
    assert span("0-12") == (0, 12)


def test_the_table_has_one_line_per_api_in_key_order() -> None:
    rows = [line for line in table().splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [int(row.split("|")[1]) for row in rows] == sorted(APIS)
    assert "| 0 | Produce | 3-13 | 0-13 |" in table()
