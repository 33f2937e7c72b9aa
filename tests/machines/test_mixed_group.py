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
