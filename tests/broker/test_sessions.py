"""Fetch sessions (KIP-227) against a model: what a client has been told is always what the partitions are."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from redbroker.broker.api import fetch
from redbroker.broker.sessions import EPOCH_MAX, FetchSessions
from redbroker.errors import ErrorCode

Request = fetch.API.Request
Topic, Partition = fetch.API.request.struct("topics"), fetch.API.request.struct("topics.partitions")
Forgotten = fetch.API.request.struct("forgotten_topics_data")
BY_NAME, BY_ID = 12, 13
NAMES = ("orders", "clicks")


def id_of(name: str) -> UUID:
    return UUID(int=NAMES.index(name) + 1 if name in NAMES else 99)


def a_request(
    session: int, epoch: int, wanted: dict[tuple[str, int], int] | None = None, forget: Any = (), version: int = BY_NAME
) -> Any:
    """A FetchRequest: wanted offsets by (topic, partition), forgotten (topic, partition) pairs."""

    def named(name: str) -> dict[str, Any]:
        return {"topic_id": id_of(name)} if version >= BY_ID else {"topic": name}

    topics = [
        Topic(**named(name), partitions=[Partition(partition=number, fetch_offset=offset, partition_max_bytes=1_000)])
        for (name, number), offset in (wanted or {}).items()
    ]
    forgotten = [Forgotten(**named(name), partitions=[number]) for name, number in forget]
    return Request(session_id=session, session_epoch=epoch, topics=topics, forgotten_topics_data=forgotten)


def an_answer(error: int = 0, high_watermark: int = 0, log_start: int = 0, records: bytes | None = None) -> Any:
    return SimpleNamespace(
        error_code=error, high_watermark=high_watermark, log_start_offset=log_start, records=records,
        preferred_read_replica=-1, diverging_epoch=SimpleNamespace(epoch=-1),
    )  # fmt: skip


class Clock:
    """Seconds that stand still until told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def started(sessions: FetchSessions, wanted: dict[tuple[str, int], int], version: int = BY_NAME) -> int:
    """A new session whose client has been told the defaults of `an_answer`."""
    context = sessions.open(a_request(0, 0, wanted, version=version), version)
    context.filter([(each, an_answer()) for each in context.partitions])
    return context.session_id


def told(context: Any, **answers: Any) -> list[int]:
    """The partitions that are sent when all have the same answer."""
    return [
        wanted.partition for wanted, _ in context.filter([(each, an_answer(**answers)) for each in context.partitions])
    ]


TWO = {("orders", 0): 5, ("orders", 1): 6}


def test_a_fetch_without_a_session_gets_everything_and_leaves_nothing() -> None:
    sessions = FetchSessions(10)
    context = sessions.open(a_request(0, -1, TWO), BY_NAME)
    assert [(p.topic, p.partition, p.fetch_offset, p.max_bytes) for p in context.partitions] == [
        ("orders", 0, 5, 1_000),
        ("orders", 1, 6, 1_000),
    ]
    assert told(context) == [0, 1]
    assert (context.session_id, context.error, len(sessions)) == (0, ErrorCode.NONE, 0)


def test_a_request_older_than_sessions_is_one_without_a_session() -> None:
    context = FetchSessions(10).open(Request(topics=[Topic(topic="orders", partitions=[Partition(partition=3)])]), 4)
    assert told(context) == [3]
    assert context.session_id == 0


def test_an_incremental_fetch_asks_for_all_and_tells_only_what_changed() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, TWO)
    assert session > 0
    context = sessions.open(a_request(session, 1), BY_NAME)
    assert [(p.partition, p.fetch_offset) for p in context.partitions] == [(0, 5), (1, 6)]
    assert told(context) == []
    assert context.session_id == session
    context = sessions.open(a_request(session, 2, {("orders", 1): 60}), BY_NAME)
    assert [(p.partition, p.fetch_offset) for p in context.partitions] == [(0, 5), (1, 60)]
    answers = [(context.partitions[0], an_answer()), (context.partitions[1], an_answer(high_watermark=9))]
    assert [wanted.partition for wanted, _ in context.filter(answers)] == [1]


def test_records_and_a_moved_log_start_are_told() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, {("orders", 0): 5})
    assert told(sessions.open(a_request(session, 1), BY_NAME), records=b"x") == [0]
    assert told(sessions.open(a_request(session, 2), BY_NAME), log_start=3) == [0]
    assert told(sessions.open(a_request(session, 3), BY_NAME), log_start=3) == []


def test_an_error_is_told_until_it_is_over_and_so_is_its_end() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, {("orders", 0): 5})
    sent = [
        told(sessions.open(a_request(session, epoch), BY_NAME), error=e)
        for epoch, e in ((1, 6), (2, 6), (3, 0), (4, 0))
    ]
    assert sent == [[0], [0], [0], []]


def test_a_new_partition_is_told_at_once_and_a_forgotten_one_never_again() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, TWO)
    context = sessions.open(a_request(session, 1, {("clicks", 7): 0}, forget=[("orders", 0)]), BY_NAME)
    assert [(p.topic, p.partition) for p in context.partitions] == [("orders", 1), ("clicks", 7)]
    assert told(context) == [7]


def test_a_partition_that_had_records_is_served_last_next_time() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, {("orders", n): 0 for n in range(3)})
    context = sessions.open(a_request(session, 1), BY_NAME)
    context.filter([(p, an_answer(records=b"x" if p.partition == 0 else None)) for p in context.partitions])
    assert [p.partition for p in sessions.open(a_request(session, 2), BY_NAME).partitions] == [1, 2, 0]


def test_an_unknown_session_and_a_wrong_epoch_are_told_apart() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, TWO)
    assert sessions.open(a_request(session + 1, 1), BY_NAME).error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert sessions.open(a_request(0, 1), BY_NAME).error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    for epoch in (2, 5, EPOCH_MAX):
        wrong = sessions.open(a_request(session, epoch), BY_NAME)
        assert (wrong.error, wrong.partitions) == (ErrorCode.INVALID_FETCH_SESSION_EPOCH, [])
    assert sessions.open(a_request(session, 1), BY_NAME).error is ErrorCode.NONE
    assert sessions.open(a_request(session, 1), BY_NAME).error is ErrorCode.INVALID_FETCH_SESSION_EPOCH


def test_epochs_wrap_to_one() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, TWO)
    sessions._sessions[session].epoch = EPOCH_MAX
    assert sessions.open(a_request(session, EPOCH_MAX), BY_NAME).error is ErrorCode.NONE
    assert sessions.open(a_request(session, 1), BY_NAME).error is ErrorCode.NONE


def test_an_answer_overtaken_by_the_next_request_is_refused() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, TWO)
    slow = sessions.open(a_request(session, 1), BY_NAME)
    sessions.open(a_request(session, 2), BY_NAME)
    assert told(slow, high_watermark=5) == []
    assert slow.error is ErrorCode.INVALID_FETCH_SESSION_EPOCH


def test_names_and_ids_do_not_mix_in_one_session() -> None:
    sessions = FetchSessions(10)
    named, by_id = started(sessions, TWO), started(sessions, TWO, BY_ID)
    assert sessions.open(a_request(named, 1, version=BY_ID), BY_ID).error is ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    assert sessions.open(a_request(by_id, 1), BY_NAME).error is ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    assert sessions.open(a_request(by_id, 1, version=BY_ID), BY_ID).error is ErrorCode.NONE


def test_a_session_by_id_never_learns_a_name() -> None:
    sessions = FetchSessions(10)
    session = started(sessions, TWO, BY_ID)
    for wanted in sessions.open(a_request(session, 1, version=BY_ID), BY_ID).partitions:
        assert (wanted.topic, wanted.topic_id) == ("", id_of("orders"))


def test_a_full_fetch_and_a_last_one_close_the_session_they_name() -> None:
    sessions = FetchSessions(10)
    first = started(sessions, TWO)
    context = sessions.open(a_request(first, 0, TWO), BY_NAME)
    told(context)
    assert context.session_id not in (0, first)
    assert sessions.open(a_request(first, 1), BY_NAME).error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    last = sessions.open(a_request(context.session_id, -1, TWO), BY_NAME)
    assert told(last) == [0, 1]
    assert (last.session_id, len(sessions)) == (0, 0)


def test_forgetting_everything_closes_the_session() -> None:
    sessions = FetchSessions(10)
    context = sessions.open(a_request(started(sessions, TWO), 1, forget=TWO), BY_NAME)
    assert (context.session_id, context.error, context.partitions, len(sessions)) == (0, ErrorCode.NONE, [], 0)


def test_no_sessions_are_made_where_none_are_allowed() -> None:
    assert started(FetchSessions(0), TWO) == 0


def test_a_full_cache_gives_up_only_the_session_that_was_silent_longest() -> None:
    clock = Clock()
    sessions = FetchSessions(2, evict_after_s=120, clock=clock)
    first, second = started(sessions, TWO), started(sessions, TWO)
    clock.now_s = 60
    assert sessions.open(a_request(first, 1), BY_NAME).error is ErrorCode.NONE
    assert started(sessions, TWO) == 0
    clock.now_s = 121
    assert started(sessions, TWO) > 0
    assert sessions.open(a_request(second, 1), BY_NAME).error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert sessions.open(a_request(first, 2), BY_NAME).error is ErrorCode.NONE


def test_the_partitions_of_all_sessions_are_bounded_together() -> None:
    sessions = FetchSessions(10, partitions_max=5)
    first = started(sessions, TWO)
    assert started(sessions, {("orders", n): 0 for n in range(4)}) == 0
    more = {("clicks", n): 0 for n in range(4)}
    assert sessions.open(a_request(first, 1, more), BY_NAME).error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert (len(sessions), sessions.partitions) == (0, 0)


class AgainstAModel(RuleBasedStateMachine):
    """A client that keeps what it was told per partition must always know the truth of what it fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.sessions = FetchSessions(3, evict_after_s=10, clock=self.clock, rng=random.Random(0))
        self.truth = {(name, number): 0 for name in NAMES for number in range(4)}

    partitions = st.dictionaries(st.tuples(st.sampled_from(NAMES), st.integers(0, 3)), st.integers(0, 9), max_size=5)

    @initialize(version=st.sampled_from((BY_NAME, BY_ID)), wanted=partitions)
    def begin(self, version: int, wanted: dict[tuple[str, int], int]) -> None:
        self.version = version
        self.full(wanted)

    def exchange(self, request: Any) -> Any:
        context = self.sessions.open(request, self.version)
        names = {id_of(name): name for name in NAMES}
        answers, asked = [], {}
        for wanted in context.partitions:
            key = (wanted.topic or names[wanted.topic_id], wanted.partition)
            asked[key] = wanted.fetch_offset
            answers.append((wanted, an_answer(high_watermark=self.truth[key])))
        if context.error is ErrorCode.NONE:
            assert asked == self.wanted
        for wanted, answer in context.filter(answers):
            self.known[wanted.topic or names[wanted.topic_id], wanted.partition] = answer.high_watermark
        return context

    @rule(wanted=partitions)
    def full(self, wanted: dict[tuple[str, int], int]) -> None:
        self.wanted, self.known = dict(wanted), {}
        self.session = self.exchange(a_request(getattr(self, "session", 0), 0, wanted, version=self.version)).session_id
        self.epoch = 1

    @rule(changed=partitions, forget=st.sets(st.tuples(st.sampled_from(NAMES), st.integers(0, 3)), max_size=3))
    def incremental(self, changed: dict[tuple[str, int], int], forget: set[tuple[str, int]]) -> None:
        if not self.session:
            return
        self.wanted |= changed
        for key in forget:
            self.wanted.pop(key, None)
            self.known.pop(key, None)
        request = a_request(self.session, self.epoch, changed, forget, version=self.version)
        context = self.exchange(request)
        self.epoch += 1
        if context.error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND:  # evicted: a client starts anew
            self.session = 0
            self.full(self.wanted)
        else:
            assert context.error is ErrorCode.NONE
            self.session = context.session_id

    @rule(key=st.tuples(st.sampled_from(NAMES), st.integers(0, 3)))
    def append(self, key: tuple[str, int]) -> None:
        self.truth[key] += 1
        self.stale = True

    @rule(seconds=st.floats(0, 20))
    def other_clients(self, seconds: float) -> None:
        self.clock.now_s += seconds
        started(self.sessions, TWO)

    @rule()
    def catch_up(self) -> None:
        self.incremental({}, set())
        if self.session:
            assert self.known == {key: self.truth[key] for key in self.wanted}

    @invariant()
    def bounded(self) -> None:
        assert len(self.sessions) <= 3
        assert self.sessions.partitions == sum(len(s.partitions) for s in self.sessions._sessions.values())


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
