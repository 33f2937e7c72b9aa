"""DescribeCluster: who is there."""

from __future__ import annotations

import pytest

from redbroker.broker.api.describe_cluster import API
from redbroker.errors import ErrorCode
from tests.support.door import Door, only

pytestmark = pytest.mark.anyio

BROKERS, CONTROLLERS = 1, 2


@pytest.mark.parametrize("version", range(API.low, API.high + 1))
async def test_the_live_workers_the_controller_and_the_cluster_id_are_told(door: Door, version: int) -> None:
    answer = await door.ask(API, version)
    worker = only(answer, "brokers")
    assert (answer.error_code, answer.cluster_id, answer.endpoint_type) == (0, door.engine.cluster_id, BROKERS)
    assert worker.broker_id == answer.controller_id == door.broker.node_id
    assert (worker.host, worker.is_fenced) == ("127.0.0.1", False)


async def test_authorized_operations_come_only_when_asked_for(door: Door) -> None:
    assert (await door.ask(API, 2)).cluster_authorized_operations == -(2**31)
    asked = await door.ask(API, 2, include_cluster_authorized_operations=True)
    assert asked.cluster_authorized_operations == 0b1_1111_1010_0000


async def test_controllers_are_elsewhere_and_other_endpoints_unknown(door: Door) -> None:
    for version in (1, 2):
        answer = await door.ask(API, version, endpoint_type=CONTROLLERS)
        assert answer.error_code == ErrorCode.MISMATCHED_ENDPOINT_TYPE and answer.error_message
        answer = await door.ask(API, version, endpoint_type=9)
        assert answer.error_code == ErrorCode.UNSUPPORTED_ENDPOINT_TYPE and answer.error_message
