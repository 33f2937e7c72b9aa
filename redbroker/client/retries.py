"""What becomes of a record whose handler failed: tried again later from a retry topic, at last put aside.

    orders ──fails──► orders.billing.retry-1 ──fails──► orders.billing.retry-2 … ──fails──► the dead-letter topic
                      due in backoff_s                  due in 2 * backoff_s

The main partition goes on at once. There is a retry topic per attempt, and so per delay: its records fall due in the
order they lie there, so who reads it waits for the first only. All that is known of a failure travels in headers, and
so survives a restart:

    redbroker-attempt           how often it was tried so far
    redbroker-due-ms            not to be tried before; in retry topics only
    redbroker-group             whose handler failed
    redbroker-origin            topic/partition/offset/timestamp in ms of the record as it was first sent
    redbroker-cause             the exception's class, and what it said
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from redbroker.client.types import ConsumerRecord

__all__ = ["FAILURE_BYTES_MAX", "NEVER", "Failure", "Retry", "failure_of", "headers_after", "retry_topic"]

Headers = Sequence[tuple[str, bytes | None]]
PREFIX = "redbroker-"
CAUSE_LENGTH_MAX = 1_000
FAILURE_BYTES_MAX = 8_192
"""Most bytes that a failure's headers add to a record; retry and dead-letter topics take so much more than theirs."""
ATTEMPTS_MAX = 20


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed record is tried again.

    `attempts` counts the first one. `backoff` is `exp` (each pause `factor` times the last, at most `backoff_max_s`)
    or `fixed`. `on` are the exceptions worth another try; others go to the dead-letter topic at once.

        >>> [Retry(attempts=5, backoff_s=1).pause_s(attempt) for attempt in (1, 2, 3, 4)]
        [1.0, 2.0, 4.0, 8.0]
    """

    attempts: int = 5
    backoff: Literal["exp", "fixed"] = "exp"
    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    factor: float = 2.0
    on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= ATTEMPTS_MAX:
            raise ValueError(f"attempts = {self.attempts} is wrong: 1 to {ATTEMPTS_MAX}, the first one included.")
        if self.backoff not in ("exp", "fixed"):
            raise ValueError(f"backoff = {self.backoff!r} is wrong: exp or fixed.")
        if not 0 <= self.backoff_s <= self.backoff_max_s:
            raise ValueError(f"backoff_s = {self.backoff_s} is wrong: 0 to backoff_max_s, {self.backoff_max_s}.")
        if self.factor < 1:
            raise ValueError(f"factor = {self.factor} is wrong: pauses do not shrink.")
        try:
            isinstance(self, self.on)
        except TypeError:
            raise ValueError(f"on = {self.on!r} is wrong: a tuple of exceptions, as in on=(TimeoutError,).") from None

    def pause_s(self, attempt: int) -> float:
        """How long to wait after the attempt of this number, the first being 1, has failed."""
        grown = self.backoff_s * (self.factor ** (attempt - 1) if self.backoff == "exp" else 1)
        return float(min(grown, self.backoff_max_s))

    def again(self, attempt: int, error: BaseException) -> bool:
        """Whether a record is worth another try after this one."""
        return attempt < self.attempts and isinstance(error, self.on)


NEVER = Retry(attempts=1)
"""One attempt, and that is all."""


class Failure(NamedTuple):
    """What headers tell of a record's attempts so far; a record that never failed is its own origin."""

    attempts: int
    due_ms: int
    topic: str
    partition: int
    offset: int
    timestamp_ms: int


def retry_topic(topic: str, group: str, attempt: int) -> str:
    """Where records go after the attempt of this number; groups fail apart from each other."""
    return f"{topic}.{group}.retry-{attempt}"


def failure_of(record: ConsumerRecord) -> Failure:
    """Read the headers; those that are not ours, or are broken, count for nothing."""
    found = {name: value for name, value in record.headers if name.startswith(PREFIX) and value is not None}
    attempts, due_ms = (_number(found.get(PREFIX + name)) for name in ("attempt", "due-ms"))
    topic, *numbers = found.get(PREFIX + "origin", b"").decode(errors="replace").split("/")
    if attempts and len(numbers) == 3 and all(word.isascii() and word.isdigit() for word in numbers):
        partition, offset, timestamp_ms = (_number(word.encode()) for word in numbers)
        return Failure(attempts, due_ms, topic, partition, offset, timestamp_ms)
    return Failure(0, 0, record.topic, record.partition, record.offset, max(0, record.timestamp_ms))


def headers_after(
    record: ConsumerRecord, error: BaseException, group: str, due_ms: int | None = None, before: Failure | None = None
) -> list[tuple[str, bytes | None]]:
    """The record's own headers and what its latest failure adds; `due_ms` None: it is not tried again.

    `before` are the attempts before that one, where the headers are not to be believed.
    """
    before = before or failure_of(record)
    origin = f"{before.topic}/{before.partition}/{before.offset}/{before.timestamp_ms}"
    told = f"{type(error).__name__}: {error}"[:CAUSE_LENGTH_MAX]
    added: dict[str, str] = {"attempt": str(before.attempts + 1), "group": group, "origin": origin, "cause": told}
    if due_ms is not None:
        added["due-ms"] = str(due_ms)
    kept = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
    return [*kept, *((PREFIX + name, value.encode(errors="replace")) for name, value in added.items())]


def _number(word: bytes | None) -> int:
    """A count in digits; 0 for anything else."""
    return int(word) if word is not None and word.isdigit() and len(word) < 20 else 0
