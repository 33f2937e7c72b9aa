"""`make demo`: real flights through real Kafka clients while a worker is killed; every record is counted and compared.

    flights ── confluent-kafka ──┐                        ┌── confluent-kafka, live all along
               (and kcat)        ├── worker A, worker B ──┤
                                 │   one embedded Valkey  └── kcat, everything from the start, afterwards
                                 └ A gets SIGKILL when half is acknowledged

The producers are idempotent, so a batch that was stored just when its worker died is not stored twice. At the end
each aircraft's flights must be read back exactly as they were sent: none missing, none double, none out of order.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from examples.clients import Consuming, KcatProducer, Producing, create_topic, kcat_read, leaders
from examples.flights import flights
from examples.processes import Process, stop_all

TOPIC = "flights"
PARTITIONS = 6
WORKERS = ("A", "B")
READ_BACK_S = 60.0

console = Console(highlight=False)


def main() -> int:
    """Run it; 0 when everything came back as it was sent."""
    arguments = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.split("\n")[0])
    arguments.add_argument("--flights", type=int, default=336_776, help="how many of the year's departures")
    arguments.add_argument("--keep", action="store_true", help="leave the broker running at the end, until Ctrl-C")
    arguments.add_argument("--no-kcat", action="store_true", help="leave kcat out even where it is installed")
    options = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="redbroker-demo-"))
    processes: list[Process] = []
    try:
        return run(options, folder, processes)
    finally:
        stop_all(processes)
        shutil.rmtree(folder, ignore_errors=True)


def run(options: argparse.Namespace, folder: Path, processes: list[Process]) -> int:
    """The demo itself; `processes` holds what must be stopped whatever happens."""
    began = time.monotonic()
    kcat = None if options.no_kcat else shutil.which("kcat") or shutil.which("kafkacat")
    for name in WORKERS:
        process = Process("worker", "--storage", f"embedded:{folder}", "--port", "0")
        processes.append(process)
        console.print(f"[green]✓[/] worker {name} at {process.address}  {process.ready_line.rpartition('  ')[2]}")
    victim, survivor = processes
    addresses = f"{victim.address},{survivor.address}"
    create_topic(addresses, TOPIC, PARTITIONS)
    led = leaders(addresses, TOPIC)
    console.print(f"[green]✓[/] topic {TOPIC}: {PARTITIONS} partitions; leaders {told(led, processes)}")

    outcome = stream(options.flights, addresses, kcat, victim)
    console.print(f"[green]✓[/] leaders now {told(leaders(survivor.address, TOPIC), processes)}")
    again = kcat_read(kcat, survivor.address, TOPIC) if kcat else None
    good = account(outcome, again, time.monotonic() - began)
    if options.keep and good:
        keep(survivor)
    return 0 if good else 1


def told(led: dict[int, str], processes: list[Process]) -> str:
    """`0→A 1→B …`: which worker leads which partition."""
    names = {process.address: name for name, process in zip(WORKERS, processes, strict=True)}
    return " ".join(f"{partition}→{names.get(address, address)}" for partition, address in sorted(led.items()))


class Outcome:
    """What was sent and what came back; keys and values as bytes, per key in order."""

    def __init__(self) -> None:
        self.sent: dict[bytes, list[bytes]] = {}
        self.by_client: dict[str, int] = {}
        self.live: Consuming | None = None
        self.producing: Producing | None = None
        self.killed_at = 0


def stream(count: int, addresses: str, kcat: str | None, victim: Process) -> Outcome:
    """Send the flights, kill the victim at half time, wait until the live consumer has seen as many as were sent."""
    outcome = Outcome()
    producing = outcome.producing = Producing(addresses, TOPIC)
    piped = KcatProducer(kcat, addresses, TOPIC) if kcat else None
    live = outcome.live = Consuming(addresses, TOPIC, PARTITIONS)
    total = 0
    with Progress(
        TextColumn("  {task.description:<28}"), BarColumn(40), MofNCompleteColumn(), console=console
    ) as shown:
        acked = shown.add_task("acknowledged", total=count)
        seen = shown.add_task("consumed live", total=count)
        for flight in flights():
            if total == count:
                break
            outcome.sent.setdefault(flight.key, []).append(flight.value)
            total += 1
            # Every eighth aircraft goes through kcat. One key has one producer, or it would have no order to compare.
            if piped and sum(flight.key) % 8 == 0:
                piped.send(flight.key, flight.value)
            else:
                producing.send(flight.key, flight.value, flight.time_ms)
            if total % 1_000 == 0:
                shown.update(acked, completed=producing.acknowledged)
                shown.update(seen, completed=live.count)
            if not outcome.killed_at and producing.acknowledged >= count // 2:
                victim.kill()
                outcome.killed_at = producing.acknowledged
                shown.console.print(f"[red]✗[/] worker A killed (SIGKILL) with {producing.acknowledged:,} acknowledged")
        if piped:
            outcome.by_client["kcat"] = piped.sent
            piped.close()
        producing.close()
        outcome.by_client["confluent-kafka"] = producing.sent
        shown.update(acked, completed=producing.acknowledged + (piped.sent if piped else 0))
        deadline = time.monotonic() + READ_BACK_S
        while live.count < total and time.monotonic() < deadline:
            shown.update(seen, completed=live.count)
            time.sleep(0.05)
        time.sleep(0.3)  # a record too many would come now
        live.close()
        shown.update(seen, completed=live.count)
    return outcome


def account(outcome: Outcome, again: dict[bytes, list[bytes]] | None, seconds: float) -> bool:
    """Print what was compared with what; True when everything agrees."""
    assert outcome.live and outcome.producing
    sent = sum(map(len, outcome.sent.values()))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in ("read by", "records", "aircraft", "missing", "extra", "reordered"):
        table.add_column(name, justify="left" if name == "read by" else "right")
    readings = {"confluent-kafka": outcome.live.values}
    if again is not None:
        readings["kcat"] = again
    good = (
        bool(outcome.killed_at) and outcome.live.gaps == 0 and not outcome.producing.errors and not outcome.live.errors
    )
    for name, values in readings.items():
        missing, extra, disordered = differences(outcome.sent, values)
        good = good and not (missing or extra or disordered)
        records = sum(map(len, values.values()))
        table.add_row(name, *(f"{number:,}" for number in (records, len(values), missing, extra, disordered)))
    console.print(table)
    clients = ", ".join(f"{count:,} by {name}" for name, count in sorted(outcome.by_client.items()))
    console.print(f"  sent      {sent:,} flights ({clients})")
    refused = f"{len(outcome.producing.errors):,} sends, {len(outcome.live.errors):,} reads"
    console.print(f"  refused   {refused}; holes in the offsets: {outcome.live.gaps:,}")
    console.print(
        f"  pause     {outcome.producing.longest_pause_s:.1f} s at most between two acknowledgements of one partition"
    )
    verdict = "[bold green]everything came back exactly as it was sent[/]" if good else "[bold red]it differs[/]"
    console.print(f"  {verdict}, in {seconds:.1f} s")
    return good


def differences(sent: dict[bytes, list[bytes]], got: dict[bytes, list[bytes]]) -> tuple[int, int, int]:
    """(missing, double or never sent, keys whose order differs): per key as multisets, then in order."""
    missing = extra = disordered = 0
    for key in sent.keys() | got.keys():
        before, after = sent.get(key, []), got.get(key, [])
        if before == after:
            continue
        lost, strange = Counter(before) - Counter(after), Counter(after) - Counter(before)
        missing += lost.total()
        extra += strange.total()
        disordered += not lost and not strange
    return missing, extra, disordered


def keep(survivor: Process) -> None:
    """Leave the broker to the person in front of it."""
    console.print(f"\n[bold]the broker stays at {survivor.address}[/] until Ctrl-C; for example")
    console.print(f"  kcat -b {survivor.address} -t {TOPIC} -C -o -5 -e -f '%p %o %k %s\\n'", soft_wrap=True)
    try:
        survivor.running.wait()
    except KeyboardInterrupt:
        console.print("stopping")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the workers must not outlive the demo
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
