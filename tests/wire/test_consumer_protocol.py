"""The consumer protocol's bytes: what real clients write is read, and hostile bytes are only malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.types import TopicPartition
from redbroker.wire.consumer_protocol import (
    SUBSCRIPTION,
    Subscription,
    read_assignment,
    read_subscription,
    write_assignment,
)
from redbroker.wire.schema import MalformedMessage, encoder

Owned = SUBSCRIPTION.struct("owned_partitions")


@given(st.dictionaries(st.text("abc.-_", min_size=1, max_size=9), st.sets(st.integers(0, 2**31 - 1), max_size=5)))
def test_an_assignment_is_read_as_it_was_written(topics: dict[str, set[int]]) -> None:
    partitions = {TopicPartition(topic, number) for topic, numbers in topics.items() for number in numbers}
    for version in range(5):
        assert set(read_assignment(write_assignment(sorted(partitions), version))) == partitions


def test_every_version_of_a_subscription_tells_what_it_has() -> None:
    value = SUBSCRIPTION.cls(
        topics=["a", "b"], user_data=b"u", owned_partitions=[Owned(topic="a", partitions=[0, 2])], generation_id=7,
        rack_id="r",
    )  # fmt: skip
    found = []
    for version in range(4):
        parts: list[bytes] = [version.to_bytes(2, "big")]
        encoder(SUBSCRIPTION, version, False)(value, parts.append)
        found.append(read_subscription(b"".join(parts)))
    owned = (TopicPartition("a", 0), TopicPartition("a", 2))
    assert found == [
        Subscription(0, ("a", "b"), user_data=b"u"),
        Subscription(1, ("a", "b"), owned, user_data=b"u"),
        Subscription(2, ("a", "b"), owned, 7, user_data=b"u"),
        Subscription(3, ("a", "b"), owned, 7, "r", b"u"),
    ]


def test_the_assignment_of_a_member_that_gets_nothing_is_empty() -> None:
    assert read_assignment(b"") == ()


@given(st.binary(max_size=60))
def test_other_bytes_are_malformed_and_nothing_else(data: bytes) -> None:
    for read in (read_subscription, read_assignment):
        try:
            read(data)
        except MalformedMessage:
            continue


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xff\0\0\0\0", b"\0\0\x7f\xff\xff\xff"])
def test_bytes_that_are_no_subscription_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_subscription(data)
