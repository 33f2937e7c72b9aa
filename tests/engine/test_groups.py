"""Groups on real servers: one value per group, any number of workers, nobody loses or repeats anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.tending import Tender
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.assignors import NONE
from redbroker.machines.classic_group import ClassicGroup, Heartbeat, Joined, Leave, LeaveGroup, SyncGroup
from redbroker.machines.consumer_group import ConsumerHeartbeat
from redbroker.machines.group import Park
from redbroker.machines.reconciliation import LEAVE_STATIC
from tests.support.members import Member
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

FAST = {
    "group_initial_rebalance_delay_ms": 30, "group_min_session_timeout_ms": 100, "group_tend_ms": 50,
    "worker_heartbeat_ms": 100, "worker_timeout_ms": 600,
}  # fmt: skip


@contextlib.asynccontextmanager
async def opened(server: Any, **settings: Any) -> AsyncIterator[Engine]:
    async with Engine.open(Settings(storage_url=server.url, **(FAST | settings))) as engine:
        yield engine


@pytest.fixture
async def engine(valkey: Server) -> AsyncIterator[Engine]:
    async with opened(valkey) as engine:
        yield engine


async def until(condition: Any, timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def refused(call: Any) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        await call
    return caught.value.code


def head(server: Server, group: str = "g") -> dict[str, str]:
    flat = [word.decode() for word in server.command("HGETALL", f"rb:{{g:{group}}}:head")]
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def until_phase(server: Server, phase: str) -> None:
    async def reached() -> bool:
        return head(server).get("phase") == phase

    await until(reached)


def assignment(server: Server, group: str = "g") -> dict[str, str]:
    flat = [word.decode() for word in server.command("HGETALL", f"rb:{{g:{group}}}:assignment")]
    return dict(zip(flat[::2], flat[1::2], strict=True))


# --- joining ------------------------------------------------------------------------------------------------


async def test_a_lone_member_has_its_assignment_long_before_a_second_is_over(valkey: Server) -> None:
    async with opened(valkey, group_initial_rebalance_delay_ms=Settings().group_initial_rebalance_delay_ms) as engine:
        began_s = time.monotonic()
        await Member(engine.groups, "g", "a").enter()
        assert time.monotonic() - began_s < 0.7


async def test_members_of_two_workers_settle_in_one_generation(valkey: Server) -> None:
    async with opened(valkey) as one, opened(valkey) as two:
        members = [Member((one, two)[n % 2].groups, "g", f"m{n}") for n in range(6)]
        await asyncio.gather(*(member.enter() for member in members))
        assert len({member.generation for member in members}) == 1
        assert sorted(assignment(valkey)) == [f"orders:{n}" for n in range(8)]
        group = await one.groups.get("g")
        assert group == await two.groups.get("g")
        assert set(group.members) == {member.member_id for member in members}
        assert all([await member.beat() for member in members])


async def test_two_hundred_members_that_join_at_once_settle(valkey: Server) -> None:
    """How fast is `make bench`'s question: on a busy machine some come too late for the first round."""
    delay_ms = Settings().group_initial_rebalance_delay_ms
    async with opened(valkey, group_initial_rebalance_delay_ms=delay_ms) as one, opened(valkey) as two:
        members = [Member((one, two)[n % 2].groups, "g", f"m{n}", partitions=400) for n in range(200)]
        late = members
        for _ in range(5):
            await asyncio.gather(*(member.enter() for member in late))
            newest = max(member.generation for member in members)
            late = [member for member in members if member.generation < newest]
            if not late:
                break
        assert not late
        assert len({member.assignment for member in members}) == 200


async def test_a_joiner_makes_the_others_join_again_and_a_leaver_too(engine: Engine, valkey: Server) -> None:
    one, two = Member(engine.groups, "g", "one"), Member(engine.groups, "g", "two")
    await one.enter()
    entering = asyncio.create_task(two.enter())
    await until(lambda: phase_is(engine, "PreparingRebalance"))
    assert await refused(one.beat()) is ErrorCode.REBALANCE_IN_PROGRESS
    await asyncio.gather(one.enter(), entering)
    assert {owner.split()[0] for owner in assignment(valkey).values()} == {one.member_id, two.member_id}
    left = await engine.groups.ask("g", LeaveGroup((Leave(two.member_id),)))
    assert left.errors == (ErrorCode.NONE,)
    assert await refused(one.beat()) is ErrorCode.REBALANCE_IN_PROGRESS
    await one.enter()
    assert {owner.split()[0] for owner in assignment(valkey).values()} == {one.member_id}
    assert await refused(two.beat()) is ErrorCode.UNKNOWN_MEMBER_ID


async def phase_is(engine: Engine, phase: str, group: str = "g") -> bool:
    value = await engine.groups.get(group)
    return value is not None and value.phase == phase


async def test_a_parked_request_is_woken_by_another_worker_not_by_a_timer(valkey: Server) -> None:
    async with opened(valkey) as one, opened(valkey) as two:
        leader, follower = Member(one.groups, "g", "a"), Member(two.groups, "g", "b")
        told, heard = await asyncio.gather(leader.join(), follower.join())
        if told.leader != leader.member_id:
            leader, follower, told, heard = follower, leader, heard, told
        waiting = asyncio.create_task(follower.sync(heard))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        began_s = time.monotonic()
        await leader.sync(told)
        await waiting
        assert time.monotonic() - began_s < 0.05


async def test_a_cancelled_join_leaves_a_group_that_goes_on(engine: Engine) -> None:
    gone, stays = Member(engine.groups, "g", "gone"), Member(engine.groups, "g", "stays")
    joining = asyncio.create_task(gone.join())
    await asyncio.sleep(0.01)
    joining.cancel()
    joined = await stays.join()
    assert joined.error is ErrorCode.NONE


async def test_change_gives_the_park_itself(engine: Engine) -> None:
    answer = await engine.groups.change("g", Member(engine.groups, "g", "a").join_event(known_id_required=False))
    assert isinstance(answer, Park)


# --- heartbeats ---------------------------------------------------------------------------------------------


async def test_a_beat_is_checked_without_loading_the_group(engine: Engine, valkey: Server) -> None:
    member = Member(engine.groups, "g", "a")
    await member.enter()
    before = valkey.info("cmdstat_get")
    assert await member.beat()
    assert valkey.info("cmdstat_get") == before
    groups = engine.groups
    assert await refused(groups.beat("g", "nobody", member.generation)) is ErrorCode.UNKNOWN_MEMBER_ID
    assert await refused(groups.beat("h", member.member_id, member.generation)) is ErrorCode.UNKNOWN_MEMBER_ID
    assert await refused(groups.beat("g", member.member_id, member.generation + 1)) is ErrorCode.ILLEGAL_GENERATION
    assert await refused(groups.beat("g", member.member_id, member.generation, "i")) is ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_beat_and_the_machine_agree(engine: Engine) -> None:
    one = Member(engine.groups, "g", "one", instance_id="i")
    await one.enter()
    for member_id, generation, instance in [
        (one.member_id, one.generation, "i"), (one.member_id, one.generation, None), ("x", one.generation, "i"),
        ("x", one.generation, None), (one.member_id, one.generation, "j"), (one.member_id, 0, "i"),
    ]:  # fmt: skip
        try:
            await engine.groups.ask("g", Heartbeat(member_id, generation, instance))
            expected = None
        except KafkaError as error:
            expected = error.code
        try:
            await engine.groups.beat("g", member_id, generation, instance)
            found = None
        except KafkaError as error:
            found = error.code
        assert found is expected


async def test_a_silent_member_is_expired_and_its_partitions_move(engine: Engine, valkey: Server) -> None:
    lively, silent = (Member(engine.groups, "g", label, session_timeout_ms=300) for label in ("lively", "silent"))
    await asyncio.gather(lively.enter(), silent.enter())

    async def moved() -> bool:
        try:
            await lively.beat()
        except KafkaError as error:
            assert error.code is ErrorCode.REBALANCE_IN_PROGRESS
            await lively.enter()
        return {owner.split()[0] for owner in assignment(valkey).values()} == {lively.member_id}

    await until(moved)
    assert await refused(silent.beat()) is ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_group_whose_members_all_died_becomes_empty_without_traffic(valkey: Server) -> None:
    async with opened(valkey) as engine:
        await engine.workers.register("h", 1)
        member = Member(engine.groups, "g", "a", session_timeout_ms=200)
        await member.enter()

        async def empty() -> bool:
            return head(valkey)["phase"] == "Empty"

        await until(empty)
        assert assignment(valkey) == {}
        assert valkey.command("EXISTS", "rb:{g:g}:beats", "rb:{g:g}:sessions") == 0

        async def listed() -> bool:  # noted after the change
            [group] = await engine.groups.list()
            return (group.name, group.type, group.protocol_type, group.phase) == ("g", "classic", "consumer", "Empty")

        await until(listed)


async def test_a_member_id_that_is_never_used_lapses(engine: Engine) -> None:
    member = Member(engine.groups, "g", "a", session_timeout_ms=150)
    answer: Joined = await engine.groups.ask("g", member.join_event())
    assert answer.error is ErrorCode.MEMBER_ID_REQUIRED

    async def lapsed() -> bool:
        group = await engine.groups.get("g")
        return isinstance(group, ClassicGroup) and not group.pending

    await until(lapsed)


# --- nobody is thrown out for what is not its fault ---------------------------------------------------------


async def test_another_worker_goes_on_with_the_same_generation_and_assignment(valkey: Server) -> None:
    async with opened(valkey) as two:
        await two.workers.register("h", 2)
        async with opened(valkey) as one:
            await one.workers.register("h", 1)
            members = [Member(one.groups, "g", f"m{n}", session_timeout_ms=1_000) for n in range(3)]
            await asyncio.gather(*(member.enter() for member in members))
            owners, generation = assignment(valkey), members[0].generation
            one.workers._own = None  # it dies without a word
        for member in members:
            member.groups = two.groups
        for _ in range(20):
            assert all([await member.beat() for member in members])
            await asyncio.sleep(0.02)
        assert assignment(valkey) == owners
        assert int(head(valkey)["epoch"]) == generation


async def test_members_get_a_whole_session_when_a_worker_takes_over(valkey: Server) -> None:
    async with opened(valkey) as one:
        member = Member(one.groups, "g", "a", session_timeout_ms=400)
        await member.enter()
    await asyncio.sleep(0.38)  # the session is nearly over, and no worker is there
    async with opened(valkey) as two:
        await two.workers.register("h", 2)
        await asyncio.sleep(0.25)
        member.groups = two.groups
        assert await member.beat()


async def test_members_survive_redis_being_away_for_longer_than_their_sessions() -> None:
    with Server("--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(server, storage_retry_ms=50) as engine:
            await engine.workers.register("h", 1)
            members = [Member(engine.groups, "g", f"m{n}", session_timeout_ms=600) for n in range(3)]
            await asyncio.gather(*(member.enter() for member in members))
            server.kill()
            assert await refused(members[0].beat()) is ErrorCode.COORDINATOR_NOT_AVAILABLE
            await asyncio.sleep(0.8)
            server.start()

            async def all_beat() -> bool:
                with contextlib.suppress(KafkaError):
                    return all([await member.beat() for member in members])
                return False

            await until(all_beat)
            assert head(server)["phase"] == "Stable"


async def test_a_redis_that_stood_still_expires_nobody() -> None:
    with Server() as server:
        async with opened(server, storage_timeout_ms=200) as engine:
            await engine.workers.register("h", 1)
            member = Member(engine.groups, "g", "a", session_timeout_ms=500)
            await member.enter()
            server.stop()
            await asyncio.sleep(0.9)
            server.cont()

            async def beats() -> bool:
                with contextlib.suppress(KafkaError):
                    return await member.beat()
                return False

            await until(beats)
            assert head(server)["phase"] == "Stable"


async def test_a_worker_that_stood_still_expires_nobody(engine: Engine) -> None:
    await engine.workers.register("h", 1)
    member = Member(engine.groups, "g", "a", session_timeout_ms=500)
    await member.enter()
    await asyncio.sleep(0.2)
    time.sleep(1.3)  # noqa: ASYNC251
    await asyncio.sleep(0.2)
    assert await member.beat()


async def test_a_worker_that_stands_still_within_a_round_expires_nobody(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.workers.register("h", 1)
    member = Member(engine.groups, "g", "a", session_timeout_ms=500)
    await member.enter()
    tender = Tender(engine.groups, engine.offsets, engine.workers, engine.settings)
    await tender.round()
    tender._relist_s = 0

    async def stand_still() -> None:
        time.sleep(1.3)  # noqa: ASYNC251

    monkeypatch.setattr(engine.groups, "relist", stand_still)
    await tender.round()
    assert await member.beat()


@pytest.mark.parametrize("who", ["worker", "Redis"])
async def test_a_standstill_of_worker_or_redis_throws_nobody_out_of_a_rebalance(who: str) -> None:
    with Server() as server:
        async with opened(server) as engine:
            await engine.workers.register("h", 1)
            timeouts = {"session_timeout_ms": 1_500, "rebalance_timeout_ms": 700}
            first, second = (Member(engine.groups, "g", name, **timeouts) for name in ("a", "b"))
            await asyncio.gather(first.enter(), second.enter())
            third = Member(engine.groups, "g", "c", **timeouts)
            entering = [asyncio.create_task(third.enter())]
            await until_phase(server, "PreparingRebalance")
            if who == "worker":
                time.sleep(1.2)  # noqa: ASYNC251
            else:
                server.stop()
                await asyncio.sleep(1.2)
                server.cont()
            assert await refused(first.beat()) is ErrorCode.REBALANCE_IN_PROGRESS
            assert await refused(second.beat()) is ErrorCode.REBALANCE_IN_PROGRESS
            known = first.member_id, second.member_id
            entering += [asyncio.create_task(each.enter()) for each in (first, second)]
            await asyncio.gather(*entering)
            assert (first.member_id, second.member_id) == known
            assert len({each.generation for each in (first, second, third)}) == 1


async def test_a_group_value_that_was_lost_repeats_no_generation(engine: Engine, valkey: Server) -> None:
    member = Member(engine.groups, "g", "a")
    await member.enter()
    first = member.generation
    valkey.command("DEL", *(f"rb:{{g:g}}:{name}" for name in ("state", "head", "sessions", "beats", "assignment")))
    assert await refused(member.beat()) is ErrorCode.UNKNOWN_MEMBER_ID
    await asyncio.sleep(1)
    member.member_id = ""
    await member.enter()
    assert member.generation > first


# --- two coordinators, hostile input ------------------------------------------------------------------------


async def test_what_members_read_who_left_amid_a_rebalance_is_nobodys_at_another_worker(valkey: Server) -> None:
    async with opened(valkey) as one, opened(valkey) as two:
        first, second = (Member(one.groups, "g", name) for name in ("a", "b"))
        await asyncio.gather(first.enter(), second.enter())
        third = Member(one.groups, "g", "c")
        entering = asyncio.create_task(third.enter())
        await until_phase(valkey, "PreparingRebalance")
        await one.groups.ask("g", LeaveGroup((Leave(first.member_id),)))
        assert any(owner.startswith("a-") for owner in assignment(valkey).values())  # of the last stable state
        for each in (second, third):  # the other worker only knows the value
            await two.groups.ask("g", LeaveGroup((Leave(each.member_id),)))
        entering.cancel()
        await until_phase(valkey, "Empty")
        assert assignment(valkey) == {}


async def test_workers_that_fight_over_a_group_lose_nobody(valkey: Server) -> None:
    async with opened(valkey) as one, opened(valkey) as two, opened(valkey) as three:
        engines = (one, two, three)
        members = [Member(engines[n % 3].groups, "g", f"m{n}") for n in range(30)]

        async def live(member: Member, rounds: int) -> None:
            for _ in range(rounds):
                await member.enter()
                await member.groups.ask("g", LeaveGroup((Leave(member.member_id),)))
                member.member_id = ""

        await asyncio.gather(*(live(member, 3) for member in members))

        async def empty() -> bool:
            group = await one.groups.get("g")
            return group is not None and not group.members

        await until(empty)
        assert assignment(valkey) == {}
        assert valkey.command("EXISTS", "rb:{g:g}:beats", "rb:{g:g}:sessions") == 0


async def test_a_group_that_is_looked_at_while_its_first_member_is_listed_loses_nobody_of_another_worker(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(valkey) as one, opened(valkey) as two:
        other, note = Member(two.groups, "g", "b"), one.groups.note

        async def slowly(*words: Any, **options: Any) -> None:
            await note(*words, **options)
            monkeypatch.undo()
            await other.enter()
            await one.groups.get("g")  # as DescribeGroups does

        monkeypatch.setattr(one.groups, "note", slowly)
        await one.groups.change("g", Member(one.groups, "g", "a").join_event())
        group = await two.groups.get("g")
        assert group is not None and other.member_id in group.members


async def test_a_group_that_is_forgotten_while_it_is_loaded_is_not_taken_for_none(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, run = Member(engine.groups, "g", "a"), engine.storage.run
    await member.enter()

    async def away() -> None:
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "A call before this one was given up.")

    async def late(script: Any, *words: Any, **options: Any) -> Any:
        reply = await run(script, *words, **options)
        if script.name == "load_group":
            monkeypatch.undo()
            assert await refused(engine.groups.answered("g", away())) is ErrorCode.COORDINATOR_NOT_AVAILABLE
        return reply

    monkeypatch.setattr(engine.storage, "run", late)
    group = await engine.groups.get("g")
    assert group is not None and member.member_id in group.members


async def test_a_lost_answer_does_not_make_a_member_twice(engine: Engine, valkey: Server) -> None:
    kept = engine.groups._keep("g")
    event = Member(engine.groups, "g", "a").join_event()
    await engine.groups.change("g", event)
    kept.forget()
    await engine.groups.change("g", event)
    group = await engine.groups.get("g")
    assert isinstance(group, ClassicGroup)
    assert list(group.pending) == [event.new_member_id]


@pytest.mark.parametrize("name", ["", "a\0b"])
async def test_what_is_no_group_id_is_refused(engine: Engine, name: str) -> None:
    assert await refused(engine.groups.beat(name, "m", 1)) is ErrorCode.INVALID_GROUP_ID
    assert await refused(engine.groups.get(name)) is ErrorCode.INVALID_GROUP_ID


@pytest.mark.parametrize("name", ["a}b", "{x}", "}:state", "ärger ☃\n", "a" * 2_000, "g}:head"])
async def test_a_group_may_have_any_name(engine: Engine, name: str) -> None:
    member = Member(engine.groups, name, "a")
    await member.enter()
    assert await member.beat()
    assert [listed.name for listed in await engine.groups.list()] == [name]
    await engine.groups.ask(name, LeaveGroup((Leave(member.member_id),)))
    assert await engine.groups.delete([name]) == [None]
    assert await engine.groups.get(name) is None


async def test_groups_live_on_every_master_of_a_cluster(cluster: Any) -> None:
    async with opened(cluster) as engine:
        members = [Member(engine.groups, f"g{n}", "a") for n in range(12)]
        await asyncio.gather(*(member.enter() for member in members))
        assert all([await member.beat() for member in members])
        homes = {engine.storage.master_of(f"rb:{{g:g{n}}}:state".encode()) for n in range(12)}
        assert len(homes) == 3
        assert len(await engine.groups.list()) == 12


async def test_groups_run_on_redis_7(redis7: Server) -> None:
    async with opened(redis7) as engine:
        members = [Member(engine.groups, "g", f"m{n}") for n in range(3)]
        await asyncio.gather(*(member.enter() for member in members))
        assert all([await member.beat() for member in members])


async def test_assignments_that_are_not_consumers_bytes_disturb_nobody(engine: Engine, valkey: Server) -> None:
    member = Member(engine.groups, "g", "a")
    joined = await member.join()
    event = SyncGroup(member.member_id, joined.generation, assignments=((member.member_id, b"\xff" * 7),))
    synced = await engine.groups.ask("g", event)
    assert synced.assignment == b"\xff" * 7
    assert assignment(valkey) == {}


async def test_the_number_of_groups_is_bounded(valkey: Server) -> None:
    async with opened(valkey, groups_max=2) as engine:
        for n in range(2):
            await Member(engine.groups, f"g{n}", "a").enter()
        assert await refused(Member(engine.groups, "g2", "a").enter()) is ErrorCode.POLICY_VIOLATION


# --- reading and deleting -----------------------------------------------------------------------------------


async def test_the_state_is_readable_json(engine: Engine, valkey: Server) -> None:
    member = Member(engine.groups, "g", "a")
    await member.enter()
    value = json.loads(valkey.command("GET", "rb:{g:g}:state"))
    assert value["type"] == "classic"
    assert value["phase"] == "Stable"
    assert value["leader"] == member.member_id
    assert assignment(valkey)["orders:0"] == f"{member.member_id} {member.generation} a 127.0.0.1"


async def test_lists_are_filtered_by_type_and_phase(engine: Engine) -> None:
    await Member(engine.groups, "busy", "a").enter()
    idle = Member(engine.groups, "idle", "a")
    await idle.enter()
    await engine.groups.ask("idle", LeaveGroup((Leave(idle.member_id),)))
    await asyncio.sleep(0.05)
    names = [each.name for each in await engine.groups.list(phases=["empty"])]
    assert names == ["idle"]
    assert len(await engine.groups.list(types=["Classic"])) == 2
    assert await engine.groups.list(types=["consumer"]) == []


async def test_only_empty_groups_are_deleted(engine: Engine, valkey: Server) -> None:
    member = Member(engine.groups, "g", "a")
    await member.enter()
    codes = [error and error.code for error in await engine.groups.delete(["g", "none"])]
    assert codes == [ErrorCode.NON_EMPTY_GROUP, ErrorCode.GROUP_ID_NOT_FOUND]
    await engine.groups.ask("g", LeaveGroup((Leave(member.member_id),)))
    assert await engine.groups.delete(["g"]) == [None]
    assert valkey.command("KEYS", "rb:{g:g}*") == []
    assert await engine.groups.list() == []
    assert await engine.groups.describe(["g"]) == [None]


async def test_a_group_missing_from_the_list_is_listed_again_and_a_gone_one_taken_off(valkey: Server) -> None:
    async with opened(valkey) as engine:
        member = Member(engine.groups, "g", "a")
        await member.enter()
        valkey.command("HDEL", "rb:{meta}:groups", "g")
        await engine.groups.relist()
        assert [each.name for each in await engine.groups.list()] == ["g"]


# --- news -------------------------------------------------------------------------------------------------------


def heartbeat(engine: Engine, member_id: str, epoch: int = 0, **fields: Any) -> ConsumerHeartbeat:
    if not epoch:
        fields = {"rebalance_timeout_ms": 5_000, "topics": ("orders",), "owned": NONE, **fields}
    return ConsumerHeartbeat(member_id, epoch, catalogue=engine.topics.all(), **fields)


async def nothing_new(engine: Engine, mark: int) -> None:
    """A wait may be over too early, as the first one is, which has just subscribed; but not again and again."""
    for _ in range(3):
        if not await engine.groups.news("g", mark, 0.2):
            return
    pytest.fail("There is always news.")


async def test_news_of_a_group_reach_every_process_and_none_is_missed(valkey: Server) -> None:
    async with opened(valkey) as one, opened(valkey) as other:
        await one.topics.create("orders", 4)
        await other.topics.find("orders")
        await one.groups.ask("g", heartbeat(one, "a"))
        mark = one.groups.mark("g")
        await nothing_new(one, mark)
        waiting = asyncio.create_task(one.groups.news("g", mark, 20))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await other.groups.ask("g", heartbeat(other, "b"))
        assert await waiting
        mark = one.groups.mark("g")
        await other.groups.ask("g", heartbeat(other, "c"))  # between the mark and the wait
        assert await one.groups.news("g", mark, 20)
        assert one.groups.mark("g") > mark


async def test_a_members_own_change_and_what_concerns_nobody_else_are_no_news(valkey: Server) -> None:
    async with opened(valkey) as one, opened(valkey) as other:
        await one.topics.create("orders", 4)
        await other.topics.find("orders")
        await one.groups.ask("g", heartbeat(one, "a", instance_id="pod-0"))
        await one.groups.ask("g", heartbeat(one, "b"))
        mark = one.groups.mark("g")  # b's join was this process's own: who heard its answer needs no wake-up
        await nothing_new(one, mark)
        waiting = asyncio.create_task(one.groups.news("g", mark, 0.3))
        await asyncio.sleep(0.05)
        await other.groups.ask("g", ConsumerHeartbeat("a", LEAVE_STATIC, "pod-0"))  # it keeps its partitions
        assert not await waiting


async def test_who_asks_for_news_of_a_group_that_is_not_there_hears_of_its_first_change_for_others(
    valkey: Server,
) -> None:
    async with opened(valkey) as one, opened(valkey) as other:
        await one.topics.create("orders", 4)
        await other.topics.find("orders")
        assert one.groups.mark("g") == 0
        await nothing_new(one, 0)
        await other.groups.ask("g", heartbeat(other, "a"))
        waiting = asyncio.create_task(one.groups.news("g", one.groups.mark("g"), 20))
        await asyncio.sleep(0.05)
        await other.groups.ask("g", heartbeat(other, "b"))
        assert await waiting
