"""The checker of the fault runs: every anomaly in a small history of its own, and none in histories that are good."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.system.faults.checker import Policy, Verdict, check
from tests.system.faults.history import payload, value_of

LOG = "t:0"
Ops = list[dict[str, Any]]


def op(f: str, type_: str, by: str = "w", **words: Any) -> dict[str, Any]:
    return {"at": 0.0, "by": by, "f": f, "type": type_, "log": LOG, **words}


def writer(by: str = "w", acks: int = -1, idempotent: bool = True) -> dict[str, Any]:
    return op("open", "ok", by, role="writer", acks=acks, idempotent=idempotent)


def reader(by: str = "r", mode: str = "assign", **group: str) -> dict[str, Any]:
    return op("open", "ok", by, role="reader", mode=mode, **group)


def v(number: int, by: str = "w") -> str:
    return f"{by}:{LOG}:{number}"


def sent(first: int, last: int, by: str = "w") -> dict[str, Any]:
    return op("send", "invoke", by, values=[v(number, by) for number in range(first, last + 1)])


def acked(offsets: dict[int, int], by: str = "w", epoch: int | None = None) -> dict[str, Any]:
    """Numbers and the offsets they were acknowledged at."""
    words: dict[str, Any] = {} if epoch is None else {"epochs": [epoch] * len(offsets)}
    return op("send", "ok", by, values=[v(each, by) for each in offsets], offsets=list(offsets.values()), **words)


def polled(records: list[tuple[int, int, int]], by: str = "r") -> dict[str, Any]:
    """(offset, epoch, number) of each."""
    return op("poll", "ok", by, records=[[offset, epoch, v(number)] for offset, epoch, number in records])


def final(records: list[tuple[int, int, int]], complete: bool = True, start: int = 0) -> Ops:
    end = records[-1][0] + 1 if records else start
    return [polled(records, "final"), op("end", "ok", "final", start=start, end=end, complete=complete)]


def straight(first: int, last: int, epoch: int = 1) -> list[tuple[int, int, int]]:
    """Number n at offset n."""
    return [(number, epoch, number) for number in range(first, last + 1)]


def committed(offset: int, epoch: int = -1, epoch_end: int = -1) -> dict[str, Any]:
    return op("committed", "ok", "final", group="g", offset=offset, epoch=epoch, epoch_end=epoch_end)


GOOD: Ops = [
    writer(),
    reader(),
    sent(0, 5),
    acked({0: 0, 1: 1, 2: 2}),
    polled(straight(0, 3)),
    acked({3: 3, 4: 4, 5: 5}, epoch=1),
    polled(straight(4, 5)),
    committed(6, 1),
    *final(straight(0, 5)),
]
CUT = [(0, 1, 0), (1, 1, 1), (2, 5, 7), (3, 5, 8), (4, 5, 9)]
"""The log after a failover that cut 2 and 3 off; 7 to 9 came instead, in epoch 5."""

CASES: dict[str, tuple[str, Ops]] = {
    "an acknowledged record is missing in the middle": (
        "lost-write",
        [sent(0, 2), acked({0: 0, 1: 1}), *final([(0, 1, 0), (1, 1, 2)])],
    ),
    "the end of a log is cut off": ("lost-write", [sent(0, 2), acked({0: 0, 2: 2}), *final(straight(0, 0))]),
    "everything acknowledged is gone": ("lost-write", [sent(0, 2), acked({0: 0, 1: 1}), *final([])]),
    "the final reads stop early": ("unseen", [sent(0, 2), acked({0: 0, 2: 2}), *final(straight(0, 1), complete=False)]),
    "a record stands twice": ("duplicate", [sent(0, 1), acked({0: 0}), *final([(0, 1, 0), (1, 1, 0), (2, 1, 1)])]),
    "two readers find different records at one offset": (
        "inconsistent-offsets",
        [reader(), sent(0, 3), polled(straight(0, 1)), *final([(0, 1, 0), (1, 2, 3)])],
    ),
    "an acknowledged offset holds another record": (
        "inconsistent-offsets",
        [sent(0, 3), acked({1: 1}), *final([(0, 1, 0), (1, 2, 3)])],
    ),
    "a record that was read is cut off": (
        "vanished-read",
        [reader(), sent(0, 3), polled(straight(0, 3)), *final(straight(0, 2))],
    ),
    "a later send stands earlier": (
        "nonmonotonic-send",
        [sent(0, 1), acked({0: 1}), acked({1: 0}), *final([(0, 1, 1), (1, 1, 0)])],
    ),
    "within a batch the later record stands earlier": (
        "int-nonmonotonic-send",
        [sent(0, 1), acked({0: 1, 1: 0}), *final([(0, 1, 1), (1, 1, 0)])],
    ),
    "a reader goes back": (
        "nonmonotonic-poll",
        [reader(), sent(0, 3), polled(straight(0, 2)), polled(straight(1, 3)), *final(straight(0, 3))],
    ),
    "a reader goes back within a poll": (
        "int-nonmonotonic-poll",
        [reader(), sent(0, 3), polled([*straight(0, 2), *straight(2, 3)]), *final(straight(0, 3))],
    ),
    "a reader passes over a record": (
        "poll-skip",
        [reader(), sent(0, 3), polled(straight(0, 1)), polled(straight(3, 3)), *final(straight(0, 3))],
    ),
    "a reader passes over a record within a poll": (
        "int-poll-skip",
        [reader(), sent(0, 3), polled([(0, 1, 0), (2, 1, 2)]), *final(straight(0, 3))],
    ),
    "a reader goes on behind a cut": (
        "silent-truncation",
        [reader(), sent(0, 9), polled(straight(0, 3)), polled([(4, 5, 9)]), *final(CUT)],
    ),
    "a reader goes back, but not to the cut": (
        "silent-truncation",
        [reader(), sent(0, 9), polled(straight(0, 3)), polled([(3, 5, 8), (4, 5, 9)]), *final(CUT)],
    ),
    "epochs go down along the log": ("epoch-decreasing", [sent(0, 1), *final([(0, 5, 0), (1, 4, 1)])]),
    "epochs go down for a reader": (
        "epoch-decreasing",
        [reader(), sent(0, 2), polled([(0, 5, 0), (1, 4, 1)]), *final(straight(0, 2))],
    ),
    "an epoch is used twice": (
        "two-contents",
        [reader(), sent(0, 9), polled([(0, 1, 0), (1, 5, 1)]), *final([(0, 1, 0), (1, 5, 7)])],
    ),
    "an epoch is used twice, as the answers tell": (
        "two-contents",
        [sent(0, 9), acked({1: 1}, epoch=5), *final([(0, 1, 0), (1, 5, 7)])],
    ),
    "an offset is committed behind the end": (
        "committed-beyond-end",
        [sent(0, 1), committed(9), *final(straight(0, 1))],
    ),
    "its epoch does not tell that it was cut off": (
        "committed-beyond-end",
        [sent(0, 1), committed(9, 1, 9), *final(straight(0, 1))],
    ),
    "a member passes over a record, and no rebalance was told": (
        "poll-skip",
        [reader(mode="subscribe"), sent(0, 3), polled(straight(0, 1)), polled(straight(3, 3)), *final(straight(0, 3))],
    ),
    "a group commits beyond a record that its members did not get": (
        "committed-unread",
        [
            reader("r", "subscribe", group="g"),
            sent(0, 3),
            polled(straight(0, 1)),
            op("jump", "info", "r", why="rebalance"),
            polled(straight(3, 3)),
            committed(4),
            *final(straight(0, 3)),
        ],
    ),
    "a refused record is there": (
        "aborted-read",
        [sent(0, 1), op("send", "fail", values=[v(1)]), *final(straight(0, 1))],
    ),
    "a producer gives up": (
        "producer-ended",
        [sent(0, 1), op("error", "info", error="out of order", fatal=True), *final(straight(0, 1))],
    ),
    "a record comes from nowhere": ("phantom-read", [sent(0, 1), *final(straight(0, 2))]),
}


def named(operations: Ops, policy: Policy | None = None) -> Verdict:
    return check([writer(), *operations], policy)


def test_a_good_history_has_no_anomaly() -> None:
    verdict = check(GOOD)
    assert verdict.valid
    assert not verdict.findings
    assert (verdict.counts["acknowledged"], verdict.counts["stored"], verdict.counts["read"]) == (6, 6, 6 + 6)


@pytest.mark.parametrize("case", CASES)
def test_an_anomaly_is_named(case: str) -> None:
    name, operations = CASES[case]
    verdict = named(operations)
    assert name in verdict.fatal(), verdict
    assert not verdict.valid


@pytest.mark.parametrize("acks", [0, 1])
def test_what_less_than_all_may_lose_is_counted_and_forgiven(acks: int) -> None:
    operations = [sent(0, 9), acked({2: 2, 3: 3}), *final(CUT)]
    verdict = check([writer(acks=acks), *operations])
    assert verdict.valid
    assert verdict.tolerated() == {"lost-write": 2, "inconsistent-offsets": 2}


def test_a_writer_that_is_not_idempotent_may_store_twice() -> None:
    operations = [sent(0, 1), acked({0: 1}), *final([(0, 1, 0), (1, 1, 0)])]
    verdict = check([writer(idempotent=False), *operations])
    assert verdict.valid
    assert verdict.tolerated() == {"duplicate": 1}


def test_without_a_high_watermark_readers_may_see_what_is_taken_back_but_must_be_told() -> None:
    told = [reader(), sent(0, 9), polled(straight(0, 3)), polled(CUT[2:]), *final(CUT)]
    verdict = named(told, Policy(high_watermark=False))
    assert verdict.valid
    assert set(verdict.tolerated()) == {"vanished-read", "inconsistent-offsets"}
    untold = [reader(), sent(0, 9), polled(straight(0, 3)), polled([(4, 5, 9)]), *final(CUT)]
    assert "silent-truncation" in named(untold, Policy(high_watermark=False)).fatal()


def test_a_jump_that_is_told_begins_anew() -> None:
    jump = op("jump", "info", "r", why="rebalance")
    for later in (straight(3, 3), straight(0, 3)):
        assert not named(
            [reader(), sent(0, 3), polled(straight(0, 1)), jump, polled(later), *final(straight(0, 3))]
        ).findings


def test_a_group_may_share_its_records() -> None:
    both = [reader("r", "subscribe", group="g"), reader("s", "subscribe", group="g"), sent(0, 3)]
    first, second = polled(straight(0, 1), "r"), polled(straight(2, 3), "s")
    assert not named([*both, first, second, committed(4), *final(straight(0, 3))]).findings
    assert named([*both, first, committed(3), *final(straight(0, 3))]).fatal() == {"committed-unread": 1}


def test_a_group_member_may_skip_and_repeat_where_it_was_told_of_a_rebalance() -> None:
    operations = [sent(0, 4), polled([*straight(0, 1), *straight(1, 1), *straight(4, 4)]), *final(straight(0, 4))]
    verdict = named([reader(mode="subscribe"), *operations])
    assert verdict.valid
    assert verdict.tolerated() == {"int-nonmonotonic-poll": 1, "int-poll-skip": 2}


def test_an_answer_without_an_offset_is_an_answer() -> None:
    unknown = op("send", "ok", values=[v(0), v(1)], offsets=[None, -1])
    assert not named([sent(0, 1), unknown, *final(straight(0, 1))]).findings
    assert named([sent(0, 1), unknown, *final(straight(0, 0))]).fatal() == {"lost-write": 1}


def test_late_answers_are_no_disorder() -> None:
    assert not named([sent(0, 2), acked({0: 0}), acked({2: 2}), acked({1: 1}), *final(straight(0, 2))]).findings


def test_records_below_the_log_start_are_not_lost() -> None:
    operations = [reader(), sent(0, 5), acked({0: 0, 1: 1}), polled(straight(0, 5)), *final(straight(3, 5), start=3)]
    assert not named(operations).findings


def test_indefinite_sends_may_be_there_or_not() -> None:
    assert not named([sent(0, 2), op("send", "info", values=[v(1), v(2)]), *final(straight(0, 1))]).findings


def test_an_offset_beyond_the_end_is_forgiven_where_its_epoch_tells() -> None:
    assert not named([sent(0, 1), committed(9, 1, 2), *final(straight(0, 1))]).findings


def test_a_damaged_record_is_no_value_of_ours() -> None:
    assert value_of(payload(v(3))) == v(3)
    assert value_of(payload(v(3))[:-1]).startswith("!")
    assert value_of(payload(v(3)).replace(b"3|", b"4|")).startswith("!")
    assert value_of(None).startswith("!")


@st.composite
def good_histories(draw: st.DrawFn) -> Ops:
    """Writers that interleave, failovers that cut off what nobody acknowledged or read, readers that read in order."""
    log: list[tuple[int, str]] = []
    operations: Ops = [writer("a"), writer("b"), reader("r"), reader("s")]
    next_number, places, epoch, safe = {"a": 0, "b": 0}, {"r": 0, "s": 0}, 1, 0
    for step in draw(st.lists(st.tuples(st.sampled_from("abrsfe"), st.integers(1, 4), st.booleans()), max_size=60)):
        who, count, lucky = step
        if who in next_number:
            numbers = range(next_number[who], next_number[who] + count)
            next_number[who] += count
            operations.append(sent(numbers[0], numbers[-1], who))
            values, offset = [v(number, who) for number in numbers], len(log)
            log += [(epoch, value) for value in values]
            if lucky:
                safe = len(log)
                operations.append(
                    op("send", "ok", who, values=values, offsets=list(range(offset, safe)), epochs=[epoch] * count)
                )
            else:
                operations.append(op("send", "info", who, values=values))
        elif who in places:
            end = min(safe, places[who] + count)
            records = [[offset, *log[offset]] for offset in range(places[who], end)]
            places[who] = end
            operations.append(op("poll", "ok", who, records=records))
        elif who == "f":
            epoch += count
            del log[safe + (len(log) - safe) // count if lucky else safe :]
        else:
            start = draw(st.integers(0, safe))
            operations.append(op("jump", "info", "r", why="seek"))
            places["r"] = start
    safe = len(log)
    operations.append(op("poll", "ok", "final", records=[[offset, *log[offset]] for offset in range(safe)]))
    operations.append(op("end", "ok", "final", start=0, end=safe, complete=True))
    return operations


@settings(max_examples=300, deadline=None)
@given(good_histories())
def test_no_good_history_is_blamed(operations: Ops) -> None:
    verdict = check(operations)
    assert not verdict.findings, verdict.findings


@settings(max_examples=150, deadline=None)
@given(good_histories(), st.data())
def test_a_record_taken_out_of_a_good_history_is_missed(operations: Ops, data: st.DataObject) -> None:
    acknowledged = [
        value for each in operations if each["f"] == "send" and each["type"] == "ok" for value in each["values"]
    ]
    if not acknowledged:
        return
    victim = data.draw(st.sampled_from(acknowledged))
    for each in operations:
        if each["by"] == "final" and each["f"] == "poll":
            each["records"] = [record for record in each["records"] if record[2] != victim]
    assert "lost-write" in check(operations).fatal()


@pytest.mark.system
def test_a_million_records_are_checked_in_seconds() -> None:
    count, step = 1_000_000, 100
    operations: Ops = [writer(), reader()]
    for first in range(0, count, step):
        numbers = range(first, first + step)
        operations.append(sent(first, first + step - 1))
        operations.append(acked(dict(zip(numbers, numbers, strict=True))))
        operations.append(polled(straight(first, first + step - 1)))
        operations.append(polled(straight(first, first + step - 1), "final"))
    operations.append(op("end", "ok", "final", start=0, end=count, complete=True))
    began = time.process_time()
    verdict = check(operations)
    assert not verdict.findings
    assert verdict.counts["acknowledged"] == count
    assert time.process_time() - began < 30  # measured: 4 s
