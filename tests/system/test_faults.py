"""A short run of faults: one of each kind, several at once, real clients, and nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.faults.checker import Policy
from tests.system.faults.nemesis import FAULTS
from tests.system.faults.report import page
from tests.system.faults.run import Outcome, Plan, run
from tests.system.faults.summary import write_pages

pytestmark = pytest.mark.system

POLICY = Policy()
ROUNDS = (
    ["kill-worker"], ["kill-master"], ["reshard", "flush-scripts"], ["pause-worker", "pause-master"], [],
    ["restart-master", "kill-replica"], ["failover"], ["slow-replica"], ["fill-memory", "failover-by-force"],
)  # fmt: skip


def whole(outcome: Outcome) -> None:
    """Nothing forbidden, everybody ended in good order, and all kinds of work were done."""
    assert outcome.verdict.valid, outcome.verdict.findings
    assert set(outcome.codes.values()) == {0}, outcome.codes
    assert outcome.verdict.counts["acknowledged"] > 500
    assert outcome.verdict.counts["read"] > 500
    text, _ = page(outcome)
    assert "nothing lost" in text
    assert write_pages([outcome.history], outcome.history.parent)
    told = (outcome.history.parent / "fault-runs.md").read_text()
    assert f"## Seed {outcome.plan.seed}: nothing lost" in told
    assert (outcome.history.parent / f"fault-runs-{outcome.plan.seed}.svg").read_text().startswith("<svg")


@pytest.mark.timeout(180)
def test_a_cluster_under_faults_loses_nothing_acknowledged(tmp_path: Path) -> None:
    assert {name for names in ROUNDS for name in names} <= set(FAULTS)
    plan = Plan(rounds=ROUNDS, held_s=(0.5, 2.0), between_s=0.5, quiet_s=3.0, policy=POLICY)
    outcome = run(plan, tmp_path / "history.jsonl")
    whole(outcome)
    assert outcome.verdict.counts["faults"] >= 9


@pytest.mark.timeout(120)
def test_a_pair_under_faults_loses_nothing_acknowledged(tmp_path: Path) -> None:
    plan = Plan(
        cluster=False,
        partitions=3,
        rounds=(["kill-master"], ["pause-replica", "kill-worker"], ["kill-master-and-replica"]),
        held_s=(0.3, 1.0),
        between_s=0.5,
        quiet_s=2.0,
        clients=("confluent-writes", "engine-writes", "engine-reads"),
        policy=POLICY,
    )
    whole(run(plan, tmp_path / "history.jsonl"))
