"""Topics by name or id, also those this worker has not heard of yet.

A client learns of a topic from one worker and turns to another a millisecond later, perhaps before the announcement
came there. Told "unknown", some clients give up for good; so Redis is asked before that is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.schema import NULL_UUID

if TYPE_CHECKING:
    from redbroker.engine.topics import Topic, Topics

__all__ = ["find_topic", "outdated"]


async def find_topic(topics: Topics, name: str, topic_id: UUID = NULL_UUID) -> Topic | None:
    """The topic of this id, or of this name where the id is zero; None where there is none.

    A known one costs no wait. KafkaError where Redis cannot be asked.
    """
    if topic_id == NULL_UUID:
        return topics.get(name) or await topics.find(name)
    if topics.by_id(topic_id) is None:
        await topics.reload()
    return topics.by_id(topic_id)


def outdated(error: KafkaError, topics: Topics, by_id: bool = False) -> KafkaError:
    """An error of the log as it is told; UNKNOWN_TOPIC_ID: the topic was made again, and this worker has yet to hear.

    A client that asked by name has no topic id that could be unknown, and its batch would end there for good;
    NOT_LEADER_OR_FOLLOWER makes every client ask for metadata and try again.
    """
    if error.code != ErrorCode.UNKNOWN_TOPIC_ID:
        return error
    topics.changed()
    if by_id:
        return error
    return KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "The topic was deleted and made again; try again.")
