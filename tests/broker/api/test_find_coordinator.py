"""FindCoordinator: a live worker for each key, the same whoever is asked."""

from __future__ import annotations

import pytest

from redbroker.broker.api.find_coordinator import API
from redbroker.errors import ErrorCode
from tests.support.door import Door

pytestmark = pytest.mark.anyio

SHARE_KEY = "my:group:AAAAAAAAAAAAAAAAAAAAAA:0"


@pytest.mark.parametrize("version", range(4))
async def test_one_key_is_answered_by_the_response_itself_before_version_4(door: Door, version: int) -> None:
    answer = await door.ask(API, version, key="group")
    assert answer.error_code == ErrorCode.NONE
    assert (answer.node_id, answer.host, answer.port) == (door.broker.node_id, "127.0.0.1", 19_092)


@pytest.mark.parametrize("version", range(4, 7))
async def test_many_keys_are_answered_in_the_order_asked_from_version_4(doors: list[Door], version: int) -> None:
    keys = [f"group-{number}" for number in range(40)]
    answer = await doors[0].ask(API, version, key_type=0, coordinator_keys=keys)
    assert [each.key for each in answer.coordinators] == keys
    live = {worker.node_id: worker for worker in doors[0].engine.workers.live()}
    assert {each.node_id for each in answer.coordinators} == set(live)
    assert all(each.port == live[each.node_id].port for each in answer.coordinators)


async def test_every_worker_names_the_same_coordinator(doors: list[Door]) -> None:
    keys = [f"group-{number}" for number in range(40)]
    first, second = [await each.ask(API, 4, key_type=0, coordinator_keys=keys) for each in doors]
    assert first == second


async def test_transactional_ids_have_a_coordinator_too(door: Door) -> None:
    assert (await door.ask(API, 2, key="orders-1", key_type=1)).node_id == door.broker.node_id


@pytest.mark.parametrize(
    ("version", "key_type", "key", "error"),
    [
        (1, 2, SHARE_KEY, ErrorCode.INVALID_REQUEST),
        (5, 2, SHARE_KEY, ErrorCode.INVALID_REQUEST),
        (6, 2, SHARE_KEY, ErrorCode.NONE),
        (6, 2, "group:not-an-id:0", ErrorCode.INVALID_REQUEST),
        (6, 2, ":AAAAAAAAAAAAAAAAAAAAAA:0", ErrorCode.INVALID_REQUEST),
        (6, 2, "group", ErrorCode.INVALID_REQUEST),
        (6, 3, "group", ErrorCode.INVALID_REQUEST),
        (6, -1, "group", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_key_types_are_those_of_the_version(
    door: Door, version: int, key_type: int, key: str, error: ErrorCode
) -> None:
    answer = await door.ask(API, version, key=key, key_type=key_type, coordinator_keys=[key])
    told = answer if version < 4 else answer.coordinators[0]
    assert told.error_code == error
    assert (told.node_id == -1) == bool(error)


async def test_without_a_live_worker_clients_are_told_to_try_again(door: Door) -> None:
    await door.engine.workers.deregister()
    await door.engine.workers.refresh()
    answer = await door.ask(API, 4, key_type=0, coordinator_keys=["group"])
    assert answer.coordinators[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
