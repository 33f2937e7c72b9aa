"""Topics that another worker made a moment ago are found by asking Redis; known ones cost no wait."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from redbroker.broker.lookup import find_topic
from redbroker.engine.topics import Topic

pytestmark = pytest.mark.anyio


class Topics:
    """A cache that lags behind what is stored."""

    def __init__(self, *stored: Topic) -> None:
        self.stored = stored
        self.known: list[Topic] = []
        self.asked = 0

    def get(self, name: str) -> Topic | None:
        return next((each for each in self.known if each.name == name), None)

    def by_id(self, topic_id: uuid.UUID) -> Topic | None:
        return next((each for each in self.known if each.id == topic_id), None)

    async def find(self, name: str) -> Topic | None:
        await self.reload()
        return self.get(name)

    async def reload(self) -> None:
        self.asked += 1
        self.known = list(self.stored)


@pytest.mark.parametrize("by_id", [False, True])
async def test_an_unheard_of_topic_is_asked_for_once_and_then_known(by_id: bool) -> None:
    topic = Topic("orders", uuid.uuid4(), 1)
    topics: Any = Topics(topic)
    wanted = ("", topic.id) if by_id else ("orders",)
    assert await find_topic(topics, *wanted) is topic
    assert await find_topic(topics, *wanted) is topic
    assert topics.asked == 1


async def test_a_topic_nobody_made_is_none() -> None:
    topics: Any = Topics()
    assert await find_topic(topics, "orders") is None
    assert await find_topic(topics, "", uuid.uuid4()) is None
