"""The rounds and the statistics: every workload is run for every contender in turn, several times over.

Contenders alternate within a round and the order rotates between rounds (A B C, B C A, ...), so that a machine that
slows down for a while slows all of them. Ratios are taken within a round and then their median; a value alone says
little, a ratio of two values taken seconds apart says more.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.contenders import YARDSTICK, Contender
from bench.measures import MEASURES, Measure
from bench.servers import ServerError
from bench.workloads import ClientError, Sample, Sizes, Workload


@dataclass
class Series:
    """All samples of one measure for one contender, one per round that worked."""

    samples: list[Sample] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [sample.value for sample in self.samples]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """Median of the ratios to the yardstick; None where it was not measured."""
        return statistics.median(self.ratios) if self.ratios else None

    def cpu_us(self) -> dict[str, float]:
        """Median CPU time per record, by role."""
        roles = self.samples[0].cpu_us if self.samples else {}
        return {role: statistics.median(sample.cpu_us.get(role, 0.0) for sample in self.samples) for role in roles}


#: measure -> contender -> series
Results = dict[str, dict[str, Series]]


@dataclass
class Failure:
    """A measurement that could not be made."""

    workload: str
    contender: str
    reason: str


def choose(workloads: Sequence[Workload], wanted: Sequence[str]) -> list[Workload]:
    """The workloads whose name or one of whose measures begins with a wanted name; all when none is wanted."""
    if not wanted:
        return list(workloads)
    return [
        workload
        for workload in workloads
        if any(name.startswith(tuple(wanted)) for name in (workload.name, *workload.measures))
    ]


def measure(
    workloads: Sequence[Workload],
    contenders: Sequence[Contender],
    sizes: Sizes,
    rounds: int,
    progress: Callable[[str], None],
) -> tuple[Results, list[Failure]]:
    """Runs everything; a failed measurement is noted and the rest goes on."""
    results: Results = {}
    failures: list[Failure] = []
    for workload in workloads:
        able = [c for c in contenders if (c.name in workload.contenders if workload.contenders else not c.apart)]
        for turn in range(rounds):
            shift = turn % max(1, len(able))
            found: dict[str, dict[str, Sample]] = {}
            for contender in able[shift:] + able[:shift]:
                progress(f"{workload.name}, round {turn + 1} of {rounds}: {contender.name}")
                try:
                    found[contender.name] = workload.run(contender, sizes)
                except (ClientError, ServerError, OSError) as error:
                    failures.append(Failure(workload.name, contender.name, str(error)))
            add_round(results, workload, found)
    return results, failures


def add_round(results: Results, workload: Workload, found: dict[str, dict[str, Sample]]) -> None:
    """Files the samples of one round, with their ratios to the yardstick."""
    for name in workload.measures:
        yardstick = found.get(YARDSTICK, {}).get(name)
        for contender, samples in found.items():
            series = results.setdefault(name, {}).setdefault(contender, Series())
            series.samples.append(samples[name])
            if yardstick and yardstick.value and contender != YARDSTICK:
                series.ratios.append(samples[name].value / yardstick.value)


def verdict(what: Measure, contender: str, series: Series) -> bool | None:
    """Whether the medians meet the target."""
    return what.passes(contender, series.median, series.ratio)


def as_json(results: Results) -> dict[str, object]:
    """The block `measures` of a results file."""
    return {
        name: {
            "title": MEASURES[name].title,
            "unit": MEASURES[name].unit,
            "target": MEASURES[name].target,
            "contenders": {
                contender: {
                    "median": round(series.median, 3),
                    "min": round(min(series.values), 3),
                    "max": round(max(series.values), 3),
                    "values": [round(value, 3) for value in series.values],
                    "ratio": None if series.ratio is None else round(series.ratio, 3),
                    "ratios": [round(ratio, 3) for ratio in series.ratios],
                    "passes": verdict(MEASURES[name], contender, series),
                    "cpu_us_per_record": {role: round(us, 3) for role, us in series.cpu_us().items()},
                }
                for contender, series in by_contender.items()
            },
        }
        for name, by_contender in results.items()
    }
