"""InitProducerId: every idempotent producer gets an id of its own; transactional ones are told the truth."""

from __future__ import annotations

import pytest

from redbroker.broker.api.init_producer_id import API
from redbroker.errors import ErrorCode
from tests.support.door import Door

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_a_null_transactional_id_gets_a_fresh_id_with_epoch_0_in_every_version(door: Door, version: int) -> None:
    answers = [await door.ask(API, version, transactional_id=None, transaction_timeout_ms=1) for _ in range(100)]
    assert {answer.error_code for answer in answers} == {ErrorCode.NONE}
    assert {answer.producer_epoch for answer in answers} == {0}
    ids = {answer.producer_id for answer in answers}
    assert len(ids) == 100
    assert all(0 <= one < 2**63 for one in ids)


async def test_a_producer_that_names_its_old_id_still_gets_a_fresh_one(door: Door) -> None:
    answer = await door.ask(API, 4, transactional_id=None, producer_id=4711, producer_epoch=3)
    assert answer.producer_id not in (-1, 4711)
    assert answer.producer_epoch == 0


async def test_a_transactional_id_is_refused_with_an_error_that_no_client_retries_for_ever(door: Door) -> None:
    answer = await door.ask(API, 4, transactional_id="orders-1", transaction_timeout_ms=60_000)
    assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
    assert not ErrorCode(answer.error_code).retriable
    assert (answer.producer_id, answer.producer_epoch) == (-1, -1)


async def test_an_empty_transactional_id_is_an_invalid_request(door: Door) -> None:
    answer = await door.ask(API, 4, transactional_id="")
    assert answer.error_code == ErrorCode.INVALID_REQUEST
