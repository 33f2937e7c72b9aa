"""Text scenarios of consumer groups: commands, a line of dashes, and what the machine made of them.

    topics orders=6 clicks=2       the topics there are from now on; the group is shown them
    join a orders [KEY=VALUE …]    a member of the consumer protocol; regex= instance= assignor= timeout= (1000 ms)
    beat a [epoch=N]               a heartbeat that tells nothing, with the epoch the member was told last
    does a                         the member does as it was told, and says what it owns
    reads a clicks [regex=…]       another subscription
    leave a | away a               for good; for a while (static members)
    classic b orders [keeps]       JoinGroup of the classic protocol; `keeps`: it owns what it had (cooperative)
    sync b | alive b | goes b      SyncGroup, Heartbeat, LeaveGroup of the classic protocol
    expire a                       its session is over
    wait 500                       time passes

`play` writes each answer, and then the group: its phase, epoch and assignor, and each member with its epoch, its state
and its partitions; `-` before partitions that are being given up. A scenario is rewritten with REDBROKER_REWRITE=1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines import classic_group, consumer_group
from redbroker.machines.assignors import NONE, Partitions
from redbroker.machines.classic_group import ClassicGroup, Heartbeat, JoinGroup, Leave, LeaveGroup, SyncGroup
from redbroker.machines.consumer_group import ConsumerHeartbeat, Heard, Refresh
from redbroker.machines.group import Expire, Park, Tick
from redbroker.machines.mixed_group import Outside, step

SETTINGS = Settings(group_min_session_timeout_ms=1_000, group_consumer_max_size=3)


@dataclass(frozen=True)
class Topic:
    """All that machines need to know of a topic."""

    id: UUID
    partitions: int


@dataclass(frozen=True)
class Subscription:
    """`orders,clicks|orders:0,orders:1`: topics, and what the member owns."""

    topics: tuple[str, ...]
    owned: tuple[tuple[str, int], ...]
    version: int = 1
    rack: str | None = None


def read_subscription(data: bytes) -> Subscription:
    topics, separator, owned = data.decode().partition("|")
    if not separator:
        raise ValueError("no subscription")
    return Subscription(tuple(topics.split(",")), read_assignment(owned.encode()))


def read_assignment(data: bytes) -> tuple[tuple[str, int], ...]:
    return tuple((name, int(number)) for name, _, number in (each.partition(":") for each in data.decode().split()))


def write_assignment(partitions: Iterable[tuple[str, int]], version: int) -> bytes:
    return " ".join(f"{name}:{number}" for name, number in partitions).encode()


class Play:
    """One scenario under way; `told` is what each member was told last: its epoch and its partitions."""

    def __init__(self) -> None:
        self.group: Any = None
        self.settings = SETTINGS
        self.woken = False
        self.topics: dict[str, Topic] = {}
        self.now_ms = 0
        self.told: dict[str, tuple[int, Partitions]] = {}
        self.fields: dict[str, dict[str, Any]] = {}

    def do(self, line: str) -> str:
        """Run one command; its answer."""
        command, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        answer: str = getattr(self, f"do_{command}")(names, options)
        if self.group is not None:
            load = ClassicGroup.from_json if self.group.type == "classic" else consumer_group.from_json
            assert load(json.loads(json.dumps(self.group.to_json()))) == self.group
        return answer

    def ask(self, event: Any) -> Any:
        mixed = isinstance(event, ConsumerHeartbeat | Refresh) or (self.group and self.group.type == "consumer")
        if mixed:
            outside = Outside(self.topics, read_subscription, read_assignment, write_assignment)
            result = step(self.group, event, self.now_ms, self.settings, outside)
        else:
            result = classic_group.step(self.group, event, self.now_ms, self.settings)
        self.group, self.woken = result.group, result.wake
        return result.answer

    # --- the consumer protocol ---------------------------------------------------------------------------------

    def beat(self, member: str, epoch: int, **fields: Any) -> str:
        fields = {"instance_id": self.fields.get(member, {}).get("instance_id"), **fields}
        answer = self.ask(ConsumerHeartbeat(member, epoch, catalogue=self.topics, **fields))
        if isinstance(answer, KafkaError):
            return f"{member}: {answer.code.name}"
        assert isinstance(answer, Heard)
        assigned = self.told.get(member, (0, NONE))[1] if answer.assigned is None else answer.assigned
        self.told[member] = (answer.member_epoch, assigned)
        news = "" if answer.assigned is None else f" reads {self.show(answer.assigned)}"
        return f"{member}: epoch {answer.member_epoch}{news}{'' if answer.settled else ', more to come'}"

    def do_join(self, names: list[str], options: dict[str, str]) -> str:
        member, *topics = names
        self.fields[member] = {"instance_id": options.get("instance")}
        self.told.pop(member, None)
        return self.beat(
            member, 0, rebalance_timeout_ms=int(options.get("timeout", 1_000)), topics=tuple(topics), owned=NONE,
            pattern=options.get("regex"), assignor=options.get("assignor"),
        )  # fmt: skip

    def do_beat(self, names: list[str], options: dict[str, str]) -> str:
        return self.beat(names[0], int(options.get("epoch", self.told.get(names[0], (1, NONE))[0])))

    def do_does(self, names: list[str], options: dict[str, str]) -> str:
        epoch, partitions = self.told[names[0]]
        return self.beat(names[0], int(options.get("epoch", epoch)), owned=partitions)

    def do_reads(self, names: list[str], options: dict[str, str]) -> str:
        member, *topics = names
        return self.beat(member, self.told[member][0], topics=tuple(topics), pattern=options.get("regex"))

    def do_leave(self, names: list[str], options: dict[str, str]) -> str:
        return self.beat(names[0], -1)

    def do_away(self, names: list[str], options: dict[str, str]) -> str:
        return self.beat(names[0], -2)

    # --- the classic protocol ----------------------------------------------------------------------------------

    def do_classic(self, names: list[str], options: dict[str, str]) -> str:
        member, *topics = names
        keeps = "keeps" in topics
        owned = self.told.get(member, (0, NONE))[1] if keeps else NONE
        topics = [topic for topic in topics if topic != "keeps"]
        data = options.get("data", f"{','.join(topics)}|{write_assignment(self.named(owned), 1).decode()}")
        known = member if self.group is not None and member in self.group.members else ""
        answer = self.ask(
            JoinGroup(
                known, member, options.get("instance"), "", "", 10_000, 1_000, options.get("type", "consumer"),
                ((options.get("protocol", "range"), data.encode()),), known_id_required=False,
            )
        )  # fmt: skip
        if isinstance(answer, KafkaError):
            return f"{member}: {answer.code.name}"
        if isinstance(answer, Park):
            return f"{member}: parked"
        if answer.error != ErrorCode.NONE:
            return f"{member}: {answer.error.name}"
        self.told[member] = (answer.generation, owned)
        return f"{member}: joined generation {answer.generation} {answer.protocol} leader {answer.leader or 'nobody'}"

    def do_sync(self, names: list[str], options: dict[str, str]) -> str:
        member = names[0]
        given = tuple((who, " ".join(what.split("+")).encode()) for who, what in options.items())
        answer = self.ask(SyncGroup(member, self.told[member][0], assignments=given))
        if isinstance(answer, KafkaError):
            return f"{member}: {answer.code.name}"
        if isinstance(answer, Park):
            return f"{member}: parked"
        partitions = frozenset(
            (self.topics[name].id.hex, number) for name, number in read_assignment(answer.assignment)
        )
        self.told[member] = (self.told[member][0], partitions)
        return f"{member}: reads {self.show(partitions)}"

    def do_alive(self, names: list[str], options: dict[str, str]) -> str:
        answer = self.ask(Heartbeat(names[0], int(options.get("generation", self.told[names[0]][0]))))
        return f"{names[0]}: {answer.code.name if isinstance(answer, KafkaError) else 'ok'}"

    def do_goes(self, names: list[str], options: dict[str, str]) -> str:
        answer = self.ask(LeaveGroup(tuple(Leave(name) for name in names)))
        return " ".join(f"{name}: {error.name}" for name, error in zip(names, answer.errors, strict=True))

    # --- everything else -----------------------------------------------------------------------------------------

    def do_topics(self, names: list[str], options: dict[str, str]) -> str:
        known = self.topics
        self.topics = {
            name: Topic(known[name].id if name in known else UUID(int=sum(map(ord, name))), int(count))
            for name, count in options.items()
        }
        if self.group is not None:
            self.ask(Refresh(self.topics))
        return "topics: " + " ".join(f"{name}={topic.partitions}" for name, topic in self.topics.items())

    def do_expire(self, names: list[str], options: dict[str, str]) -> str:
        self.ask(Expire(tuple(names)))
        return f"expired: {' '.join(names)}"

    def do_wait(self, names: list[str], options: dict[str, str]) -> str:
        self.now_ms += int(names[0])
        self.ask(Tick())
        return f"{self.now_ms} ms"

    # --- how it is shown -----------------------------------------------------------------------------------------

    def named(self, partitions: Partitions) -> list[tuple[str, int]]:
        names = {topic.id.hex: name for name, topic in self.topics.items()}
        return sorted((names.get(topic, "deleted"), number) for topic, number in partitions)

    def show(self, partitions: Partitions) -> str:
        by_topic: dict[str, list[int]] = {}
        for name, number in self.named(partitions):
            by_topic.setdefault(name, []).append(number)
        return " ".join(f"{name}:{','.join(map(str, numbers))}" for name, numbers in by_topic.items()) or "nothing"

    def state(self) -> str:
        """The group in one line per member."""
        group = self.group
        if group is None:
            return "no group"
        if group.type == "classic":
            return f"{group.phase} classic generation {group.generation}: {' '.join(group.members) or 'nobody'}"
        lines = [f"{group.phase} epoch {group.epoch} {group.assignor}"]
        for each in group.members.values():
            revoking = f" -{self.show(each.revoking)}" if each.revoking else ""
            classic = " classic" if each.classic else ""
            lines.append(f"  {each.id}{classic} {each.epoch} {each.state} {self.show(each.assigned)}{revoking}")
        return "\n".join(lines)


def play(path: Path) -> str:
    """The scenario as the machine plays it: equal to the file when it goes as written."""
    scene = Play()
    blocks = []
    for block in path.read_text().split("\n\n"):
        commands = [line for line in block.split("\n----")[0].splitlines() if line]
        if all(line.startswith("#") for line in commands):
            blocks.append("\n".join(commands))
            continue
        answers = [scene.do(line) for line in commands if not line.startswith("#")]
        blocks.append("\n".join([*commands, "----", *answers, scene.state()]))
    return "\n\n".join(blocks) + "\n"
