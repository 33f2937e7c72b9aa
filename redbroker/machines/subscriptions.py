"""What the members of a consumer group read: topic names and patterns, resolved against the topics there are.

Patterns are RE2's (KIP-848), matched against the whole name. RE2 needs time in proportion to the name, whatever the
pattern, so no pattern of a client can stop the worker; its memory is bounded here, and so is its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import re2

from redbroker.errors import ErrorCode, KafkaError

PATTERN_LENGTH_MAX = 10_000
PATTERN_BYTES_MAX = 1 << 20
"""Memory one compiled pattern may take."""


class Described(Protocol):
    """What must be known of a topic."""

    @property
    def id(self) -> UUID: ...

    @property
    def partitions(self) -> int: ...


Catalogue = Mapping[str, Described]
"""All topics by name."""


class Known(NamedTuple):
    """A topic as the group last saw it: its id as 32 hex digits."""

    id: str
    partitions: int


@lru_cache(maxsize=256)
def matcher(pattern: str) -> Callable[[str], Any]:
    """Tells whether a whole topic name matches; INVALID_REGULAR_EXPRESSION says what is wrong with a pattern."""
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise KafkaError(
            ErrorCode.INVALID_REGULAR_EXPRESSION, f"A pattern may have {PATTERN_LENGTH_MAX} characters at most."
        )
    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_BYTES_MAX
    try:
        return re2.compile(pattern, options).fullmatch  # type: ignore[no-any-return]
    except (re2.error, UnicodeError) as wrong:
        why = wrong.args[0] if wrong.args else wrong
        why = (why.decode(errors="replace") if isinstance(why, bytes) else str(why))[:200]
        raise KafkaError(
            ErrorCode.INVALID_REGULAR_EXPRESSION, f"{pattern[:100]!r} is not an RE2 pattern: {why}."
        ) from None


def resolve(
    names: Iterable[str], patterns: Iterable[str], catalogue: Catalogue
) -> tuple[dict[str, Known], dict[str, tuple[str, ...]]]:
    """(the existing topics that are read, the names each pattern matches); topics that do not exist are left out."""
    matches = {
        pattern: tuple(sorted(filter(matcher(pattern), catalogue))) for pattern in sorted(set(patterns)) if pattern
    }
    read = set(names).union(*matches.values())
    return (
        {name: Known(catalogue[name].id.hex, catalogue[name].partitions) for name in sorted(read) if name in catalogue},
        matches,
    )
