"""Fetch sessions (KIP-227): a client names its partitions once, later requests and answers carry only what changed.

    session_id  session_epoch   meaning
    any         -1              no session; one that is named is closed
    any          0              full fetch that asks for a new session; one that is named is closed
    s > 0        n > 0          incremental fetch: n must be the session's next epoch (1, 2, … 2^31-1, 1, …)

The fetch handler calls `context = sessions.open(request, version)`, answers `context.partitions` when `context.error`
is NONE, and sends what `context.filter(answers)` leaves under `context.session_id`, with `context.error`.

A session made by requests of v13 or later holds topic ids and never looks a topic up by name: a topic deleted and
created again keeps its old id here and so answers UNKNOWN_TOPIC_ID. Pure data: no I/O, the clock is injected.
Sessions live in one worker; a client that moves to another gets FETCH_SESSION_ID_NOT_FOUND once and starts anew.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from redbroker.errors import ErrorCode

__all__ = ["FetchContext", "FetchSessions", "WantedPartition"]

NO_SESSION = 0
FULL, LAST = 0, -1  # the two session epochs that are no counters
EPOCH_MAX = 2**31 - 1
TOPIC_IDS_SINCE = 13  # the Fetch version from which topics are named by id
NO_ID = UUID(int=0)
UNSEEN = -1  # a high watermark no answer can have: the next answer is always sent

Key = tuple[UUID | str, int]
Answers = Sequence[tuple["WantedPartition", Any]]


class WantedPartition:
    """One partition a fetch asks for. `topic` is "" where only the id was named, `topic_id` is zero before v13."""

    __slots__ = (
        "current_leader_epoch", "fetch_offset", "last_fetched_epoch", "max_bytes", "partition", "sent_high_watermark",
        "sent_log_start", "topic", "topic_id",
    )  # fmt: skip

    def __init__(self, topic: str, topic_id: UUID, wanted: Any) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition: int = wanted.partition
        self.sent_high_watermark = UNSEEN
        self.sent_log_start = UNSEEN
        self.want(wanted)

    def want(self, wanted: Any) -> None:
        """Take over what the client asks for now (a partition of the decoded FetchRequest)."""
        self.fetch_offset: int = wanted.fetch_offset
        self.max_bytes: int = wanted.partition_max_bytes
        self.current_leader_epoch: int = wanted.current_leader_epoch
        self.last_fetched_epoch: int = wanted.last_fetched_epoch

    def changed(self, answer: Any) -> bool:
        """Whether this answer tells the client anything new, and remember what it was told.

        An error is told until it is over, and so is the first answer after it.
        """
        changed = bool(
            answer.records
            or answer.error_code
            or answer.high_watermark != self.sent_high_watermark
            or answer.log_start_offset != self.sent_log_start
            or answer.preferred_read_replica >= 0
            or answer.diverging_epoch.epoch >= 0
        )
        self.sent_high_watermark = UNSEEN if answer.error_code else answer.high_watermark
        self.sent_log_start = answer.log_start_offset
        return changed


class Session:
    """The partitions one client fetches, in the order it is served: those that had data move to the end."""

    __slots__ = ("epoch", "id", "partitions", "used_s", "uses_topic_ids")

    def __init__(self, id: int, partitions: dict[Key, WantedPartition], uses_topic_ids: bool, now_s: float) -> None:
        self.id = id
        self.epoch = 1
        self.partitions = partitions
        self.uses_topic_ids = uses_topic_ids
        self.used_s = now_s


class FetchContext:
    """One fetch request seen through its session (this class: without one). See the module's docstring.

    `partitions` is what to answer, in order. `error` and `session_id` are final only after `filter`.
    """

    __slots__ = ("error", "partitions", "session_id")

    def __init__(self, partitions: list[WantedPartition], error: ErrorCode = ErrorCode.NONE) -> None:
        self.error = error
        self.partitions = partitions
        self.session_id = NO_SESSION

    def filter(self, answers: Answers) -> Answers:
        """The answers to send, of all given as (wanted, partition of the FetchResponse): here, all of them."""
        return answers


class FullContext(FetchContext):
    """A full fetch that asks for a session: it is made when the answer is known, if there is room."""

    __slots__ = ("_sessions", "_uses_topic_ids")

    def __init__(self, sessions: FetchSessions, partitions: list[WantedPartition], uses_topic_ids: bool) -> None:
        super().__init__(partitions)
        self._sessions = sessions
        self._uses_topic_ids = uses_topic_ids

    def filter(self, answers: Answers) -> Answers:
        """All answers; `session_id` is the new session, or 0 when there is no room for one."""
        for wanted, answer in answers:
            wanted.changed(answer)
        self.session_id = self._sessions.create(self.partitions, self._uses_topic_ids)
        return answers


class IncrementalContext(FetchContext):
    """A fetch of everything its session holds."""

    __slots__ = ("_epoch", "_session", "_sessions")

    def __init__(self, sessions: FetchSessions, session: Session) -> None:
        super().__init__(list(session.partitions.values()))
        self.session_id = session.id
        self._sessions = sessions
        self._session = session
        self._epoch = session.epoch

    def filter(self, answers: Answers) -> Answers:
        """Only the answers that tell something new; none, and an error, when a later request overtook this one."""
        session = self._session
        if session.epoch != self._epoch:
            self.error = ErrorCode.INVALID_FETCH_SESSION_EPOCH
            return []
        sent = [(wanted, answer) for wanted, answer in answers if wanted.changed(answer)]
        for wanted, answer in sent:
            if answer.records:  # served last next time, so that a busy partition cannot starve the others
                key = key_of(wanted.topic, wanted.topic_id, wanted.partition, session.uses_topic_ids)
                if session.partitions.pop(key, None) is not None:
                    session.partitions[key] = wanted
        return sent


class FetchSessions:
    """All fetch sessions of one worker.

    Holds at most `sessions_max` (0: none are made) with `partitions_max` partitions together. A full cache gives up its
    least recently used session only after `evict_after_s` of silence, as Kafka does: evicting a live one would make
    clients push each other out for ever, while a client without a session merely sends its whole list again.
    """

    def __init__(
        self,
        sessions_max: int,
        *,
        partitions_max: int = 500_000,
        evict_after_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.sessions_max = sessions_max
        self.partitions_max = partitions_max
        self.evict_after_s = evict_after_s
        self.partitions = 0
        self._clock = clock
        self._random = rng or random.Random()
        self._sessions: OrderedDict[int, Session] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, request: Any, version: int) -> FetchContext:
        """The context of one decoded FetchRequest: see the module's docstring. Never raises."""
        by_id = version >= TOPIC_IDS_SINCE
        session = self._sessions.get(request.session_id)
        if request.session_epoch in (FULL, LAST):
            if session is not None:
                self._close(session)
            wanted = list(wanted_by_key(request, by_id).values())
            if request.session_epoch == LAST or not self.sessions_max:
                return FetchContext(wanted)
            return FullContext(self, wanted, by_id)
        if session is None:
            return FetchContext([], ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if session.epoch != request.session_epoch:
            return FetchContext([], ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        if session.uses_topic_ids != by_id:
            return FetchContext([], ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR)
        return self._advance(session, request)

    def create(self, partitions: Sequence[WantedPartition], uses_topic_ids: bool) -> int:
        """A new session's id, or 0 when there is nothing to remember or no room."""
        if not partitions or not self._make_room(len(partitions)):
            return NO_SESSION
        session_id = NO_SESSION
        while session_id == NO_SESSION or session_id in self._sessions:
            session_id = self._random.randint(1, EPOCH_MAX)
        held = {key_of(p.topic, p.topic_id, p.partition, uses_topic_ids): p for p in partitions}
        self._sessions[session_id] = Session(session_id, held, uses_topic_ids, self._clock())
        self.partitions += len(held)
        return session_id

    def _advance(self, session: Session, request: Any) -> FetchContext:
        """Bring a session up to date with an incremental request."""
        before = len(session.partitions)
        for key, wanted in wanted_by_key(request, session.uses_topic_ids).items():
            known = session.partitions.setdefault(key, wanted)
            if known is not wanted:
                known.fetch_offset = wanted.fetch_offset
                known.max_bytes = wanted.max_bytes
                known.current_leader_epoch = wanted.current_leader_epoch
                known.last_fetched_epoch = wanted.last_fetched_epoch
        for key in forgotten(request, session.uses_topic_ids):
            session.partitions.pop(key, None)
        self.partitions += len(session.partitions) - before
        if not session.partitions:
            self._close(session)
            return FetchContext([])
        if self.partitions > self.partitions_max:
            self._close(session)
            return FetchContext([], ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        session.epoch = session.epoch + 1 if session.epoch < EPOCH_MAX else 1
        session.used_s = self._clock()
        self._sessions.move_to_end(session.id)
        return IncrementalContext(self, session)

    def _make_room(self, partitions: int) -> bool:
        """Whether one more session fits, after giving up those that fell silent."""
        if partitions > self.partitions_max or not self.sessions_max:
            return False
        while len(self._sessions) >= self.sessions_max or self.partitions + partitions > self.partitions_max:
            oldest = next(iter(self._sessions.values()))
            if self._clock() - oldest.used_s < self.evict_after_s:
                return False
            self._close(oldest)
        return True

    def _close(self, session: Session) -> None:
        del self._sessions[session.id]
        session.epoch = NO_SESSION  # an answer still under way in it is refused
        self.partitions -= len(session.partitions)


def key_of(topic: str, topic_id: UUID, partition: int, by_id: bool) -> Key:
    """What a partition is known by in its session."""
    return (topic_id if by_id else topic), partition


def wanted_by_key(request: Any, by_id: bool) -> dict[Key, WantedPartition]:
    """The partitions a request names, in its order; named twice, the last one counts."""
    wanted: dict[Key, WantedPartition] = {}
    for topic in request.topics:
        name, topic_id = ("", topic.topic_id) if by_id else (topic.topic, NO_ID)
        for partition in topic.partitions:
            wanted[key_of(name, topic_id, partition.partition, by_id)] = WantedPartition(name, topic_id, partition)
    return wanted


def forgotten(request: Any, by_id: bool) -> Iterator[Key]:
    """The partitions a request takes out of its session."""
    for topic in request.forgotten_topics_data:
        for partition in topic.partitions:
            yield key_of(topic.topic, topic.topic_id, partition, by_id)
