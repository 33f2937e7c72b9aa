"""KIP-848 groups: what each event does, and that no order of events gives a partition to two readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.assignors import NONE, Partitions
from redbroker.machines.consumer_group import (
    ConsumerHeartbeat,
    Expire,
    Group,
    Heard,
    Refresh,
    Tick,
    from_json,
    step,
)

SETTINGS = Settings(group_consumer_max_size=5)


@dataclass(frozen=True)
class A:
    """A topic: all a machine needs to know of it."""

    id: UUID
    partitions: int


ORDERS = A(UUID(int=1), 6)
CLICKS = A(UUID(int=2), 2)
TOPICS = {"orders": ORDERS, "clicks": CLICKS}


def of(topic: A, *numbers: int) -> Partitions:
    return frozenset((topic.id.hex, number) for number in numbers)


class Story:
    """A group and the answers it gives, event by event."""

    def __init__(self, topics: Mapping[str, Any] = TOPICS) -> None:
        self.group: Group | None = None
        self.topics = dict(topics)
        self.now_ms = 0
        self.touched: frozenset[str] = frozenset()

    def tell(self, event: Any) -> Any:
        result = step(self.group, event, self.now_ms, SETTINGS)
        self.group, self.touched = result.group, result.touched
        if self.group is not None:
            assert from_json(json.loads(json.dumps(self.group.to_json()))) == self.group
        return result.answer

    def beat(self, member: str, epoch: int, **fields: Any) -> Any:
        return self.tell(ConsumerHeartbeat(member, epoch, catalogue=self.topics, client_host="10.0.0.1", **fields))

    def join(self, member: str, *names: str, **fields: Any) -> Any:
        given = {"rebalance_timeout_ms": 1_000, "topics": names or ("orders",), "owned": NONE}
        return self.beat(member, 0, **{**given, **fields})

    def settle(self) -> None:
        """Everybody heartbeats, tells what it owns, and does what it is told, until nothing moves."""
        for _ in range(20):
            before = self.group
            assert self.group is not None
            for each in list(self.group.members.values()):
                if not each.away:
                    self.beat(each.id, self.group.members[each.id].epoch, owned=self.group.members[each.id].assigned)
            if self.group == before:
                return
        raise AssertionError("the group does not settle")

    def has(self, member: str) -> Partitions:
        assert self.group is not None
        return self.group.members[member].assigned


def refused(answer: Any) -> ErrorCode:
    assert isinstance(answer, KafkaError), answer
    return answer.code


# --- joining, and who has what ----------------------------------------------------------------------------------


def test_the_first_member_gets_everything_at_once() -> None:
    story = Story()
    assert story.join("a") == Heard("a", 1, of(ORDERS, *range(6)), settled=True)
    assert story.group is not None
    assert story.group.phase == "Stable"
    assert story.touched == {"a"}


def test_a_second_member_gets_its_half_only_when_the_first_has_let_go_of_it() -> None:
    story = Story()
    story.join("a")
    assert story.join("b") == Heard("b", 2, NONE, settled=False)
    assert story.beat("a", 1) == Heard("a", 1, of(ORDERS, 0, 1, 2), settled=False)
    assert story.beat("b", 2) == Heard("b", 2, None, settled=False)
    assert story.beat("a", 1) == Heard("a", 1, None, settled=False)
    assert story.beat("a", 1, owned=of(ORDERS, 0, 1, 2)) == Heard("a", 2, None, settled=True)
    assert story.beat("b", 2) == Heard("b", 2, of(ORDERS, 3, 4, 5), settled=True)
    assert story.group is not None
    assert story.group.phase == "Stable"


def test_a_heartbeat_with_nothing_new_changes_nothing() -> None:
    story = Story()
    story.join("a")
    before = story.group
    assert story.beat("a", 1) == Heard("a", 1)
    assert story.beat("a", 1, owned=of(ORDERS, *range(6))) == Heard("a", 1)
    assert story.group is before
    assert story.touched == frozenset()


def test_a_full_heartbeat_is_told_the_assignment_again() -> None:
    story = Story()
    story.join("a")
    everything = of(ORDERS, *range(6))
    answer = story.beat("a", 1, rebalance_timeout_ms=1_000, topics=("orders",), owned=everything)
    assert answer == Heard("a", 1, everything)


def test_a_leaver_frees_its_partitions_at_once() -> None:
    story = Story()
    story.join("a")
    story.join("b")
    story.settle()
    assert story.beat("a", -1) == Heard("a", -1)
    assert story.beat("b", 2) == Heard("b", 3, of(ORDERS, *range(6)))
    assert story.beat("b", -1) == Heard("b", -1)
    assert story.group is not None
    assert story.group.phase == "Empty"
    assert not story.group.target


def test_the_epoch_of_an_emptied_group_goes_on() -> None:
    story = Story()
    story.join("a")
    story.beat("a", -1)
    assert story.join("a").member_epoch == 3


def test_an_expired_member_is_out_like_a_leaver() -> None:
    story = Story()
    story.join("a")
    story.join("b")
    story.settle()
    story.tell(Expire(("a", "nobody")))
    assert refused(story.beat("a", 2)) == ErrorCode.UNKNOWN_MEMBER_ID
    assert story.beat("b", 2).assigned == of(ORDERS, *range(6))


def test_expiry_of_nobody_changes_nothing() -> None:
    story = Story()
    story.join("a")
    before = story.group
    story.tell(Expire(("nobody",)))
    story.tell(Tick())
    assert story.group is before


def test_events_to_a_group_that_is_not_there_make_none() -> None:
    for event in (Tick(), Expire(("a",)), Refresh(TOPICS)):
        assert step(None, event, 0, SETTINGS).group is None
    assert step(None, ConsumerHeartbeat("a", 1), 0, SETTINGS).group is None
    assert refused(step(None, ConsumerHeartbeat("a", -1), 0, SETTINGS).answer) == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_refused_join_makes_no_group() -> None:
    story = Story()
    assert refused(story.join("a", assignor="sticky")) == ErrorCode.UNSUPPORTED_ASSIGNOR
    assert refused(story.join("a", pattern="(")) == ErrorCode.INVALID_REGULAR_EXPRESSION
    assert story.group is None


def test_a_full_group_takes_nobody_else_but_lets_members_begin_anew() -> None:
    story = Story()
    for member in "abcde":
        story.join(member)
    assert refused(story.join("f")) == ErrorCode.GROUP_MAX_SIZE_REACHED
    assert story.join("a").member_id == "a"


# --- epochs ----------------------------------------------------------------------------------------------------


def test_only_the_last_epoch_is_taken_and_the_one_before_from_those_who_own_nothing_else() -> None:
    story = Story()
    story.join("a")
    story.join("b")
    story.beat("a", 1)
    story.beat("a", 1, owned=of(ORDERS, 0, 1, 2))
    assert refused(story.beat("a", 3)) == ErrorCode.FENCED_MEMBER_EPOCH
    assert refused(story.beat("a", 1)) == ErrorCode.FENCED_MEMBER_EPOCH
    assert refused(story.beat("a", 1, owned=of(ORDERS, 0, 5))) == ErrorCode.FENCED_MEMBER_EPOCH
    assert story.beat("a", 1, owned=of(ORDERS, 0, 1)) == Heard("a", 2)
    assert story.touched == {"a"}


def test_a_member_that_lost_everything_begins_anew_with_epoch_0_and_keeps_its_place() -> None:
    story = Story()
    story.join("a")
    story.join("b")
    story.settle()
    has = story.has("a")
    assert story.join("a") == Heard("a", 2, has)


def test_strangers_are_unknown() -> None:
    story = Story()
    story.join("a")
    assert refused(story.beat("b", 1)) == ErrorCode.UNKNOWN_MEMBER_ID
    assert refused(story.beat("b", -1)) == ErrorCode.UNKNOWN_MEMBER_ID
    assert refused(story.beat("a", 1, instance_id="i")) == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_member_that_does_not_revoke_in_time_is_out() -> None:
    story = Story()
    story.join("a")
    story.join("b")
    story.beat("a", 1)
    assert story.group is not None
    assert story.group.next_deadline_ms == 1_000
    story.now_ms = 999
    story.tell(Tick())
    assert "a" in story.group.members
    story.now_ms = 1_000
    story.tell(Tick())
    assert story.group is not None
    assert story.group.members.keys() == {"b"}
    assert story.group.next_deadline_ms is None
    assert story.beat("b", 2).assigned == of(ORDERS, *range(6))


def test_a_deadline_that_nobody_watched_begins_anew() -> None:
    story = Story()
    story.join("a")
    story.join("b")
    story.beat("a", 1)
    story.now_ms = 60_000
    story.tell(Tick())
    assert story.group is not None
    assert story.group.members.keys() == {"a", "b"}
    assert story.group.next_deadline_ms == 61_000


# --- subscriptions and topics ------------------------------------------------------------------------------------


def test_another_subscription_moves_the_epoch_on() -> None:
    story = Story()
    story.join("a")
    answer = story.beat("a", 1, topics=("clicks", "orders"), owned=of(ORDERS, *range(6)))
    assert answer == Heard("a", 2, of(ORDERS, *range(6)) | of(CLICKS, 0, 1))
    assert story.beat("a", 2, topics=("orders", "clicks")) == Heard("a", 2)


def test_what_is_no_longer_read_is_given_up_first() -> None:
    story = Story()
    story.join("a", "orders", "clicks")
    everything = of(ORDERS, *range(6)) | of(CLICKS, 0, 1)
    assert story.beat("a", 1, topics=("clicks",), owned=everything) == Heard("a", 1, of(CLICKS, 0, 1), settled=False)
    assert story.beat("a", 1, owned=of(CLICKS, 0, 1)) == Heard("a", 2)


def test_a_topic_unsubscribed_while_revoking_is_revoked_too() -> None:
    story = Story()
    story.join("a", "orders", "clicks")
    story.join("b", "orders")
    story.beat("a", 1)
    held = story.has("a") | story.group.members["a"].revoking  # type: ignore[union-attr]
    assert held > story.has("a") > of(CLICKS, 0, 1)
    answer = story.beat("a", 1, topics=("orders",))
    assert answer.assigned is not None
    assert not answer.assigned & of(CLICKS, 0, 1)
    assert story.group is not None
    assert story.group.members["a"].held == held


def test_unknown_topics_are_ignored_until_they_exist() -> None:
    story = Story({"orders": ORDERS})
    assert story.join("a", "clicks").assigned == NONE
    story.tell(Refresh({"orders": ORDERS, "clicks": CLICKS}))
    assert story.beat("a", 1) == Heard("a", 2, of(CLICKS, 0, 1))


def test_new_partitions_are_picked_up_and_other_topics_are_nobodys_business() -> None:
    story = Story()
    story.join("a")
    before = story.group
    story.tell(Refresh({**TOPICS, "clicks": A(CLICKS.id, 9)}))
    assert story.group is before
    story.tell(Refresh({**TOPICS, "orders": A(ORDERS.id, 8)}))
    assert story.beat("a", 1) == Heard("a", 2, of(ORDERS, *range(8)))


def test_a_deleted_topic_is_taken_away_and_a_new_one_of_its_name_is_another() -> None:
    story = Story()
    story.join("a", "clicks")
    story.tell(Refresh({"clicks": A(UUID(int=3), 2)}))
    assert story.beat("a", 1) == Heard("a", 1, NONE, settled=False)
    assert story.beat("a", 1, owned=NONE) == Heard("a", 2, of(A(UUID(int=3), 2), 0, 1))
    story.tell(Refresh({}))
    assert story.beat("a", 2, owned=NONE) == Heard("a", 3, NONE)


def test_a_pattern_matches_whole_names_and_new_topics() -> None:
    story = Story({"eu.orders": ORDERS, "eu.orders.old": CLICKS})
    assert story.join("a", topics=None, pattern=r"\w+\.orders").assigned == of(ORDERS, *range(6))
    us = A(UUID(int=4), 1)
    story.tell(Refresh({"eu.orders": ORDERS, "us.orders": us}))
    assert story.beat("a", 1) == Heard("a", 2, of(ORDERS, *range(6)) | of(us, 0))


def test_an_empty_pattern_is_none_and_takes_one_back() -> None:
    story = Story()
    story.join("a", pattern="")
    assert story.has("a") == of(ORDERS, *range(6))
    story.beat("a", 1, pattern="clicks")
    assert story.has("a") == of(ORDERS, *range(6)) | of(CLICKS, 0, 1)
    story.beat("a", 2, pattern="")
    assert story.has("a") == of(ORDERS, *range(6))


def test_a_member_without_any_topic_is_a_member() -> None:
    story = Story()
    assert story.join("a", topics=()) == Heard("a", 1, NONE)
    assert story.group is not None
    assert story.group.phase == "Stable"


def test_the_assignor_most_members_wish_for_is_taken() -> None:
    story = Story()
    story.join("b", "orders", "clicks", assignor="range")
    story.join("a", "orders", "clicks")
    story.settle()
    assert story.group is not None
    assert story.group.assignor == "range"
    assert story.has("a") == of(ORDERS, 0, 1, 2) | of(CLICKS, 0)
    assert refused(story.beat("a", 2, assignor="sticky")) == ErrorCode.UNSUPPORTED_ASSIGNOR


# --- static members ------------------------------------------------------------------------------------------------


def test_a_static_member_that_comes_back_finds_everything_as_it_was() -> None:
    story = Story()
    story.join("a1", instance_id="pod-0")
    story.join("b", instance_id="pod-1")
    story.settle()
    has = story.has("a1")
    assert story.beat("a1", -2, instance_id="pod-0") == Heard("a1", -2)
    assert story.beat("b", 2, instance_id="pod-1") == Heard("b", 2)
    assert story.join("a2", instance_id="pod-0") == Heard("a2", 2, has)
    assert refused(story.beat("a1", 2, instance_id="pod-0")) == ErrorCode.FENCED_INSTANCE_ID
    assert refused(story.beat("a1", -1, instance_id="pod-0")) == ErrorCode.FENCED_INSTANCE_ID
    assert story.group is not None
    assert story.group.phase == "Stable"
    assert story.group.epoch == 2


def test_a_static_member_may_come_back_under_its_own_id() -> None:
    story = Story()
    story.join("a", instance_id="pod-0")
    story.beat("a", -2, instance_id="pod-0")
    assert refused(story.beat("a", 1, instance_id="pod-0")) == ErrorCode.FENCED_MEMBER_EPOCH
    assert story.join("a", instance_id="pod-0") == Heard("a", 1, of(ORDERS, *range(6)))


def test_an_instance_id_in_use_is_not_given_away() -> None:
    story = Story()
    story.join("a", instance_id="pod-0")
    before = story.group
    assert refused(story.join("b", instance_id="pod-0")) == ErrorCode.UNRELEASED_INSTANCE_ID
    assert story.group is before


def test_a_static_member_that_stays_away_is_out_when_its_session_is_over() -> None:
    story = Story()
    story.join("a", instance_id="pod-0")
    story.join("b")
    story.settle()
    story.beat("a", -2, instance_id="pod-0")
    story.tell(Expire(("a",)))
    assert story.beat("b", 2).assigned == of(ORDERS, *range(6))


def test_a_static_member_away_lets_go_of_what_it_was_revoking() -> None:
    story = Story()
    story.join("a", instance_id="pod-0")
    story.join("b")
    story.beat("a", 1, instance_id="pod-0")
    story.beat("a", -2, instance_id="pod-0")
    assert story.beat("b", 2).assigned == of(ORDERS, 3, 4, 5)
    assert story.group is not None
    assert story.group.next_deadline_ms is None


def test_a_static_member_takes_its_place_in_a_full_group() -> None:
    story = Story()
    for member in "abcde":
        story.join(member, instance_id=f"pod-{member}")
    story.beat("a", -2, instance_id="pod-a")
    assert story.join("f", instance_id="pod-a").member_id == "f"


# --- what others see ---------------------------------------------------------------------------------------------


def test_sessions_tell_what_a_heartbeat_must_know() -> None:
    story = Story()
    story.join("a", instance_id="pod-0")
    story.join("b")
    assert story.group is not None
    sessions = story.group.sessions()
    timeout_ms = SETTINGS.group_consumer_session_timeout_ms
    assert sessions["a"][:3] == (timeout_ms, 1, "pod-0")
    assert sessions["b"][:3] == (timeout_ms, 2, None)
    assert not sessions["a"].steady
    assert not sessions["b"].steady
    assert not sessions["a"].classic
    story.settle()
    assert all(each.steady for each in story.group.sessions().values())


def test_owners_name_topics_members_epochs_and_hosts() -> None:
    story = Story()
    story.join("a", "clicks", client_id="app")
    assert story.group is not None
    assert story.group.owners() == {"clicks:0": "a 1 app 10.0.0.1", "clicks:1": "a 1 app 10.0.0.1"}


def test_a_group_is_subscribed_to_names_and_matches_of_its_members() -> None:
    story = Story()
    story.join("a", "orders", "later")
    story.join("b", topics=None, pattern="cli.*")
    assert story.group is not None
    assert [story.group.subscribed(topic) for topic in ("orders", "later", "clicks", "other")] == [True] * 3 + [False]
    story.beat("b", -1)
    assert story.group is not None
    assert not story.group.subscribed("clicks")


# --- any order of events ------------------------------------------------------------------------------------------


@dataclass
class Client:
    """A well-behaved consumer: `reads` is what it reads now, `told` what it was last told to read."""

    id: str
    instance_id: str | None
    topics: tuple[str, ...]
    epoch: int = 0
    reads: Partitions = NONE
    told: Partitions = NONE
    acknowledged: bool = True
    answers_lost: int = field(default=0)


class AnyOrder(RuleBasedStateMachine):
    """Clients, some with losses, against a group; nobody ever reads what another one reads."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.clients: dict[str, Client] = {}
        self.made = 0
        self.epoch = 0

    names = st.sampled_from([("orders",), ("clicks",), ("clicks", "orders"), ("orders", "later")])

    def send(self, client: Client, *, lost: bool = False, **fields: Any) -> None:
        answer = self.story.beat(client.id, client.epoch, instance_id=client.instance_id, **fields)
        if lost:
            client.answers_lost += 1
            return
        if isinstance(answer, KafkaError):
            client.reads = client.told = NONE  # gives up everything
            if answer.code == ErrorCode.FENCED_MEMBER_EPOCH:
                client.epoch = 0
                self.send(client, rebalance_timeout_ms=1_000, topics=client.topics, owned=NONE)
                return
            assert answer.code == ErrorCode.UNKNOWN_MEMBER_ID
            del self.clients[client.id]
            return
        client.epoch = answer.member_epoch
        if answer.assigned is not None:
            client.told = answer.assigned
            client.acknowledged = False
            if not client.reads - client.told:
                client.reads = client.told

    def any_client(self, data: st.DataObject) -> Client:
        return self.clients[data.draw(st.sampled_from(sorted(self.clients)))]

    @precondition(lambda self: len(self.clients) < 4)
    @rule(topics=names, static=st.booleans())
    def join(self, topics: tuple[str, ...], static: bool) -> None:
        self.made += 1
        client = Client(f"m{self.made}", f"i{self.made}" if static else None, topics)
        assert self.story.group is None or len(self.story.group.members) <= 5
        if self.story.group is not None and len(self.story.group.members) == 5:
            return
        self.clients[client.id] = client
        self.send(client, rebalance_timeout_ms=1_000, topics=topics, owned=NONE)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), lost=st.booleans())
    def heartbeat(self, data: st.DataObject, lost: bool) -> None:
        client = self.any_client(data)
        if client.answers_lost:  # after a loss a client tells everything
            client.answers_lost = 0
            self.send(client, rebalance_timeout_ms=1_000, topics=client.topics, owned=client.reads)
        else:
            self.send(client, lost=lost)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), lost=st.booleans())
    def do_as_told(self, data: st.DataObject, lost: bool) -> None:
        """Stop reading what was taken, begin with what was given, and say so."""
        client = self.any_client(data)
        client.reads = client.told
        if lost:
            client.answers_lost += 1
        self.send(client, lost=lost, owned=client.reads)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), topics=names)
    def read_others(self, data: st.DataObject, topics: tuple[str, ...]) -> None:
        client = self.any_client(data)
        client.topics = topics
        self.send(client, topics=topics)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = self.any_client(data)
        del self.clients[client.id]
        self.story.beat(client.id, -1)

    @precondition(lambda self: any(each.instance_id for each in self.clients.values()))
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """A static member goes away and comes back with another member id."""
        client = self.clients[data.draw(st.sampled_from(sorted(c.id for c in self.clients.values() if c.instance_id)))]
        del self.clients[client.id]
        if isinstance(self.story.beat(client.id, -2, instance_id=client.instance_id), KafkaError):
            return
        self.made += 1
        heir = Client(f"m{self.made}", client.instance_id, client.topics)
        self.clients[heir.id] = heir
        self.send(heir, rebalance_timeout_ms=1_000, topics=heir.topics, owned=NONE)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        client = self.any_client(data)
        del self.clients[client.id]
        self.story.tell(Expire((client.id,)))

    @rule(ms=st.integers(1, 1_500))
    def time_passes(self, ms: int) -> None:
        self.story.now_ms += ms
        self.story.tell(Tick())
        members = self.story.group.members if self.story.group else {}
        self.clients = {each.id: each for each in self.clients.values() if each.id in members}

    @rule(orders=st.integers(1, 7), later=st.integers(0, 3), anew=st.booleans())
    def topics_change(self, orders: int, later: int, anew: bool) -> None:
        topics = self.story.topics
        old = topics["orders"]
        topics["orders"] = replace(old, partitions=max(orders, old.partitions))
        if anew:
            topics["orders"] = A(UUID(int=old.id.int + 100), orders)
        if later:
            topics["later"] = A(UUID(int=9), max(later, getattr(topics.get("later"), "partitions", 0)))
        self.story.tell(Refresh(dict(topics)))

    @rule()
    def everybody_settles(self) -> None:
        for _ in range(12):
            for client in list(self.clients.values()):
                client.reads = client.told
                self.send(client, rebalance_timeout_ms=1_000, topics=client.topics, owned=client.reads)
        group = self.story.group
        if group is None:
            return
        assert all(each.id in self.clients for each in group.members.values())
        assert group.phase == ("Stable" if self.clients else "Empty")
        assert {each.id: each.reads for each in self.clients.values()} == {
            each: group.target.get(each, NONE) for each in group.members
        }
        read = [name for each in self.clients.values() for name in each.topics]
        assert sum(len(each.reads) for each in self.clients.values()) == sum(
            known.partitions for name, known in group.topics.items() if name in read
        )

    @invariant()
    def nobody_reads_what_another_one_reads(self) -> None:
        members = self.story.group.members if self.story.group else {}
        reading = [each.reads for each in self.clients.values() if each.id in members]
        assert sum(map(len, reading)) == len(NONE.union(*reading))
        held = [each.held for each in members.values()]
        assert sum(map(len, held)) == len(NONE.union(*held))

    @invariant()
    def who_reads_something_holds_it(self) -> None:
        members = self.story.group.members if self.story.group else {}
        assert all(each.reads <= members[each.id].held for each in self.clients.values() if each.id in members)

    @invariant()
    def epochs_never_go_back(self) -> None:
        if self.story.group is not None:
            assert self.story.group.epoch >= self.epoch
            self.epoch = self.story.group.epoch
            assert all(each.epoch <= self.epoch for each in self.story.group.members.values())


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("members", [200])
def test_two_hundred_members_join_in_a_moment(members: int) -> None:
    import time

    story = Story({"orders": A(UUID(int=1), 400)})
    began = time.process_time()
    for number in range(members):
        step_result = step(
            story.group,
            ConsumerHeartbeat(
                f"m{number}", 0, topics=("orders",), owned=NONE, rebalance_timeout_ms=1, catalogue=story.topics
            ),
            0,
            Settings(),
        )
        story.group = step_result.group
    assert time.process_time() - began < 2
