"""Server-side assignors of KIP-848: who should read which partition, as pure functions.

    assignor(subscribers, partitions, current) -> target

`subscribers` are the members by id with the topics they read, `partitions` the number of partitions of each topic,
`current` the target so far. Topics are named by their ids. Every partition of a topic with a subscriber goes to exactly
one subscriber of it, whatever `current` says, and the same question always gets the same answer.

* `uniform`: the numbers of partitions differ as little as the subscriptions allow, and as few partitions as possible
  move: who stays keeps what it has, up to its share.
* `range`: of each topic every member gets one unbroken range, in the order of group.instance.ids (those first), then of
  member ids. Topics with the same subscribers and the same count of partitions are therefore co-partitioned.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Partition = tuple[str, int]
"""(topic id as 32 hex digits, partition)"""
Partitions = frozenset[Partition]
NONE: Partitions = frozenset()


class Subscriber(NamedTuple):
    """What an assignor knows of a member: the ids of the existing topics it reads, and its group.instance.id."""

    topics: frozenset[str]
    instance_id: str | None = None


Assignor = Callable[[Mapping[str, Subscriber], Mapping[str, int], Mapping[str, Partitions]], dict[str, Partitions]]


def uniform(
    subscribers: Mapping[str, Subscriber], partitions: Mapping[str, int], current: Mapping[str, Partitions]
) -> dict[str, Partitions]:
    """Balanced first, sticky second."""
    if not subscribers:
        return {}
    readers = readers_by_topic(subscribers)
    free = {(topic, number) for topic in readers for number in range(partitions[topic])}
    owned: dict[str, set[Partition]] = {}
    for member in sorted(subscribers):
        topics = subscribers[member].topics
        owned[member] = {each for each in current.get(member, NONE) if each in free and each[0] in topics}
        free -= owned[member]
    if len({each.topics for each in subscribers.values()}) == 1:
        share_alike(owned, free)
    else:
        for each in sorted(free, key=lambda each: (len(readers[each[0]]), each)):
            least = min(readers[each[0]], key=lambda member: (len(owned[member]), member))
            owned[least].add(each)
        level(owned, subscribers, readers)
    return {member: frozenset(each) for member, each in owned.items()}


def readers_by_topic(subscribers: Mapping[str, Subscriber]) -> dict[str, list[str]]:
    """The members that read each topic, in order."""
    readers: dict[str, list[str]] = {}
    for member in sorted(subscribers):
        for topic in subscribers[member].topics:
            readers.setdefault(topic, []).append(member)
    return readers


def share_alike(owned: dict[str, set[Partition]], free: set[Partition]) -> None:
    """All read the same: everyone gets the same number, give or take one; those that have most keep the one more."""
    share, more = divmod(len(free) + sum(map(len, owned.values())), len(owned))
    wanting = []
    for place, member in enumerate(sorted(owned, key=lambda member: (-len(owned[member]), member))):
        quota = share + (place < more)
        mine = owned[member]
        if len(mine) > quota:
            surplus = set(sorted(mine, key=lambda each: (each[1], each[0]))[quota:])
            mine -= surplus
            free |= surplus
        wanting.append((member, quota))
    places = deque((member, quota) for member, quota in sorted(wanting) if len(owned[member]) < quota)
    for each in sorted(free):  # in turn, so that each topic spreads
        member, quota = places.popleft()
        owned[member].add(each)
        if len(owned[member]) < quota:
            places.append((member, quota))


def level(
    owned: dict[str, set[Partition]], subscribers: Mapping[str, Subscriber], readers: Mapping[str, list[str]]
) -> None:
    """Pass partitions along chains of members until no chain leads from one to another that has two more.

    Without such a chain no assignment is more even. Members that a search in vain has seen need no search of their
    own: whatever they reach, it reached.
    """
    held: dict[str, dict[str, set[Partition]]] = {member: {} for member in owned}
    for member, mine in owned.items():
        for each in mine:
            held[member].setdefault(each[0], set()).add(each)
    done: set[str] = set()
    queue = [(len(mine), member) for member, mine in owned.items()]
    heapq.heapify(queue)
    while queue:
        size, receiver = heapq.heappop(queue)
        if receiver in done or size != len(owned[receiver]):
            continue
        came_from, giver = find_giver(receiver, owned, held, subscribers, readers)
        if giver is None:
            done |= came_from.keys()
            continue
        heapq.heappush(queue, (size + 1, receiver))
        heapq.heappush(queue, (len(owned[giver]) - 1, giver))
        while giver != receiver:
            taker, topic = came_from[giver]
            each = max(held[giver][topic])
            held[giver][topic].discard(each)
            held[taker].setdefault(topic, set()).add(each)
            owned[giver].discard(each)
            owned[taker].add(each)
            giver = taker


def find_giver(
    receiver: str,
    owned: Mapping[str, set[Partition]],
    held: Mapping[str, Mapping[str, set[Partition]]],
    subscribers: Mapping[str, Subscriber],
    readers: Mapping[str, list[str]],
) -> tuple[dict[str, tuple[str, str]], str | None]:
    """The nearest member with two more than `receiver`, and for each member seen who would take which topic from it."""
    rich = len(owned[receiver]) + 2
    came_from: dict[str, tuple[str, str]] = {receiver: (receiver, "")}
    topics_seen: set[str] = set()
    queue = deque([receiver])
    while queue:
        taker = queue.popleft()
        for topic in sorted(subscribers[taker].topics - topics_seen):
            topics_seen.add(topic)
            for giver in readers[topic]:
                if giver in came_from or not held[giver].get(topic):
                    continue
                came_from[giver] = (taker, topic)
                if len(owned[giver]) >= rich:
                    return came_from, giver
                queue.append(giver)
    return came_from, None


def by_range(
    subscribers: Mapping[str, Subscriber], partitions: Mapping[str, int], current: Mapping[str, Partitions]
) -> dict[str, Partitions]:
    """One unbroken range of each topic for each of its readers; `current` plays no part."""
    order = sorted(subscribers, key=lambda member: instance_first(member, subscribers[member].instance_id))
    readers: dict[str, list[str]] = {}
    for member in order:
        for topic in subscribers[member].topics:
            readers.setdefault(topic, []).append(member)
    owned: dict[str, list[Partition]] = {member: [] for member in subscribers}
    for topic, members in readers.items():
        share, more = divmod(partitions[topic], len(members))
        start = 0
        for place, member in enumerate(members):
            end = start + share + (place < more)
            owned[member] += ((topic, number) for number in range(start, end))
            start = end
    return {member: frozenset(each) for member, each in owned.items()}


def instance_first(member: str, instance_id: str | None) -> tuple[bool, str]:
    """Static members come first, because their names outlive a restart."""
    return (True, member) if instance_id is None else (False, instance_id)


ASSIGNORS: dict[str, Assignor] = {"uniform": uniform, "range": by_range}
DEFAULT_ASSIGNOR = "uniform"


def preferred(wishes: Iterable[str | None]) -> str:
    """The assignor most members ask for; of equals the first in `ASSIGNORS`, which is the default, too."""
    votes = dict.fromkeys(ASSIGNORS, 0)
    for wish in wishes:
        if wish in votes:
            votes[wish] += 1
    return max(votes, key=lambda name: votes[name])
