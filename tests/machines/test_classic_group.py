"""The classic group machine: text scenarios, and invariants under any order of events."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.classic_group import (
    COMPLETING,
    EMPTY,
    PREPARING,
    STABLE,
    ClassicGroup,
    Heartbeat,
    Joined,
    JoinGroup,
    Leave,
    LeaveGroup,
    Synced,
    SyncGroup,
    step,
)
from redbroker.machines.group import Expire, Park, Tick
from tests.machines.classic_scenarios import ZERO_MS, play

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("classic_*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_goes_as_it_is_written(path: Path) -> None:
    played = play(path)
    if os.environ.get("REDBROKER_REWRITE"):
        path.write_text(played)
    assert played == path.read_text()


CONFIG = Settings(
    group_initial_rebalance_delay_ms=200, group_min_session_timeout_ms=1_000, group_max_size=6, group_bytes_max=1024
)
EXAMPLES = int(os.environ.get("REDBROKER_EXAMPLES", "60"))
LABELS = [f"m{n}" for n in range(8)]
PROTOCOLS = st.sampled_from(
    [(("range", b"1"),), (("range", b"2"),), (("range", b"1"), ("sticky", b"1")), (("x", b""),)]
)


class Groups(RuleBasedStateMachine):
    """Members that do anything in any order; parked requests are stepped again, or forgotten by dead connections."""

    @initialize()
    def begin(self) -> None:
        self.group: ClassicGroup | None = None
        self.now_ms = ZERO_MS + 1_000_000
        self.parked: dict[str, Any] = {}
        self.assigned: dict[int, dict[str, bytes]] = {}
        self.count = 0
        self.generation = 0

    def apply(self, event: Any, key: str | None = None) -> Any:
        """Step, check what always holds of a step, wake who is parked."""
        before = self.group
        made = step(before, event, self.now_ms, CONFIG)
        again = step(before, event, self.now_ms, CONFIG)
        assert (made.group, type(made.answer), made.wake) == (again.group, type(again.answer), again.wake)
        if made.group == before:
            assert made.group is before or before is None
        self.group = made.group
        assert self.group is not None or before is None
        if self.group is not None:
            assert made.touched <= self.group.members.keys()
        if isinstance(made.answer, Park):
            assert made.answer.until_ms >= self.now_ms
            assert key is not None
            self.parked[key] = made.answer.event
        else:
            self.check_answer(made.answer, key)
        if made.wake:
            for waiting, parked in list(self.parked.items()):
                if waiting in self.parked:
                    del self.parked[waiting]
                    self.apply(parked, waiting)
        return made.answer

    def check_answer(self, answer: Any, key: str | None) -> None:
        group = self.group
        if isinstance(answer, Joined) and answer.error is ErrorCode.NONE:
            assert group is not None
            assert answer.generation == group.generation
            assert answer.member_id in group.members
            if answer.members:
                assert answer.leader == answer.member_id
                assert [member_id for member_id, _, _ in answer.members] == list(group.members)
        if isinstance(answer, Synced):
            assert group is not None
            assert group.phase == STABLE
            assert key is not None

    # --- events ------------------------------------------------------------------------------------------------

    @rule(
        label=st.sampled_from(LABELS), fresh=st.booleans(), static=st.booleans(), old=st.booleans(),
        protocols=PROTOCOLS, rebalance_ms=st.sampled_from([1_000, 30_000]),
    )  # fmt: skip
    def join(self, label: str, fresh: bool, static: bool, old: bool, protocols: Any, rebalance_ms: int) -> None:
        known = [member_id for member_id in self.ids() if member_id.startswith(f"{label}-")]
        member_id = "" if fresh or not known else known[0]
        self.count += 1
        event = JoinGroup(
            member_id, f"{label}-{self.count}", f"i{label}" if static else None, label, "host", 10_000, rebalance_ms,
            "consumer", protocols, known_id_required=not old, skip_supported=old,
        )  # fmt: skip
        self.apply(event, member_id or event.new_member_id)

    @rule(place=st.integers(0, 9), stale=st.booleans(), value=st.binary(max_size=2))
    def sync(self, place: int, stale: bool, value: bytes) -> None:
        members = self.members()
        if members:
            member = members[place % len(members)]
            assert self.group is not None
            assignments = tuple((each.id, value + each.id.encode()) for each in members[: place + 1])
            event = SyncGroup(
                member.id, self.group.generation - stale, member.instance_id,
                assignments=assignments if member.id == self.group.leader else (),
            )  # fmt: skip
            answer = self.apply(event, member.id)
            assert not (stale and isinstance(answer, Synced))

    @rule(place=st.integers(0, 9))
    def beat(self, place: int) -> None:
        members = self.members()
        if members:
            member = members[place % len(members)]
            assert self.group is not None
            answer = self.apply(Heartbeat(member.id, self.group.generation, member.instance_id))
            if self.group.phase == PREPARING and member.id in self.group.members:
                assert isinstance(answer, KafkaError)

    @rule(places=st.sets(st.integers(0, 9), min_size=1, max_size=3))
    def leave(self, places: set[int]) -> None:
        ids = self.ids()
        if ids:
            leavers = {ids[place % len(ids)] for place in places}
            self.apply(LeaveGroup(tuple(Leave(each) for each in leavers)))
            assert not leavers & set(self.ids())

    @rule(places=st.sets(st.integers(0, 9), max_size=3))
    def expire(self, places: set[int]) -> None:
        members = self.members()
        gone = {members[place % len(members)].id for place in places} if members else set()
        waits = {member.id for member in members if member.id in gone and not member.watched}
        self.apply(Expire(tuple(gone)))
        assert waits <= set(self.ids()) or self.group is None or self.group.phase != PREPARING

    @rule(ms=st.sampled_from([10, 200, 1_000, 30_000, 90_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.apply(Tick())

    @rule()
    def deadline(self) -> None:
        """Whoever is parked comes exactly when it is due."""
        if self.group is not None and self.group.next_deadline_ms is not None:
            self.now_ms = max(self.now_ms, self.group.next_deadline_ms)
            self.apply(Tick())

    @rule(place=st.integers(0, 9))
    def hang_up(self, place: int) -> None:
        if self.parked:
            del self.parked[sorted(self.parked)[place % len(self.parked)]]

    # --- what always holds ---------------------------------------------------------------------------------------

    def members(self) -> list[Any]:
        return list(self.group.members.values()) if self.group else []

    def ids(self) -> list[str]:
        return [*self.group.members, *self.group.pending] if self.group else []

    @invariant()
    def the_group_is_whole(self) -> None:
        group = self.group
        if group is None:
            return
        members = group.members.values()
        assert ClassicGroup.from_json(group.to_json()) == group
        if group.phase in (COMPLETING, STABLE):
            assert sum(member.instance_id is None for member in members) <= CONFIG.group_max_size
        assert not group.members.keys() & group.pending.keys()
        assert [member.id for member in members] == list(group.members)
        assert group.nbytes == sum(len(name) + len(data) for each in members for name, data in each.protocols)
        instances = [member.instance_id for member in members if member.instance_id]
        assert len(instances) == len(set(instances))
        if not members:  # the initial delay runs its time, and ids that were given out are waited for
            waits = group.remaining_ms is not None or bool(group.pending)
            assert group.phase == EMPTY or (group.phase == PREPARING and waits)
        assert not (members and group.phase == EMPTY)
        assert group.leader in group.members if members else group.leader is None or group.phase == PREPARING
        if group.phase == STABLE:
            assert not any(member.joined or member.syncing for member in members)
        if group.phase == COMPLETING:
            assert not any(member.joined for member in members)
            assert group.protocol in set.intersection(*({name for name, _ in each.protocols} for each in members))
        if group.phase == PREPARING:
            assert not any(member.unsynced or member.syncing for member in members)
        if group.phase in (PREPARING, COMPLETING):
            assert group.deadline_ms is not None
        if any(member.unsynced for member in members):
            assert group.deadline_ms is not None

    @invariant()
    def generations_only_grow_and_one_has_one_assignment(self) -> None:
        group = self.group
        if group is None:
            return
        assert group.generation >= self.generation
        self.generation = group.generation
        if group.phase == STABLE:
            given = self.assigned.setdefault(group.generation, {})
            for member in group.members.values():
                place = member.instance_id or member.id
                assert given.setdefault(place, member.assignment) == member.assignment

    @invariant()
    def nobody_waits_for_what_has_happened(self) -> None:
        for event in list(self.parked.values()):
            assert isinstance(step(self.group, event, self.now_ms, CONFIG).answer, Park)

    def teardown(self) -> None:
        """Time alone brings every group to rest: a group with members ends empty once all of them are silent."""
        for _ in range(40):
            if self.group is None or (self.group.phase == EMPTY and not self.group.pending):
                return
            self.now_ms += 1_000
            self.deadline()
            self.apply(Expire(tuple(self.group.members)))
        raise AssertionError(self.group)


TestGroups = Groups.TestCase
TestGroups.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_two_hundred_joins_are_stepped_in_little_time() -> None:
    group, config, began_s = None, Settings(), time.process_time()
    for n in range(200):
        event = JoinGroup("", f"m{n}", None, "c", "h", 10_000, 30_000, "consumer", (("range", b"x" * 50),), False)
        group = step(group, event, ZERO_MS, config).group
    assert group is not None
    assert len(group.members) == 200
    assert time.process_time() - began_s < 1
