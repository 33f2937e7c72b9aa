"""The checker: a history in, named anomalies out. Pure, and of one pass over the operations and one over the logs.

The names are those of Jepsen's kafka workload where it has one. "Final" is what the last reads found, partition by
partition, from log start to log end: the truth everything else is compared with.

| anomaly | what it is | tolerated |
|---|---|---|
| lost-write | acknowledged, but not in the final log | from writers with acks 0 or 1 |
| unseen | acknowledged, but the final reads did not come that far | never |
| duplicate | one value at two offsets of the final log | from writers that are not idempotent |
| inconsistent-offsets | one offset with two values, read or acknowledged | without a high watermark; acks 0, 1 |
| vanished-read | a record that was read and is not in the final log | without a high watermark |
| nonmonotonic-send | what one writer sent later stands earlier (int-: of one batch) | acks 0, 1; not idempotent |
| nonmonotonic-poll | a reader goes back untold (int-: within one poll) | group members |
| poll-skip | a reader passes over records (int-: in one poll) | group members, in their first poll after a rebalance |
| committed-unread | a group has committed beyond records that none of its members got | never |
| silent-truncation | a reader goes on behind a cut without reading what replaced the lost records | never |
| epoch-decreasing | leader epochs go down along a log, or for one reader | never |
| two-contents | one (leader epoch, offset) with two values | never |
| committed-beyond-end | a committed offset behind the log end, and its epoch does not tell | never |
| aborted-read | a record whose writer was told that it is not stored | never |
| phantom-read | a record nobody sent, or not as it was sent | never |
| producer-ended | an idempotent producer took its sequence for lost and ended itself | never |
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run must hold. Without a high watermark readers may see records that a failover takes back."""

    high_watermark: bool = True


@dataclass(slots=True)
class Finding:
    """All anomalies of one name that are equally bad: how many, and the first few in words."""

    name: str
    fatal: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """What the checker says: the findings, and how much it looked at."""

    findings: dict[tuple[str, bool], Finding] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def valid(self) -> bool:
        """No anomaly that the policy forbids."""
        return not any(finding.fatal for finding in self.findings.values())

    def fatal(self) -> dict[str, int]:
        """Name -> count of what must not be."""
        return {finding.name: finding.count for finding in self.findings.values() if finding.fatal}

    def tolerated(self) -> dict[str, int]:
        """Name -> count of what is, and may be."""
        return {finding.name: finding.count for finding in self.findings.values() if not finding.fatal}

    def add(self, name: str, fatal: bool, example: str, count: int = 1) -> None:
        """One more anomaly (or several that share an example)."""
        finding = self.findings.setdefault((name, fatal), Finding(name, fatal))
        finding.count += count
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(example)


@dataclass(slots=True)
class Writer:
    """How one process writes."""

    acks: int = -1
    idempotent: bool = True


class FinalLog:
    """One partition as the last reads found it."""

    __slots__ = ("complete", "end", "offsets", "records", "start", "where")

    def __init__(self) -> None:
        self.records: dict[int, tuple[int, str]] = {}
        self.where: dict[str, int] = {}
        self.offsets: list[int] = []
        self.start, self.end, self.complete = 0, 0, False

    def holds(self, offset: int, value: str) -> bool:
        """Is this very record still there (or below the log start, where nobody can tell)?"""
        found = self.records.get(offset)
        return found[1] == value if found else offset < self.start

    def between(self, low: int, high: int) -> int:
        """How many records lie strictly between two offsets."""
        return max(0, bisect_left(self.offsets, high) - bisect_right(self.offsets, low))


class Reader:
    """How far one reader is in one partition: the last record it got, and the last of those that are still there."""

    __slots__ = ("cut", "epoch", "good", "last", "polls")

    def __init__(self) -> None:
        self.last = self.good = self.epoch = -1
        self.polls = 0  # since it began or was told of a jump
        self.cut = False  # the last record it got is not in the final log


class Checker:
    """`check` runs it."""

    def __init__(self, operations: Iterable[dict[str, Any]], policy: Policy) -> None:
        self.policy = policy
        self.verdict = Verdict()
        self.writers: dict[str, Writer] = defaultdict(Writer)
        self.modes: dict[str, str] = {}
        self.groups: dict[str, str] = {}
        self.attempted: set[str] = set()
        self.failed: set[str] = set()
        self.acknowledged: list[tuple[str, str, list[str], list[int | None], list[int]]] = []
        self.reads: list[tuple[str, str, list[Any] | None]] = []
        self.final: dict[str, FinalLog] = defaultdict(FinalLog)
        self.committed: list[dict[str, Any]] = []
        for operation in operations:
            self._sort(operation)

    def _sort(self, op: dict[str, Any]) -> None:
        self.verdict.counts["operations"] += 1
        match op["f"], op["type"]:
            case "send", "invoke":
                self.attempted.update(op["values"])
            case "send", "ok":
                values = op["values"]
                self.acknowledged.append((op["by"], op["log"], values, op["offsets"], op.get("epochs") or []))
                self.verdict.counts["acknowledged"] += len(values)
            case "send", "fail":
                self.failed.update(op["values"])
            case "send", _:
                self.verdict.counts["indefinite"] += len(op["values"])
            case "poll", _:
                self.verdict.counts["read"] += len(op["records"])
                if op["by"] == "final":
                    self._take(self.final[op["log"]], op["records"], op["log"])
                else:
                    self.reads.append((op["by"], op["log"], op["records"]))
            case "jump", _:
                self.reads.append((op["by"], op["log"], None))
            case "open", _ if op["role"] == "writer":
                self.writers[op["by"]] = Writer(op["acks"], op["idempotent"])
            case "open", _:
                self.modes[op["by"]] = op["mode"]
                if "group" in op:
                    self.groups[op["by"]] = op["group"]
            case "end", _:
                log = self.final[op["log"]]
                log.start, log.end, log.complete = op["start"], op["end"], op["complete"]
            case "error", _ if op.get("fatal"):
                self.verdict.add("producer-ended", True, f"{op['by']}: {op['error']}")
            case "committed", _:
                self.committed.append(op)
            case "fault", "invoke":
                self.verdict.counts["faults"] += 1

    def _take(self, log: FinalLog, records: list[list[Any]], name: str) -> None:
        for offset, epoch, value in records:
            log.records[offset] = (epoch, value)
            first = log.where.setdefault(value, offset)
            if first != offset:
                writer = self.writers[value.partition(":")[0]]
                self.verdict.add("duplicate", writer.idempotent, f"{name}: {value} at {first} and {offset}")

    # --- the passes ------------------------------------------------------------------------------------------

    def check(self) -> Verdict:
        """Every anomaly of the history."""
        for name, log in self.final.items():
            log.offsets = sorted(log.records)
            epoch = -1
            for offset in log.offsets:
                found, value = log.records[offset]
                if found < epoch:
                    self.verdict.add("epoch-decreasing", True, f"{name}: epoch {found} at {offset}, before it {epoch}")
                epoch = max(epoch, found)
                self._known(name, offset, value)
        self._sends()
        self._polls()
        self._contents()
        self._commits()
        self.verdict.counts["stored"] = sum(len(log.records) for log in self.final.values())
        self.verdict.counts["logs"] = len(self.final)
        return self.verdict

    def _known(self, name: str, offset: int, value: str) -> None:
        if value in self.failed:
            self.verdict.add("aborted-read", True, f"{name}: {value} at {offset} was refused")
        elif value not in self.attempted:
            self.verdict.add("phantom-read", True, f"{name}: {value} at {offset} was never sent")

    def _sends(self) -> None:
        newest: dict[tuple[str, str], tuple[int, int, str]] = {}
        for by, name, values, offsets, _ in self.acknowledged:
            writer, log = self.writers[by], self.final[name]
            strict = writer.acks == -1
            highest = log.offsets[-1] if log.offsets else -1
            before = -1
            for value, given in zip(values, offsets, strict=True):
                # Clients acknowledge a repeated batch without an offset when they no longer know it.
                unknown = given is None or given < 0
                offset = log.where.get(value, log.start) if unknown else given
                if value not in log.where and offset >= log.start:
                    lost = log.complete or offset <= highest
                    self.verdict.add(
                        "lost-write" if lost else "unseen",
                        strict or not lost,
                        f"{name}: {value} acknowledged at {offset}",
                    )
                if unknown:
                    continue
                if before >= offset:
                    self.verdict.add(
                        "int-nonmonotonic-send",
                        strict and writer.idempotent,
                        f"{name}: {value} at {offset} after {before}",
                    )
                before = offset
                number = int(value.rpartition(":")[2])
                last = newest.get((by, name))
                # Answers may come late and out of order: only what was sent earlier and stands later is one.
                if last and ((number > last[0] and offset <= last[1]) or (number < last[0] and offset >= last[1])):
                    self.verdict.add(
                        "nonmonotonic-send",
                        strict and writer.idempotent,
                        f"{name}: {value} at {offset}, {last[2]} at {last[1]}",
                    )
                if not last or number > last[0]:
                    newest[by, name] = (number, offset, value)

    def _polls(self) -> None:
        places: dict[tuple[str, str], Reader] = {}
        for by, name, records in self.reads:
            if records is None:
                places.pop((by, name), None)
                continue
            log = self.final[name]
            reader = places.setdefault((by, name), Reader())
            strict = self.modes.get(by, "assign") == "assign"
            reader.polls += 1
            inside = False
            for offset, epoch, value in records:
                here = log.holds(offset, value)
                if not (here and offset == reader.last + 1 and not reader.cut and epoch >= reader.epoch):
                    prefix = "int-" if inside else ""
                    self._step(by, name, log, reader, (offset, epoch, value, here), strict, prefix)
                reader.last, reader.cut, reader.epoch, inside = offset, not here, epoch, True
                if here:
                    reader.good = offset

    def _step(
        self,
        by: str,
        name: str,
        log: FinalLog,
        reader: Reader,
        record: tuple[int, int, str, bool],
        strict: bool,
        prefix: str,
    ) -> None:
        """A step that is not plainly the next record of the final log."""
        offset, epoch, value, here = record
        if not here and (log.complete or offset <= (log.offsets[-1] if log.offsets else -1)):
            self.verdict.add("vanished-read", self.policy.high_watermark, f"{by} read {name}: {value} at {offset}")
            self._known(name, offset, value)
        if reader.last < 0:
            return
        if -1 < epoch < reader.epoch:
            self.verdict.add("epoch-decreasing", True, f"{by} in {name}: {epoch} at {offset} after {reader.epoch}")
        if offset <= reader.last and not reader.cut:
            self.verdict.add(f"{prefix}nonmonotonic-poll", strict, f"{by} in {name}: {offset} after {reader.last}")
        elif here and reader.cut and (missed := log.between(reader.good, offset)):
            self.verdict.add(
                "silent-truncation",
                True,
                f"{by} in {name}: {reader.last} was cut off, then {offset}: {missed} not read",
            )
        elif here and not reader.cut and (missed := log.between(reader.last, offset)):
            self.verdict.add(
                f"{prefix}poll-skip",
                strict or reader.polls > 1,
                f"{by} in {name}: {offset} after {reader.last}: {missed} passed over",
                missed,
            )

    def _contents(self) -> None:
        """One offset, one value; and one (epoch, offset) one value, even among what was lost."""
        final = self.final
        by_epoch: dict[tuple[str, int, int], str] = {}
        seen: dict[tuple[str, int], str] = {}

        def note(name: str, offset: int, epoch: int, value: str, fatal: bool, checked: bool) -> None:
            found = final[name].records.get(offset)
            if checked:
                known = found[1] if found else seen.setdefault((name, offset), value)
                if known != value:
                    self.verdict.add("inconsistent-offsets", fatal, f"{name}: {value} and {known} at {offset}")
            if epoch < 0:
                return
            known = found[1] if found and found[0] == epoch else by_epoch.setdefault((name, epoch, offset), value)
            if known != value:
                self.verdict.add("two-contents", True, f"{name}: {value} and {known} at {offset} of epoch {epoch}")

        for _, name, records in self.reads:
            for offset, epoch, value in records or ():
                found = final[name].records.get(offset)
                if not (found and found[1] == value):
                    note(name, offset, epoch, value, self.policy.high_watermark, True)
        for by, name, values, offsets, epochs in self.acknowledged:
            strict = self.writers[by].acks == -1
            for index, (value, offset) in enumerate(zip(values, offsets, strict=True)):
                found = final[name].records.get(offset)
                if offset is not None and offset >= 0 and not (found and found[1] == value):
                    note(name, offset, epochs[index] if epochs else -1, value, strict, offset >= final[name].start)

    def _commits(self) -> None:
        got: dict[tuple[str, str], set[int]] = defaultdict(set)
        for by, name, records in self.reads:
            if by in self.groups:
                got[self.groups[by], name].update(offset for offset, _, _ in records or ())
        for op in self.committed:
            log = self.final[op["log"]]
            below = log.offsets[: bisect_left(log.offsets, op["offset"])]
            if op["group"] in self.groups.values() and (unread := set(below) - got[op["group"], op["log"]]):
                self.verdict.add(
                    "committed-unread",
                    True,
                    f"{op['group']} in {op['log']}: {op['offset']}, and nobody got {min(unread)} to {max(unread)}",
                    len(unread),
                )
            told = op["epoch"] >= 0 and -1 < op["epoch_end"] < op["offset"]
            if log.complete and op["offset"] > log.end and not told:
                self.verdict.add(
                    "committed-beyond-end", True, f"{op['group']} in {op['log']}: {op['offset']}, log end {log.end}"
                )


def check(operations: Iterable[dict[str, Any]], policy: Policy | None = None) -> Verdict:
    """What is wrong with a history."""
    return Checker(operations, policy or Policy()).check()
