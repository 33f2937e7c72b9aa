"""The proof of the fault harness: what loses data is flagged, every time, and the same thing done right is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.faults.scenarios import (
    ALWAYS,
    BURST,
    DUPLICATE_TOUCH,
    EPOCH_CHECK,
    EVERYSEC,
    MEMORY,
    SETTLED,
    STRACE,
    killed_and_promoted,
    killed_and_restarted,
    patched_scripts,
    stale_replica_promoted,
)

pytestmark = [pytest.mark.system, pytest.mark.anyio]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


async def test_all_copies_waited_for_nothing_is_lost(path: Path) -> None:
    verdict = await stale_replica_promoted(path, acks=-1)
    assert not verdict.findings
    assert verdict.counts["acknowledged"] == 2 * SETTLED
    assert verdict.counts["indefinite"] == BURST + 5


async def test_acks_one_loses_what_a_stale_replica_lacks(path: Path) -> None:
    verdict = await stale_replica_promoted(path, acks=1)
    assert verdict.fatal()["lost-write"] == BURST


async def test_fewer_copies_than_there_are_lose_what_a_stale_replica_lacks(path: Path) -> None:
    verdict = await stale_replica_promoted(path, acks=-1, replicas=2, min_insync=2)
    assert verdict.fatal()["lost-write"] >= BURST


async def test_wait_on_another_connection_is_no_promise(path: Path) -> None:
    verdict = await stale_replica_promoted(path, acks=-1, sabotage="wait-elsewhere")
    assert verdict.fatal()["lost-write"] == BURST


async def test_a_duplicate_that_writes_nothing_is_no_promise(path: Path) -> None:
    with patched_scripts(DUPLICATE_TOUCH, b""):
        verdict = await stale_replica_promoted(path, acks=-1)
    assert verdict.fatal()["lost-write"] == 5


async def test_without_the_epoch_check_one_epoch_has_two_contents(path: Path) -> None:
    with patched_scripts(EPOCH_CHECK, b"if true then"):
        verdict = await stale_replica_promoted(path, acks=1)
    assert verdict.fatal()["two-contents"] == SETTLED


async def test_with_the_epoch_check_it_has_one(path: Path) -> None:
    assert "two-contents" not in (await stale_replica_promoted(path, acks=1)).fatal()


async def test_an_acknowledged_burst_is_on_the_replica(path: Path) -> None:
    verdict = await killed_and_promoted(path, acks=-1)
    assert not verdict.findings
    assert verdict.counts["acknowledged"] == BURST


async def test_always_keeps_what_it_answered_through_a_restart(path: Path) -> None:
    verdict = await killed_and_restarted(path, ALWAYS, acks=-1)
    assert not verdict.findings
    assert verdict.counts["acknowledged"] == SETTLED + BURST


@pytest.mark.skipif(not STRACE, reason="needs strace, which makes the disk slow")
async def test_everysec_loses_by_a_restart_what_both_copies_had(path: Path) -> None:
    verdict = await killed_and_restarted(path, EVERYSEC, acks=-1)
    assert verdict.fatal()["lost-write"] >= BURST


async def test_without_a_file_a_restart_loses_everything(path: Path) -> None:
    verdict = await killed_and_restarted(path, MEMORY, acks=-1)
    assert verdict.fatal()["lost-write"] == SETTLED + BURST
