"""Topics by name or id, also those this worker has not heard of yet.

A client learns of a topic from one worker and turns to another a millisecond later, perhaps before the announcement
came there. Told "unknown", some clients give up for good; so Redis is asked before that is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from redbroker.wire.schema import NULL_UUID

if TYPE_CHECKING:
    from redbroker.engine.topics import Topic, Topics

__all__ = ["find_topic", "known_topic"]


def known_topic(topics: Topics, name: str, topic_id: UUID) -> Topic | None:
    """The topic of this id, or of this name where the id is zero, as far as this worker knows."""
    return topics.get(name) if topic_id == NULL_UUID else topics.by_id(topic_id)


async def find_topic(topics: Topics, name: str, topic_id: UUID = NULL_UUID) -> Topic | None:
    """The same, asking Redis where this worker knows none; KafkaError where Redis is away. Known ones cost no wait."""
    topic = known_topic(topics, name, topic_id)
    if topic is not None:
        return topic
    if topic_id == NULL_UUID:
        return await topics.find(name)
    await topics.reload()
    return topics.by_id(topic_id)
