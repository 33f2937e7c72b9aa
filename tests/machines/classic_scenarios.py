"""Runs the text scenarios of classic groups: a command, `----`, and what came of it.

    join a                                a joins with its member id; `new` without one, `as=x` when it has been given x
      new as=NAME instance=NAME v=N protocols=range,roundrobin:2 session=MS rebalance=MS type=NAME
    sync a g=3 a=A b=B                    SyncGroup; `name=value` are the assignments a leader brings
    beat a g=3    leave a b instance=i    expire a    wait 300    settings group_max_size=2    show

Time begins at 0 ms and moves by `wait`, which ticks. Parked requests are stepped again whenever the group wakes, as
`Groups.ask` does. `REDBROKER_REWRITE=1` writes what comes out into the files: read the diff.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redbroker.config import Settings
from redbroker.errors import ErrorCode, KafkaError
from redbroker.machines.classic_group import (
    ClassicGroup,
    Heartbeat,
    Joined,
    JoinGroup,
    Leave,
    LeaveGroup,
    Left,
    Synced,
    SyncGroup,
    step,
)
from redbroker.machines.classic_types import Member
from redbroker.machines.group import Expire, Park, Tick

ZERO_MS = 1_767_225_600_000
DEFAULTS = {"group_initial_rebalance_delay_ms": 300, "group_min_session_timeout_ms": 1_000}


class Scenario:
    """One group, one clock, and the requests that are parked."""

    def __init__(self) -> None:
        self.group: ClassicGroup | None = None
        self.now_ms = 0
        self.settings = Settings(**DEFAULTS)  # type: ignore[arg-type]
        self.parked: dict[str, Any] = {}
        self.out: list[str] = []

    def run(self, line: str) -> list[str]:
        """One command; gives what is to be seen."""
        self.out = []
        word, *words = line.split()
        options = dict(each.split("=", 1) for each in words if "=" in each)
        names = [each for each in words if "=" not in each]
        before = self.group
        getattr(self, f"do_{word}")(names, options)
        if self.group is not before:
            self.out.append(self.show())
        return self.out

    def do_join(self, names: list[str], options: dict[str, str]) -> None:
        label, version = names[0], int(options.get("v", "9"))
        new = "new" in names
        protocols = []
        for each in options.get("protocols", "range").split(","):
            name, _, data = each.partition(":")
            protocols.append((name, data.encode()))
        session_ms = int(options.get("session", "10000"))
        member_id = "" if new else options.get("as", label)
        event = JoinGroup(
            member_id, options.get("as", label) if new else "", options.get("instance"), label, "host", session_ms,
            int(options.get("rebalance", "30000")), options.get("type", "consumer"), tuple(protocols),
            known_id_required=version >= 4, skip_supported=version >= 9,
        )  # fmt: skip
        self.ask(options.get("as", label), event)

    def do_sync(self, names: list[str], options: dict[str, str]) -> None:
        given = {key: options.pop(key) for key in ("g", "instance", "type", "protocol") if key in options}
        generation = int(given["g"]) if "g" in given else (self.group.generation if self.group else -1)
        assignments = tuple((name, value.encode()) for name, value in options.items())
        event = SyncGroup(
            names[0], generation, given.get("instance"), given.get("type"), given.get("protocol"), assignments
        )
        self.ask(names[0], event)

    def do_beat(self, names: list[str], options: dict[str, str]) -> None:
        generation = int(options["g"]) if "g" in options else (self.group.generation if self.group else -1)
        self.ask(names[0], Heartbeat(names[0], generation, options.get("instance")))

    def do_leave(self, names: list[str], options: dict[str, str]) -> None:
        leavers = [Leave(name) for name in names]
        if "instance" in options:
            leavers.append(Leave("", options["instance"]))
        self.ask("leave", LeaveGroup(tuple(leavers)))

    def do_expire(self, names: list[str], options: dict[str, str]) -> None:
        self.ask("", Expire(tuple(names)))

    def do_wait(self, names: list[str], options: dict[str, str]) -> None:
        self.now_ms += int(names[0])
        self.ask("", Tick())

    def do_settings(self, names: list[str], options: dict[str, str]) -> None:
        self.settings = Settings(**(DEFAULTS | options))  # type: ignore[arg-type]

    def do_show(self, names: list[str], options: dict[str, str]) -> None:
        self.out.append(self.show())
        for member in self.group.members.values() if self.group else ():
            protocols = ",".join(name + (f":{data.decode()}" if data else "") for name, data in member.protocols)
            instance = f" instance {member.instance_id}" if member.instance_id else ""
            self.out.append(f"  {member.id}{instance} {protocols} assignment {member.assignment.decode() or '-'}")

    def ask(self, label: str, event: Any) -> None:
        """Step, print the answer, and wake who is parked as long as the group wakes."""
        wake = self.step(label, event)
        while wake:
            parked, self.parked = self.parked, {}
            woken = [self.step(each, waiting) for each, waiting in parked.items()]
            wake = any(woken)

    def step(self, label: str, event: Any) -> bool:
        before = self.group
        made = step(before, event, ZERO_MS + self.now_ms, self.settings)
        assert made.group is None or ClassicGroup.from_json(made.group.to_json()) == made.group
        self.group = made.group
        if isinstance(made.answer, Park):
            if self.parked.get(label) is None and not getattr(event, "parked", False):
                self.out.append(f"{label}: parked until {made.answer.until_ms - ZERO_MS}")
            self.parked[label] = made.answer.event
        elif not isinstance(event, Tick | Expire):
            self.parked.pop(label, None)
            self.out.append(f"{label}: {tell(made.answer)}")
        return made.wake

    def show(self) -> str:
        """The group in one line."""
        group = self.group
        if group is None:
            return "no group"
        words = [group.phase, f"generation {group.generation}"]
        if group.protocol:
            words.append(group.protocol)
        if group.deadline_ms is not None:
            words.append(f"until {group.deadline_ms - ZERO_MS}")
        words += [mark(member, group) for member in group.members.values()]
        words += [f"{name}(pending until {until - ZERO_MS})" for name, until in group.pending.items()]
        return " ".join(words)


def mark(member: Member, group: ClassicGroup) -> str:
    """A member's name, starred when it leads, with its flags."""
    flags = [flag for flag in ("new", "joined", "unsynced", "syncing") if getattr(member, flag)]
    star = "*" if member.id == group.leader else ""
    return f"{member.id}{star}" + (f"({' '.join(flags)})" if flags else "")


def tell(answer: Any) -> str:
    """An answer in words."""
    if answer is None:
        return "ok"
    if isinstance(answer, KafkaError):
        return answer.code.name
    if isinstance(answer, Left):
        return " ".join("ok" if error is ErrorCode.NONE else error.name for error in answer.errors)
    if isinstance(answer, Synced):
        return f"assigned {answer.assignment.decode() or 'nothing'}"
    assert isinstance(answer, Joined)
    if answer.error is not ErrorCode.NONE:
        return f"{answer.error.name} {answer.member_id}".strip()
    words = [f"joined as {answer.member_id} generation {answer.generation} {answer.protocol} leader {answer.leader}"]
    if answer.members:
        words.append("of " + ",".join(member_id for member_id, _, _ in answer.members))
    if answer.skip_assignment:
        words.append("skip assignment")
    return " ".join(words)


def play(path: Path) -> str:
    """A scenario file as it should read, given what happens now; comments and blank lines stay."""
    scenario, told = Scenario(), []
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            told.append(line)
            continue
        told += [line, "----", *scenario.run(line), ""]
        for skipped in lines:  # what the file expected, up to the blank line behind it
            if not skipped.strip():
                break
    return "\n".join(told).rstrip() + "\n"
