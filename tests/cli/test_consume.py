"""How records are printed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from redbroker.cli.consume import Reader, json_printer, text_printer
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import Record, build_batch, read_header
from tests.support.command import command
from tests.support.servers import Server

RECORD = Record(7, 1_700_000_000_000, b"k", b"v", [("a", b"1"), ("b", None)])


def test_a_format_names_every_part_of_a_record() -> None:
    assert text_printer("t", "%t %p %o %T %k %s %h\\n")(3, RECORD) == b"t 3 7 1700000000000 k v a=1,b=NULL\n"


def test_null_key_and_value_are_told_as_kcat_tells_them() -> None:
    assert text_printer("t", "%k\\t%s\\n")(0, RECORD._replace(key=None, value=None)) == b"NULL\tNULL\n"


def test_what_a_format_does_not_know_stays_as_it_is() -> None:
    assert text_printer("t", "100%% %q \\x é%")(0, RECORD) == "100% %q \\x é%".encode()


def test_json_keeps_bytes_that_are_no_text() -> None:
    told = orjson.loads(json_printer("t")(3, RECORD._replace(value=b"\xff\x00")))
    assert told["value"] == {"base64": "/wA="}
    assert (told["topic"], told["partition"], told["offset"], told["key"]) == ("t", 3, 7, "k")
    assert told["headers"] == [["a", "1"], ["b", None]]


@pytest.fixture
def numbers(valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic `numbers` of two partitions: 0 to 9 in partition 0, 10 to 19 in partition 1."""
    monkeypatch.setenv("REDBROKER_STORAGE_URL", valkey.unix_url)
    command("topic", "create", "numbers", "-p", "2")
    for partition in (0, 1):
        file = tmp_path / str(partition)
        file.write_text("".join(f"{partition * 10 + number}\n" for number in range(10)))
        command("produce", "numbers", "-p", str(partition), "--file", str(file))


@pytest.mark.usefixtures("numbers")
def test_a_place_to_begin_holds_for_each_partition() -> None:
    assert command("consume", "numbers", "-p", "0").lines == [str(number) for number in range(10)]
    assert sorted(command("consume", "numbers", "-o", "-2").lines) == ["18", "19", "8", "9"]
    assert sorted(command("consume", "numbers", "-o", "9").lines) == ["19", "9"]
    assert len(command("consume", "numbers", "-o", "@1h").lines) == 20
    assert command("consume", "numbers", "-o", "end").lines == []


@pytest.mark.usefixtures("numbers")
def test_a_count_stops_in_the_middle_of_a_batch() -> None:
    assert command("consume", "numbers", "-p", "1", "-n", "3").lines == ["10", "11", "12"]


@pytest.mark.usefixtures("numbers")
def test_what_was_trimmed_is_not_shown() -> None:
    command("topic", "trim", "numbers", "--before", "7", "--yes")
    assert sorted(command("consume", "numbers").lines) == ["17", "18", "19", "7", "8", "9"]


@pytest.mark.usefixtures("numbers")
def test_following_waits_for_what_comes(tmp_path: Path) -> None:
    later = tmp_path / "later"
    later.write_text("20\n21\n")
    producing = threading.Timer(0.5, lambda: command_line("produce", "numbers", "-p", "0", "--file", str(later)))
    producing.start()
    try:
        assert command("consume", "numbers", "-o", "end", "--follow", "-n", "2").lines == ["20", "21"]
    finally:
        producing.join()


def command_line(*words: str) -> None:
    """A command in a process of its own: two event loops in one process would share the standard output."""
    subprocess.run([sys.executable, "-m", "redbroker", *words], check=True, timeout=30, stdin=subprocess.DEVNULL)


@pytest.mark.anyio
async def test_a_redis_master_that_does_not_answer_for_a_moment_ends_nothing(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(storage_url=valkey.unix_url, storage_timeout_ms=300)
    async with Engine.open(settings) as engine:
        topic = await engine.topics.create("numbers", 2)
        batch = build_batch([Record(0, 1_000, b"k", b"v")])
        await engine.log.append([Append(topic, 1, batch, read_header(batch))], acks=1, timeout_ms=1_000)
        read, refusals = engine.log.read, 2

        async def refused(reads: Any, **how: Any) -> list[Any]:
            nonlocal refusals
            refusals -= 1
            results = await read(reads, **how)
            refusal = KafkaError(ErrorCode.REQUEST_TIMED_OUT, "Redis is silent.")
            return [
                refusal if each.partition and refusals >= 0 else one for each, one in zip(reads, results, strict=True)
            ]

        monkeypatch.setattr(engine.log, "read", refused)
        reader = Reader(engine, topic, settings, {0: 0, 1: 0})
        assert await reader.more() == await reader.more() == []
        [(partition, record)] = await reader.more()
        assert (partition, record.value) == (1, b"v")
        refusals, began_s = 1_000, time.monotonic()
        with pytest.raises(KafkaError, match="Redis is silent"):
            while True:
                await reader.more()
        assert 0.3 < time.monotonic() - began_s < 2
