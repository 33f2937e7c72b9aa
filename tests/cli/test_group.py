"""`redbroker group`: lag in records and seconds, members, moving and forgetting, each on a real server."""

from __future__ import annotations

import asyncio
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from redbroker.broker.api import load
from redbroker.cli.group_view import age, changes, headline
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.log import Append
from redbroker.engine.offsets import Commit
from redbroker.wire.records import read_header
from tests.support.command import command
from tests.support.door import Door, a_batch
from tests.support.memberships import joined
from tests.support.servers import Server

load()
HOUR_AGO_MS = int(time.time() * 1_000) - 3_600_000


@pytest.fixture
def storage(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A topic `orders` of two partitions: ten records of an hour ago in partition 0, one second apart."""
    monkeypatch.setenv("REDBROKER_STORAGE_URL", valkey.unix_url)

    async def fill(door: Door) -> None:
        topic = await door.topic(partitions=2)
        batch = a_batch(*(b"%d" % number for number in range(10)), timestamp=HOUR_AGO_MS, step=1_000)
        [appended] = await door.engine.log.append(
            [Append(topic, 0, memoryview(batch), read_header(batch))], acks=1, timeout_ms=5_000
        )
        assert appended.base_offset == 0

    at(valkey, fill)
    return valkey


def at(storage: Server, work: Callable[[Door], Awaitable[Any]]) -> Any:
    """Do some work on an engine on this storage."""

    async def whole() -> Any:
        settings = Settings(storage_url=storage.unix_url)
        async with Engine.open(settings) as engine:
            return await work(Door(engine, settings))

    return asyncio.run(whole())


async def commit_four(door: Door) -> None:
    await door.engine.offsets.commit("app", [Commit("orders", 0, 4)])


async def join_app(door: Door) -> str:
    await commit_four(door)
    both = struct.pack(">hih6siiii", 0, 1, 6, b"orders", 2, 0, 1, -1)
    return (await joined(door, "app", assignment=lambda _member: both)).id


def test_lag_is_told_in_records_and_in_seconds(storage: Server) -> None:
    at(storage, commit_four)
    seen = command("group", "describe", "app", "--format", "json").json
    assert (seen["state"], seen["lag"], seen["members"]) == ("Empty", 6, [])
    [row] = seen["partitions"]
    assert (row["topic"], row["partition"], row["committed"], row["end"], row["lag"]) == ("orders", 0, 4, 10, 6)
    oldest_unread_s = time.time() - (HOUR_AGO_MS / 1_000 + 4)
    assert oldest_unread_s - 5 < row["lag_s"] < oldest_unread_s + 0.1


def test_members_their_partitions_and_hosts_are_shown(storage: Server) -> None:
    member = at(storage, join_app)
    seen = command("group", "describe", "app", "--format", "json").json
    assert (seen["state"], seen["type"], seen["protocol"]) == ("Stable", "classic", "range")
    assert [(each["member"], each["client"], each["host"], each["partitions"]) for each in seen["members"]] == [
        (member, "test", "127.0.0.1", 2)
    ]
    rows = {row["partition"]: (row["member"], row["committed"], row["lag"]) for row in seen["partitions"]}
    assert rows == {0: (member, 4, 6), 1: (member, None, 0)}
    told = command("group", "describe", "app")
    assert "app  Stable" in told.lines[0]
    assert "1 member on 1 host" in told.lines[0]
    assert any(member in line and "orders" in line for line in told.lines[1:])


def test_groups_are_listed_and_filtered_by_state(storage: Server) -> None:
    assert "no groups" in command("group", "list").out
    at(storage, join_app)
    at(storage, lambda door: door.engine.offsets.commit("batch job", [Commit("orders", 0, 1)]))
    listed = command("group", "list", "--format", "json").json
    assert [(each["group"], each["state"]) for each in listed] == [("app", "Stable"), ("batch job", "Empty")]
    assert [each["group"] for each in command("group", "list", "--state", "stable", "--format", "json").json] == ["app"]


@pytest.mark.parametrize(("to", "offset"), [("start", 0), ("end", 10), ("7", 7), ("-2", 8), ("@2h", 0), ("@1ms", 10)])
def test_a_group_is_moved_to_a_place(storage: Server, to: str, offset: int) -> None:
    at(storage, commit_four)
    dry = command("group", "seek", "app", "--to", to, "--dry-run")
    assert (dry.code, "dry run" in dry.out) == (0, True)
    assert command("group", "describe", "app", "--format", "json").json["partitions"][0]["committed"] == 4
    moved = command("group", "seek", "app", "--to", to, "--yes", "--format", "json")
    assert moved.json == [{"topic": "orders", "partition": 0, "from": 4, "to": offset}]
    assert command("group", "describe", "app", "--format", "json").json["partitions"][0]["committed"] == offset


def test_a_new_group_is_made_by_seeking_named_partitions(storage: Server) -> None:
    told = command("group", "seek", "new", "--to", "end", "--topic", "orders:1", "--yes", "--format", "json")
    assert told.json == [{"topic": "orders", "partition": 1, "from": None, "to": 0}]
    told = command("group", "seek", "new", "--to", "start", "-t", "orders", "--yes", "--format", "json")
    assert [(row["partition"], row["to"]) for row in told.json] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("words", [("seek", "app", "--to", "start"), ("delete", "app")])
def test_a_group_with_members_is_left_alone(storage: Server, words: tuple[str, ...]) -> None:
    at(storage, join_app)
    told = command("group", *words, "--yes")
    assert told.code == 1
    assert told.err == "redbroker: NON_EMPTY_GROUP: group app has 1 member; stop them first.\n"


def test_a_group_is_forgotten_with_its_offsets(storage: Server) -> None:
    at(storage, commit_four)
    assert "dry run: delete app with 1 committed offset" in command("group", "delete", "app", "--dry-run").out
    assert command("group", "delete", "app", "--yes").out == "deleted app\n"
    assert command("group", "list", "--format", "json").json == []


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("describe", "apps"), 1, "there is no group apps; did you mean app?"),
        (("delete", "nobody", "--yes"), 1, "there is no group nobody; `redbroker group list` shows those there are."),
        (("seek", "app", "--to", "nowhere"), 2, "'nowhere' is no place in a log"),
        (("seek", "app", "--to", "end", "-t", "order"), 1, "there is no topic order; did you mean orders?"),
        (("seek", "app", "--to", "end", "-t", "orders:x"), 2, "--topic takes TOPIC or TOPIC:PARTITION, not 'orders:x'"),
        (("seek", "app", "--to", "end", "-t", "orders:7"), 2, "orders has partitions 0 to 1, not 7"),
        (("seek", "nobody", "--to", "end"), 1, "there is no group nobody"),
        (("seek", "app", "--to", "end"), 2, "not done without --yes"),
    ],
)
def test_failures_are_one_sentence(storage: Server, words: tuple[str, ...], code: int, sentence: str) -> None:
    at(storage, commit_four)
    told = command("group", *words)
    assert told.code == code
    assert sentence in told.err
    assert told.err.count("\n") == 1


@pytest.mark.usefixtures("storage")
def test_watching_looks_again_and_again(storage: Server) -> None:
    at(storage, commit_four)
    words = ("group", "describe", "app", "--watch", "--every", "0.1", "--format", "json")
    watching = subprocess.Popen(
        [sys.executable, "-m", "redbroker", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watching.stdout
    try:
        first = watching.stdout.readline()
        assert first, watching.communicate()[1].decode()
        assert orjson.loads(first)["state"] == "Empty"
        at(storage, join_app)
        while (seen := orjson.loads(watching.stdout.readline()))["state"] != "Stable":
            pass
        assert len(seen["members"]) == 1
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
    finally:
        watching.kill()
        watching.communicate()


def snapshot(**changed: Any) -> dict[str, Any]:
    row = {"topic": "t", "partition": 0, "member": "a"}
    return {
        "group": "app", "type": "classic", "state": "Stable", "epoch": 1, "protocol": "range", "coordinator": "h:1",
        "lag": 1_500, "lag_s": 3_725.0, "partitions": [row], "members": [{"member": "a", "host": "h", "partitions": 1}],
        **changed,
    }  # fmt: skip


def test_what_happened_between_two_looks_is_told_in_sentences() -> None:
    members = [{"member": "b", "host": "x", "partitions": 1}]
    later = snapshot(
        epoch=2, coordinator="h:2", members=members, partitions=[{"topic": "t", "partition": 0, "member": "b"}]
    )
    assert changes(None, snapshot()) == []
    assert changes(snapshot(), snapshot()) == []
    assert changes(snapshot(), later) == [
        "b joined from x", "a is gone", "coordinator h:1 -> h:2", "Stable 1 -> Stable 2", "1 partition moved",
    ]  # fmt: skip


def test_the_headline_says_how_far_behind_the_group_is() -> None:
    line = headline(snapshot())
    assert line.startswith("app  Stable  classic, range  generation 1  1 member on 1 host")
    assert "lag 1,500 records, 1 h 2 m" in line
    assert "no members" in headline(snapshot(members=[]))


def test_ages_are_short() -> None:
    told = [age(None), age(0), age(0.44), age(200), age(7_500), age(270_000)]
    assert told == ["-", "0 s", "0.4 s", "3 m 20 s", "2 h 5 m", "3 d 3 h"]
