"""What a run of faults says of itself, in words that a stranger takes as they are meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.faults.checker import Verdict
from tests.system.faults.report import again, conclusion
from tests.system.faults.run import Outcome, Plan


def outcome(verdict: Verdict, **codes: int | None) -> Outcome:
    verdict.counts.update(faults=9, acknowledged=19_518)
    return Outcome(Plan(), verdict, {}, codes, Path("history"), 1.0, "Valkey 9")


def test_what_acks_1_lost_is_told_beside_what_acks_all_did_not():
    verdict = Verdict()
    verdict.add("lost-write", False, "one:0", 46)
    assert conclusion(outcome(verdict, writer=0)) == (
        "9 faults, 19,518 records acknowledged; nothing lost, doubled or hidden of what acks=all acknowledged;"
        " tolerated: 46 lost-write"
    )


def test_an_anomaly_and_a_client_that_ended_badly_are_named():
    verdict = Verdict()
    verdict.add("duplicate", True, "all:0", 2)
    assert conclusion(outcome(verdict, reader=None, writer=0)) == (
        "9 faults, 19,518 records acknowledged; ANOMALIES: 2 duplicate; reader ended with None"
    )


@pytest.mark.parametrize(
    ("plan", "command"),
    [
        (Plan(seed=7), "make faults SEED=7"),
        (Plan(seed=7, cluster=False), 'make faults SEED=7 ARGS="--single"'),
        (Plan(seed=7, binary="redis-server", cluster=False), 'make faults SEED=7 ARGS="--redis --single"'),
    ],
)
def test_the_command_that_chooses_the_same_faults_has_their_flags(plan, command):
    assert again(plan) == command
