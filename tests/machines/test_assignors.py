"""The server-side assignors: every partition once, even, and no more moves than needed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.machines.assignors import ASSIGNORS, Partitions, Subscriber, by_range, preferred, uniform

TOPICS = ("a", "b", "c", "d")

counts = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 12), min_size=1)


@st.composite
def questions(draw: st.DrawFn, *, alike: bool = False) -> tuple[dict[str, Subscriber], dict[str, int]]:
    """Members and topics; `alike`: all members read the same."""
    partitions = draw(counts)
    names = draw(st.sets(st.integers(0, 30), min_size=1, max_size=8))
    some = st.frozensets(st.sampled_from(sorted(partitions)))
    everyone = draw(some)
    return {
        f"m{name:02}": Subscriber(everyone if alike else draw(some), draw(st.none() | st.just(f"i{name}")))
        for name in names
    }, partitions


@st.composite
def histories(draw: st.DrawFn, members: Mapping[str, Subscriber]) -> dict[str, Partitions]:
    """Some earlier target, right or wrong: deleted topics, members that left, partitions twice."""
    some = st.frozensets(st.tuples(st.sampled_from((*TOPICS, "gone")), st.integers(0, 15)))
    return draw(st.dictionaries(st.sampled_from((*members, "left")), some))


def expected(members: Mapping[str, Subscriber], partitions: Mapping[str, int]) -> set[tuple[str, int]]:
    read = {topic for member in members.values() for topic in member.topics}
    return {(topic, number) for topic in read for number in range(partitions[topic])}


def loads(target: Mapping[str, Partitions]) -> list[int]:
    return [len(each) for each in target.values()]


@pytest.mark.parametrize("assignor", ASSIGNORS.values(), ids=ASSIGNORS)
@given(st.data())
def test_every_partition_goes_to_exactly_one_of_its_subscribers(assignor, data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions())
    target = assignor(members, partitions, data.draw(histories(members)))
    assert target.keys() == members.keys()
    times = Counter(each for has in target.values() for each in has)
    assert times == dict.fromkeys(expected(members, partitions), 1)
    assert all(topic in members[member].topics for member, has in target.items() for topic, _ in has)


@pytest.mark.parametrize("assignor", ASSIGNORS.values(), ids=ASSIGNORS)
@given(st.data())
def test_the_same_question_gets_the_same_answer(assignor, data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions())
    history = data.draw(histories(members))
    backwards = dict(reversed(members.items()))
    assert assignor(members, partitions, history) == assignor(backwards, partitions, history)


@given(st.data())
def test_uniform_gives_members_that_read_the_same_the_same_number(data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions(alike=True))
    target = uniform(members, partitions, data.draw(histories(members)))
    assert max(loads(target)) - min(loads(target)) <= 1


@given(st.data())
def test_uniform_is_as_even_as_the_subscriptions_allow(data) -> None:  # type: ignore[no-untyped-def]
    """Between two members one of which has two more, no partition can be passed, not even through others."""
    members, partitions = data.draw(questions())
    target = uniform(members, partitions, data.draw(histories(members)))
    gives_to = {
        giver: {taker for taker in members if any(topic in members[taker].topics for topic, _ in target[giver])}
        for giver in members
    }
    for giver in members:
        seen, new = {giver}, {giver}
        while new:
            new = set().union(*(gives_to[each] for each in new)) - seen
            seen |= new
        assert all(len(target[giver]) - len(target[taker]) <= 1 for taker in seen)


@given(st.data())
def test_uniform_does_not_touch_what_is_right_already(data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions())
    target = uniform(members, partitions, {})
    assert uniform(members, partitions, target) == target


@given(st.data())
def test_a_leaving_member_moves_only_its_own_partitions(data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions(alike=True))
    before = uniform(members, partitions, {})
    leaver = data.draw(st.sampled_from(sorted(members)))
    rest = {name: each for name, each in members.items() if name != leaver}
    after = uniform(rest, partitions, before)
    assert all(before[member] <= after[member] for member in rest)


@given(st.data())
def test_a_joining_member_takes_its_share_and_nothing_else_moves(data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions(alike=True))
    before = uniform(members, partitions, {})
    newcomer = Subscriber(next(iter(members.values())).topics)
    after = uniform({**members, "new": newcomer}, partitions, before)
    assert all(after[member] <= before[member] for member in members)


@given(st.data())
def test_new_partitions_move_no_old_ones_when_all_read_the_same(data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions(alike=True))
    before = uniform(members, partitions, {})
    grown = {topic: count + data.draw(st.integers(0, 9)) for topic, count in partitions.items()}
    after = uniform(members, grown, before)
    assert all(before[member] <= after[member] for member in members)


@given(st.data())
def test_range_gives_unbroken_ranges_that_differ_by_one_at_most(data) -> None:  # type: ignore[no-untyped-def]
    members, partitions = data.draw(questions())
    target = by_range(members, partitions, {})
    for topic in partitions:
        shares = [
            sorted(number for name, number in target[member] if name == topic)
            for member in members
            if topic in members[member].topics
        ]
        assert all(share == list(range(share[0], share[0] + len(share))) for share in shares if share)
        assert not shares or max(map(len, shares)) - min(map(len, shares)) <= 1


def test_range_co_partitions_topics_of_the_same_size() -> None:
    both = frozenset({"clicks", "views"})
    target = by_range({"m1": Subscriber(both), "m2": Subscriber(both)}, {"clicks": 3, "views": 3}, {})
    assert target["m1"] == {("clicks", 0), ("clicks", 1), ("views", 0), ("views", 1)}
    assert target["m2"] == {("clicks", 2), ("views", 2)}


def test_range_goes_by_instance_ids_so_that_a_restart_changes_nothing() -> None:
    topic = frozenset({"orders"})
    before = by_range({"zz": Subscriber(topic, "pod-0"), "aa": Subscriber(topic, "pod-1")}, {"orders": 3}, {})
    after = by_range({"bb": Subscriber(topic, "pod-0"), "yy": Subscriber(topic, "pod-1")}, {"orders": 3}, {})
    assert (before["zz"], before["aa"]) == (after["bb"], after["yy"])
    assert before["zz"] == {("orders", 0), ("orders", 1)}


def test_uniform_passes_partitions_through_a_member_that_can_take_neither_side() -> None:
    """Only `both` may pass from the rich to the poor: it gives up its `b` and takes an `a`."""
    members = {
        "rich": Subscriber(frozenset({"a"})),
        "both": Subscriber(frozenset({"a", "b"})),
        "poor": Subscriber(frozenset({"b"})),
    }
    held = {"rich": frozenset({("a", 0), ("a", 1), ("a", 2)}), "both": frozenset({("b", 0), ("b", 1)})}
    assert sorted(loads(uniform(members, {"a": 3, "b": 2}, held))) == [1, 2, 2]


def test_most_votes_choose_the_assignor_and_uniform_wins_a_tie() -> None:
    assert preferred([]) == "uniform"
    assert preferred([None, "range", "range", "uniform"]) == "range"
    assert preferred(["range", "uniform"]) == "uniform"
    assert preferred(["sticky", None]) == "uniform"


@pytest.mark.parametrize("assignor", ASSIGNORS.values(), ids=ASSIGNORS)
def test_two_hundred_members_and_two_thousand_partitions_take_a_moment(assignor) -> None:  # type: ignore[no-untyped-def]
    partitions = {f"t{number:02}": 50 for number in range(40)}
    topics = sorted(partitions)
    members = {f"m{each:03}": Subscriber(frozenset(topics[each % 21 : each % 21 + 20])) for each in range(200)}
    began = time.process_time()
    target = assignor(members, partitions, {})
    assert sum(loads(target)) == 2000
    assert time.process_time() - began < 2
