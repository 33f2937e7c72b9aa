"""The machine of consumer groups as the engine uses it: text scenarios, through both protocols."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.machines.consumer_scenarios import Play, play

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("consumer_*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_goes_as_it_is_written(path: Path) -> None:
    played = play(path)
    if os.environ.get("REDBROKER_REWRITE"):
        path.write_text(played)
    assert played == path.read_text()


def test_a_classic_members_session_is_its_own_and_it_is_steady_until_it_must_rejoin() -> None:
    play = Play()
    for line in ("topics orders=2", "classic x orders", "wait 200", "wait 800", "classic x orders"):
        play.do(line)
    play.do("sync x x=orders:0+orders:1")
    play.do("join n orders")
    session = play.group.sessions()["x"]
    assert (session.timeout_ms, session.classic, session.steady) == (10_000, True, False)
    play.do("classic x orders")
    play.do("sync x")
    assert play.group.sessions()["x"].steady
    assert not play.group.sessions()["n"].classic


@pytest.mark.parametrize(("policy", "upgrades", "downgrades"), [
    ("bidirectional", True, True), ("upgrade", True, False), ("downgrade", False, True), ("disabled", False, False),
])  # fmt: skip
def test_the_migration_policy_opens_each_way(policy: str, upgrades: bool, downgrades: bool) -> None:
    play = Play()
    for line in ("topics orders=2", "classic x orders", "wait 200", "wait 800", "classic x orders"):
        play.do(line)
    play.settings = play.settings.model_copy(update={"group_consumer_migration_policy": policy})
    answer = play.do("join n orders")
    assert ("GROUP_ID_NOT_FOUND" in answer) != upgrades
    if upgrades:
        play.do("leave n")
        assert (play.group.type == "classic") == downgrades


def test_a_parked_join_is_woken_when_its_group_is_upgraded() -> None:
    play = Play()
    play.do("topics orders=2")
    assert play.do("classic x orders") == "x: parked"
    play.do("join n orders")
    assert play.woken
    assert play.do("classic x orders") == "x: joined generation 1 range leader nobody"


# --- who waits is woken -----------------------------------------------------------------------------------------


def play_of(*lines: str) -> Play:
    play = Play()
    for line in lines:
        play.do(line)
    return play


SHARED = (
    "topics orders=4", "join a orders instance=pod-0", "does a", "join b orders", "beat a", "does a", "beat b",
    "does b",
)  # fmt: skip
"""a and b have two partitions each, and nothing is to come."""


@pytest.mark.parametrize("line", [
    "join c orders", "leave b", "expire b", "reads b orders clicks", "topics orders=5", "topics clicks=1",
])  # fmt: skip
def test_a_new_target_wakes_the_group(line: str) -> None:
    play = play_of("topics orders=4 clicks=2", *SHARED[1:])
    before = play.group.epoch
    play.do(line)
    assert play.group.epoch > before
    assert play.woken


def test_a_partition_that_was_let_go_wakes_who_waits_for_it_and_taking_it_wakes_nobody() -> None:
    play = play_of(*SHARED[:4])
    assert play.woken  # b joined: a has to give up two partitions
    assert play.do("beat a") == "a: epoch 1 reads orders:0,1, more to come"
    assert not play.woken  # it was told so, and has not done it yet
    assert play.do("beat b") == "b: epoch 2, more to come"
    assert not play.woken
    play.do("does a")
    assert play.woken
    assert play.do("beat b") == "b: epoch 2 reads orders:2,3"
    assert not play.woken


def test_a_revocation_that_took_too_long_wakes_who_waits_for_its_partitions() -> None:
    play = play_of(*SHARED[:5])
    play.do("wait 999")
    assert not play.woken
    play.do("wait 1")
    assert play.woken


@pytest.mark.parametrize("line", ["beat a", "does b", "wait 500", "topics orders=4", "beat b epoch=1", "leave nobody"])
def test_what_concerns_no_other_member_wakes_nobody(line: str) -> None:
    play = play_of(*SHARED)
    before = play.group.epoch
    play.do(line)
    assert play.group.epoch == before
    assert not play.woken


def test_a_static_member_that_is_away_and_back_wakes_nobody() -> None:
    play = play_of(*SHARED)
    for line in ("away a", "beat b", "join a2 orders instance=pod-0", "does a2"):
        play.do(line)
        assert not play.woken
    assert play.group.epoch == 2


def test_the_first_member_of_all_has_nobody_to_wake() -> None:
    play = play_of("topics orders=4", "join a orders")
    assert not play.woken
