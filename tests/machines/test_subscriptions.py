"""What members read: names, and patterns that no client can hurt with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

import pytest

from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.subscriptions import PATTERN_LENGTH_MAX, Known, matcher, resolve


@dataclass(frozen=True)
class Topic:
    id: UUID
    partitions: int


CATALOGUE = {name: Topic(UUID(int=number), number) for number, name in enumerate(("a", "ab", "b"), 1)}


def test_names_that_exist_and_matches_are_read_once_each() -> None:
    topics, matches = resolve(["a", "missing"], ["a.*", "", "a.*"], CATALOGUE)
    assert topics == {"a": Known(UUID(int=1).hex, 1), "ab": Known(UUID(int=2).hex, 2)}
    assert matches == {"a.*": ("a", "ab")}


@pytest.mark.parametrize("pattern", ["(", "(?=a)", "(?<!a)b", r"(a)\1", "a" * (PATTERN_LENGTH_MAX + 1), "(" * 5_000])
def test_what_is_no_re2_pattern_is_refused_with_a_sentence(pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KafkaError) as refused:
        matcher(pattern)
    assert refused.value.code == ErrorCode.INVALID_REGULAR_EXPRESSION
    assert len(refused.value.message) < 1_000
    assert "Error parsing" not in capfd.readouterr().err


@pytest.mark.parametrize("pattern", ["(a+)+$b", "(a|aa)+b", "(.*)*(.*)*(.*)*b", "((a{0,50}){0,10})b"])
def test_hostile_patterns_take_no_time(pattern: str) -> None:
    began = time.process_time()
    for _ in range(200):
        assert not matcher(pattern)("a" * 249)
    assert time.process_time() - began < 2


def test_a_pattern_that_needs_too_much_memory_is_refused() -> None:
    with pytest.raises(KafkaError) as refused:
        matcher("((a{1000}){1000}){1000}")
    assert refused.value.code == ErrorCode.INVALID_REGULAR_EXPRESSION
