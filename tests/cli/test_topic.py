"""`redbroker topic` on a real server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Told, command
from tests.support.servers import Server

Topic = Callable[..., Told]


@pytest.fixture
def topic(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> Topic:
    monkeypatch.setenv("REDBROKER_STORAGE_URL", valkey.unix_url)
    return functools.partial(command, "topic")


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[int], Told]:
    """Appends so many numbered lines to `orders`, partition 0."""

    def append(count: int) -> Told:
        file = tmp_path / "lines"
        file.write_text("".join(f"{number}\n" for number in range(count)))
        return command("produce", "orders", "-p", "0", "--file", str(file))

    return append


def test_a_topic_is_created_listed_described_and_deleted(topic: Topic) -> None:
    assert topic("create", "orders", "-p", "3", "-c", "retention.ms=-1").code == 0
    assert topic("list", "--format", "json").json == [{"topic": "orders", "partitions": 3}]
    described = topic("describe", "orders", "--format", "json").json
    assert described["configs"] == {"retention.ms": "-1"}
    assert [row["partition"] for row in described["partitions"]] == [0, 1, 2]
    assert all(row["memory"] > 0 for row in described["partitions"])
    assert "3 partitions" in topic("describe", "orders").out
    assert topic("delete", "orders", "--yes").out == "deleted orders\n"
    assert topic("list", "--format", "json").json == []


def test_creating_it_twice_fails_unless_that_is_expected(topic: Topic) -> None:
    topic("create", "orders")
    again = topic("create", "orders")
    assert again.code == 1
    assert again.err.startswith("redbroker: TOPIC_ALREADY_EXISTS")
    assert topic("create", "orders", "--if-not-exists").code == 0


def test_an_unknown_topic_is_told_with_the_name_that_is_close(topic: Topic) -> None:
    topic("create", "orders")
    told = topic("describe", "oders")
    assert told.code == 1
    assert "did you mean orders?" in told.err


def test_nothing_is_deleted_without_yes_when_nobody_can_be_asked(topic: Topic, lines: Callable[[int], Told]) -> None:
    topic("create", "orders", "-p", "1")
    lines(5)
    told = topic("delete", "orders")
    assert told.code == 2
    assert "5 records" in told.err
    assert topic("delete", "orders", "--dry-run").out == "dry run: delete orders with 5 records\n"
    assert topic("list", "--sizes", "--format", "json").json[0]["records"] == 5


def test_partitions_are_added_and_never_taken_away(topic: Topic) -> None:
    topic("create", "orders", "-p", "2")
    assert topic("add-partitions", "orders", "--to", "4", "--dry-run").code == 0
    assert topic("list", "--format", "json").json[0]["partitions"] == 2
    assert topic("add-partitions", "orders", "--to", "4").code == 0
    assert topic("list", "--format", "json").json[0]["partitions"] == 4
    fewer = topic("add-partitions", "orders", "--to", "3")
    assert fewer.code == 1
    assert "INVALID_PARTITIONS" in fewer.err


def test_configs_are_set_shown_and_unset(topic: Topic) -> None:
    topic("create", "orders")
    dry = topic("config", "orders", "--set", "max.message.bytes=2000", "--dry-run")
    assert "2000" in dry.out
    assert topic("describe", "orders", "--format", "json").json["configs"] == {}
    topic("config", "orders", "--set", "max.message.bytes=2000")
    shown = topic("config", "orders", "--format", "json").json
    assert {"config": "max.message.bytes", "value": "2000", "source": "topic"} in shown
    topic("config", "orders", "--unset", "max.message.bytes")
    assert topic("describe", "orders", "--format", "json").json["configs"] == {}
    assert len(topic("config", "orders", "--all", "--format", "json").json) > 25
    wrong = topic("config", "orders", "--set", "max.message.bytes=many")
    assert wrong.code == 1
    assert "INVALID_CONFIG" in wrong.err
    misspelt = topic("config", "orders", "--unset", "max.mesage.bytes")
    assert misspelt.code == 1
    assert "did you mean max.message.bytes?" in misspelt.err


def test_offsets_and_epochs_are_written_as_one_would_type_them(topic: Topic, lines: Callable[[int], Told]) -> None:
    topic("create", "orders", "-p", "1")
    lines(1_234)
    [described] = topic("describe", "orders", "--format", "json").json["partitions"]
    row = topic("describe", "orders").lines[-1].split()
    assert row[2:6] == [str(described["epoch"]), "0", "1234", "1,234"]


def test_a_log_is_trimmed_before_an_offset_or_wholly(topic: Topic, lines: Callable[[int], Told]) -> None:
    topic("create", "orders", "-p", "2")
    lines(10)
    assert "delete 4 records" in topic("trim", "orders", "--before", "4", "-p", "0", "--dry-run").out
    trimmed = topic("trim", "orders", "--before", "4", "-p", "0", "--yes", "--format", "json")
    assert trimmed.json == [{"partition": 0, "start": 4}]
    assert topic("trim", "orders", "--before", "@1h", "--dry-run").out == "dry run: delete 0 records of orders\n"
    whole = topic("trim", "orders", "--before", "end", "--yes", "--format", "json")
    assert whole.json == [{"partition": 0, "start": 10}, {"partition": 1, "start": 0}]
    assert topic("trim", "orders", "--before", "1", "-p", "7").code == 2
