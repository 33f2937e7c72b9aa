"""Lines become records."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from redbroker.cli.consume import json_printer
from redbroker.cli.produce import CODECS, Lines
from redbroker.cli.shared import Misuse
from redbroker.wire.records import Record
from tests.support.command import command
from tests.support.servers import Server


def lines(*, key: bytes | None = None, json: bool = False, partition: int | None = None) -> Lines:
    return Lines(key=key, json=json, headers=[("source", b"test")], partition=partition)


def test_a_line_is_a_value() -> None:
    [(partition, record)] = lines().records([b"hello\r"])
    assert (partition, record.key, record.value, record.headers) == (None, None, b"hello", [("source", b"test")])


def test_the_first_separator_parts_key_from_value() -> None:
    [(_, record)] = lines(key=b":").records([b"a:b:c"])
    assert (record.key, record.value) == (b"a", b"b:c")


def test_a_line_without_its_separator_is_refused_by_number() -> None:
    with pytest.raises(Misuse, match="line 2 has no key separator"):
        list(lines(key=b":").records([b"a:b", b"ab"]))


def test_what_consume_prints_as_json_is_taken_back() -> None:
    before = Record(9, 1_700_000_000_000, b"\xfe", None, [("a", b"1"), ("a", None)])
    [(partition, after)] = Lines(key=None, json=True, headers=[], partition=None).records(
        [json_printer("t")(2, before)]
    )
    assert partition == 2
    assert after._replace(offset=9) == before


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"key": 1}', b'{"value": 1, "timestamp": "x"}', b'{"value": {"base64": "?"}}']
)
def test_a_line_that_is_no_record_is_refused_by_number(line: bytes) -> None:
    with pytest.raises(Misuse, match="line 1 is no record"):
        list(lines(json=True).records([line]))


@pytest.fixture
def storage(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("REDBROKER_STORAGE_URL", valkey.unix_url)
    return valkey


@pytest.mark.usefixtures("storage")
def test_lines_of_a_file_come_back_in_their_order(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDBROKER_STORAGE_URL", valkey.unix_url)
    file = tmp_path / "lines"
    file.write_text("".join(f"key{number % 7}:{number}\n" for number in range(12_000)) + "last:without a newline")
    for codec in CODECS:
        topic = f"orders-{codec}"
        told = command("produce", topic, "-k", ":", "-z", codec, "--file", str(file), "--format", "json")
        assert told.json["records"] == 12_001
        read = command("consume", topic, "-f", "%k:%s\\n").lines
        assert sorted(read) == sorted(file.read_text().splitlines())
        for key in range(7):
            of_key = [int(line.partition(":")[2]) for line in read if line.startswith(f"key{key}:")]
            assert of_key == sorted(of_key)


@pytest.mark.usefixtures("storage")
def test_a_wrong_partition_or_line_stores_nothing(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDBROKER_STORAGE_URL", valkey.unix_url)
    file = tmp_path / "lines"
    file.write_text('{"value": 1}\n{"value": 2, "partition": 99}\n')
    told = command("produce", "orders", "--json", "--file", str(file))
    assert told.code == 2
    assert "partitions 0 to 3, not 99" in told.err
    assert command("consume", "orders").out == ""


@pytest.mark.usefixtures("storage")
def test_a_record_larger_than_its_topic_allows_is_refused(tmp_path: Path) -> None:
    command("topic", "create", "small", "-p", "1", "-c", "max.message.bytes=2000")
    file = tmp_path / "lines"
    file.write_text("".join("x" * 900 + "\n" for _ in range(10)))
    assert command("produce", "small", "--file", str(file), "--format", "json").json["records"] == 10
    file.write_text("x" * 2_000)
    told = command("produce", "small", "--file", str(file))
    assert told.code == 1
    assert "MESSAGE_TOO_LARGE" in told.err
    assert "max.message.bytes of small is 2,000" in told.err
    assert len(command("consume", "small").lines) == 10


@pytest.mark.system
@pytest.mark.usefixtures("storage")
def test_ctrl_c_ends_the_wait_for_a_line() -> None:
    command("topic", "create", "typed")
    words = [sys.executable, "-m", "redbroker", "produce", "typed"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdin
        assert running.stderr
        running.stdin.write("one\n")
        running.stdin.flush()
        deadline = time.monotonic() + 30
        while command("consume", "typed").out != "one\n":  # after that it waits for the second line
            assert time.monotonic() < deadline
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert running.stderr.read() == ""


def test_a_topic_that_was_not_there_is_told_once(valkey: Server, tmp_path: Path) -> None:
    (file := tmp_path / "lines").write_bytes(b"a\n")
    words = ("produce", "misspelt", "--file", str(file), "--storage", valkey.unix_url)
    told = [command(*words) for _ in range(2)]
    assert [each.code for each in told] == [0, 0]
    assert [each.err for each in told] == ["created misspelt with 4 partitions\n", ""]
