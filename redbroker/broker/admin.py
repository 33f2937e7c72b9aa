"""What the admin APIs share: duplicates in a request, manual assignments, bounded parallel work.

Any worker serves every admin request: topics and configs live in Redis, so there is no controller to find and
NOT_CONTROLLER is never answered.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from redbroker.broker.context import Context
from redbroker.engine.topics import Topic, check_name
from redbroker.engine.workers import Workers
from redbroker.errors import ErrorCode, KafkaError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PARALLEL_MAX = 16
"""Topics of one request that are created, grown or deleted at the same time."""

BREATH = 16
"""Items after which a taker gives other requests their turn."""

CHUNK = 1_000
"""Partitions asked of the log in one call, so that no admin request fills the storage connection."""

SENTENCE_MAX = 1_000
"""Characters of an error message in an answer."""

TOPIC_OPERATIONS = sum(1 << operation for operation in (3, 4, 5, 6, 7, 8, 10, 11))
CLUSTER_OPERATIONS = sum(1 << operation for operation in (5, 7, 8, 9, 10, 11, 12))
"""What everybody may do with a topic, and with the cluster: bits numbered by Kafka's AclOperation (KIP-430)."""


def repeated(keys: Iterable[Hashable]) -> set[Hashable]:
    """The keys that occur more than once; Kafka refuses all of their occurrences."""
    return {key for key, times in Counter(keys).items() if times > 1}


async def for_each(items: Sequence[Item], work: Callable[[Item], Awaitable[Answer]]) -> list[Answer]:
    """`work` on every item, at most `PARALLEL_MAX` at a time; the answers in the items' order."""
    answers: dict[int, Answer] = {}
    left = iter(enumerate(items))

    async def take() -> None:
        for place, item in left:
            answers[place] = await work(item)
            if place % BREATH == 0:
                await anyio.lowlevel.checkpoint()  # refusals wait for nothing: a million of them must not stop the loop

    async with anyio.create_task_group() as tasks:
        for _ in range(min(PARALLEL_MAX, len(items))):
            tasks.start_soon(take)
    return [answers[place] for place in range(len(items))]


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in their order, at most `CHUNK` at a time."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def noted(results: list[Any], ctx: Context) -> list[Any]:
    """The same results; the first error among them is the one the request is counted under."""
    ctx.error_code = next((result.error_code for result in results if result.error_code), ErrorCode.NONE)
    return results


def sentence(error: KafkaError) -> str:
    """The error's message, short enough for every version's string field whatever a client named its topics."""
    return error.message[:SENTENCE_MAX]


async def fresh(ctx: Context) -> None:
    """Hear of every change made before this request, also through other workers: tools change and then look.

    One small call when nothing has changed. While Redis is away the cache answers; changes fail by themselves.
    """
    with contextlib.suppress(KafkaError):
        await ctx.engine.topics.reload()


def existing_topic(name: str, ctx: Context) -> Topic:
    """The topic of this name; raises the refusal."""
    topic = ctx.engine.topics.get(name)
    if topic is None:
        check_name(name)
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
    return topic


def check_assignments(assignments: Sequence[Sequence[int]], workers: Workers) -> None:
    """Refuses a manual replica assignment that Kafka would refuse: INVALID_REPLICA_ASSIGNMENT, one sentence.

    A good one is accepted and has no effect: every worker serves every partition (docs/decisions on replication).
    """
    live = {worker.node_id for worker in workers.live()}
    for brokers in assignments:
        if not brokers:
            raise bad_assignment("The manual partition assignment includes an empty replica list.")
        if len(set(brokers)) < len(brokers):
            raise bad_assignment("The manual partition assignment names a broker more than once.")
        if strangers := set(brokers) - live:
            raise bad_assignment(
                f"The manual partition assignment includes broker {min(strangers)}, but no such broker is registered."
            )
        if len(brokers) != len(assignments[0]):
            raise bad_assignment("The manual partition assignment gives its partitions different numbers of replicas.")


def bad_assignment(why: str) -> KafkaError:
    return KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, why)
