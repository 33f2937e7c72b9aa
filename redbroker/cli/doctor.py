"""`redbroker doctor`: can this storage lose records? What it finds comes with the command that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from redbroker.cli.output import console, print_json
from redbroker.cli.shared import Format, FormatOption, StorageOption, counted, settings_for, storage_name, with_engine

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.checks import Finding


def command(
    strict: Annotated[bool, typer.Option("--strict", help="Leave with code 3 for a note, too.")] = False,
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Check the storage's settings: what can be lost, and the command that mends it.

    Leaves with code 0 when no risk was found, with 3 when records can be lost, with 1 when it could not look.
    """
    settings = settings_for(storage)

    async def work(engine: Engine) -> tuple[dict[str, Any], list[Finding]]:
        from redbroker.engine.checks import inspect

        durability = engine.durability
        facts = {
            "storage": storage_name(settings),
            "masters": [str(address) for address in engine.storage.masters],
            "replicas": durability.replicas_min,
            "replicas_known_from": durability.source,
            "copies_for_acks_all": durability.copies_default,
            "copies_by_master": {at: durability.copies(None, slot) for at, slot in engine.storage.slots().items()},
            "workers": [f"{worker.host}:{worker.port}" for worker in engine.workers.live()],
            "topics": len(engine.topics.all()),
            "cluster_id": engine.cluster_id,
        }
        return facts, await inspect(engine.storage, settings, durability)

    facts, findings = with_engine(settings, work)
    risks = [finding for finding in findings if finding.level == "risk"]
    if output is Format.JSON:
        told = [{name: getattr(finding, name) for name in FIELDS} for finding in findings]
        print_json({**facts, "findings": told})
    else:
        _print(facts, findings, strict=strict)
    if risks or (strict and findings):
        raise typer.Exit(AT_RISK)


AT_RISK = 3
FIELDS = ("level", "server", "sentence", "loses", "mend")


def _print(facts: dict[str, Any], findings: list[Finding], *, strict: bool) -> None:
    screen = console()
    for name, value in facts.items():
        if isinstance(value, dict):
            value = [f"{each} {number}" for each, number in value.items()]
        shown = ", ".join(value) or "none" if isinstance(value, list) else str(value)
        screen.print(f"{name.replace('_', ' '):<20} {shown}")
    screen.print()
    alike: dict[tuple[str, ...], list[str]] = {}  # servers are mostly set up alike: one finding, and where it is true
    for each in findings:
        alike.setdefault((each.level, each.sentence, each.loses, each.mend), []).append(each.server)
    for (level, sentence, loses, mend), servers in alike.items():
        mark = "[red]✗ risk[/]" if level == "risk" else "[yellow]· note[/]"
        screen.print(f"{mark}  {', '.join(servers)}: {sentence}")
        screen.print(f"        {loses}")
        if mend:
            screen.print(f"        mend: [bold]{mend}[/]")
    if any(mend.startswith("CONFIG SET") for *_, mend in alike):
        screen.print("CONFIG SET lasts until the server restarts; CONFIG REWRITE keeps it.")
    risks = sum(level == "risk" for level, *_ in alike)
    notes = len(alike) - risks
    if risks:
        screen.print(f"[red]{counted(risks, 'risk')}[/]")
    elif strict and notes:
        screen.print(f"[red]no risk found, but --strict allows no note: {counted(notes, 'note')}[/]")
    else:
        screen.print("[green]✓ no risk found[/]")
