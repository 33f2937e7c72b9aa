"""Config resources: what may be told of the storage and of other workers."""

from __future__ import annotations

import pytest

from redbroker.broker.api import describe_configs
from redbroker.broker.resources import log_dir
from redbroker.config import Settings
from tests.broker.api.conftest import doors  # noqa: F401  # the fixture
from tests.support.door import Door, only


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://user:pa/ss@host:6379/0?password=secret", "redis://host:6379/0"),
        ("redis+sentinel://:secret@a:1,b:2/main", "redis+sentinel://a:1,b:2/main"),
        ("redis://host:1#secret", "redis://host:1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("embedded:/var/lib/redbroker", "embedded:/var/lib/redbroker"),
    ],
)
def test_the_log_directory_is_the_storage_without_its_password(url: str, told: str) -> None:
    assert log_dir(Settings(storage_url=url)) == told  # type: ignore[call-arg]  # all others have defaults


@pytest.mark.anyio
async def test_any_worker_tells_the_address_and_rack_of_the_worker_asked_for(doors: list[Door]) -> None:  # noqa: F811
    other = doors[1].engine.workers
    resource = describe_configs.API.request.struct("resources")(4, str(other.node_id), None)
    configs = {
        each.name: each.value
        for each in only(await doors[0].ask(describe_configs.API, 4, resources=[resource]), "results").configs
    }
    assert (configs["node.id"], configs["broker.rack"]) == (str(other.node_id), "rack1")
    assert configs["advertised.listeners"] == "PLAINTEXT://127.0.0.1:19093"
