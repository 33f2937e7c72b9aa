"""Retries: when, how often, and what the headers keep of it."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redbroker.client import retries
from redbroker.client.retries import Failure, Retry, failure_of, headers_after, retry_topic
from redbroker.client.types import ConsumerRecord
from redbroker.engine.topics import check_name

FIRST = ConsumerRecord("orders", 3, 41, 1_000, b"k", b"v", [("trace", b"7f"), ("nothing", None)])


def test_the_example_holds() -> None:
    assert doctest.testmod(retries).failed == 0


def test_pauses_grow_up_to_their_bound_or_stay() -> None:
    grows = Retry(attempts=9, backoff_s=1, backoff_max_s=10)
    assert [grows.pause_s(attempt) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert [Retry(backoff="fixed", backoff_s=3).pause_s(attempt) for attempt in (1, 4)] == [3, 3]


def test_only_some_exceptions_are_worth_another_try_and_only_so_often() -> None:
    retry = Retry(attempts=2, on=(OSError,))
    assert retry.again(1, ConnectionError())
    assert not retry.again(1, ValueError())
    assert not retry.again(2, ConnectionError())


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"attempts": 0}, "attempts"), ({"attempts": 99}, "attempts"), ({"backoff": "linear"}, "backoff"),
     ({"backoff_s": 301}, "backoff_s"), ({"factor": 0.5}, "factor"), ({"on": [OSError]}, "on"),
     ({"on": ("OSError",)}, "on")],
)  # fmt: skip
def test_a_wrong_retry_names_what_is_wrong(wrong: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} = "):
        Retry(**wrong)  # type: ignore[arg-type]


def test_a_record_keeps_its_origin_and_its_own_headers_over_all_attempts() -> None:
    once = ConsumerRecord("orders.billing.retry-1", 0, 7, 2_000, b"k", b"v", headers_after(
        FIRST, ValueError("no such customer"), "billing", 5_000))  # fmt: skip
    assert failure_of(FIRST) == Failure(0, 0, "orders", 3, 41, 1_000)
    assert failure_of(once) == Failure(1, 5_000, "orders", 3, 41, 1_000)
    dead = headers_after(once, TimeoutError("bank"), "billing")
    assert dead == [
        ("trace", b"7f"), ("nothing", None), ("redbroker-attempt", b"2"), ("redbroker-group", b"billing"),
        ("redbroker-origin", b"orders/3/41/1000"), ("redbroker-cause", b"TimeoutError: bank"),
    ]  # fmt: skip


def test_a_cause_is_cut_and_any_text_can_be_one() -> None:
    headers = dict(headers_after(FIRST, ValueError("\ud800" + "x" * 5_000), "g"))
    assert len(headers["redbroker-cause"] or b"") <= 1_000


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["redbroker-attempt", "redbroker-due-ms", "redbroker-origin"]), st.binary())))
def test_headers_that_somebody_else_wrote_do_no_harm(headers: list[tuple[str, bytes]]) -> None:
    record = FIRST._replace(headers=headers)
    assert failure_of(record).attempts >= 0
    headers_after(record, ValueError(), "g")


def test_a_retry_topic_is_a_topic() -> None:
    check_name(retry_topic("orders", "billing", 1))
