"""`redbroker group`: see how far consumer groups have read and who reads; move and forget them. No worker is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from redbroker.cli.output import print_json, show
from redbroker.cli.shared import (
    DryRunOption,
    Format,
    FormatOption,
    StorageOption,
    YesOption,
    confirm,
    counted,
    raised,
    settings_for,
    with_engine,
    wrong,
)

if TYPE_CHECKING:
    from redbroker.engine import Engine

app = typer.Typer(no_args_is_help=True, help="See, move and forget consumer groups.")

Name = Annotated[str, typer.Argument(metavar="GROUP")]


@app.command("list")
def list_groups(
    state: Annotated[list[str], typer.Option("--state", help="Only groups in this state, as Stable or Empty.")] = [],  # noqa: B006
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """List the groups."""

    async def work(engine: Engine) -> list[dict[str, Any]]:
        wanted = {each.lower() for each in state}
        return [
            {"group": each.name, "type": each.type, "protocol": each.protocol_type or None, "state": each.phase}
            for each in sorted(await engine.groups.list())
            if not wanted or each.phase.lower() in wanted
        ]

    nothing = f"no groups in state {' or '.join(state)}" if state else "no groups: a consumer with a group.id makes one"
    show(with_engine(settings_for(storage), work), output, nothing=nothing)


@app.command()
def describe(
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on looking until Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often to look.")] = 1.0,
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Show a group's members, their partitions, and the lag of each in records and seconds."""
    from redbroker.cli.group_view import look, page, watching

    async def work(engine: Engine) -> None:
        if watch:
            await watching(engine, name, every_s, output)
            return
        seen = await look(engine, name)
        if output is Format.JSON:
            print_json(seen)
        else:
            page(seen)

    with_engine(settings_for(storage), work)


@app.command()
def seek(
    name: Name,
    to: Annotated[str, typer.Option("--to", metavar="WHERE", help="start, end, OFFSET, -N, or @TIME (@2h).")],
    topic: Annotated[
        list[str], typer.Option("--topic", "-t", metavar="TOPIC[:P]", help="Default: all the group has read.")
    ] = [],  # noqa: B006  typer copies it
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Move what a group has committed; its members must have stopped."""
    from redbroker.cli.positions import Position

    position = Position.parse(to)
    settings = settings_for(storage)

    async def plan(engine: Engine) -> list[dict[str, Any]]:
        from redbroker.cli.group_view import committed_by
        from redbroker.cli.positions import place

        await refuse_members(engine, name)
        committed = await committed_by(engine, name, new=bool(topic))
        rows = []
        for found, partitions in (await chosen(engine, name, topic, list(committed))).items():
            at = await place(engine, engine.topics.all()[found], position, partitions)
            for index, offset in at.items():
                before = committed.get((found, index))
                rows.append(
                    {"topic": found, "partition": index, "from": before.offset if before else None, "to": offset}
                )
        return rows

    rows = with_engine(settings, plan)
    if output is Format.TEXT:
        show(rows, output)
    sentence = f"move {counted(len(rows), 'partition')} of group {name} to {to}"
    if output is Format.JSON and dry_run:
        show(rows, output)
        return
    if not confirm(sentence, yes=yes, dry_run=dry_run):
        return

    async def work(engine: Engine) -> None:
        from redbroker.engine.offsets import Commit

        commits = [Commit(row["topic"], row["partition"], row["to"]) for row in rows]
        for refusal in await engine.offsets.commit(name, commits):
            raised(refusal)

    with_engine(settings, work)
    if output is Format.JSON:
        show(rows, output)
    else:
        print(f"moved {counted(len(rows), 'partition')} of {name}")


@app.command()
def delete(
    groups: Annotated[list[str], typer.Argument(metavar="GROUP")],
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Forget groups and everything they have committed; their members must have stopped."""
    settings = settings_for(storage)

    async def look(engine: Engine) -> int:
        from redbroker.cli.group_view import committed_by

        for name in groups:
            await refuse_members(engine, name)
        return sum([len(await committed_by(engine, name)) for name in groups])

    offsets = with_engine(settings, look)
    sentence = f"delete {', '.join(groups)} with {counted(offsets, 'committed offset')}"
    if not confirm(sentence, yes=yes, dry_run=dry_run):
        return

    async def work(engine: Engine) -> None:
        for refusal in await engine.groups.delete(groups):
            raised(refusal)

    with_engine(settings, work)
    if output is Format.JSON:
        print_json([{"deleted": name} for name in groups])
    else:
        print(f"deleted {', '.join(groups)}")


async def refuse_members(engine: Engine, name: str) -> None:
    """NON_EMPTY_GROUP with a sentence when somebody reads in the group: moved offsets would be committed over."""
    from redbroker.errors import ErrorCode, KafkaError

    group = await engine.groups.get(name)
    if group is not None and group.members:
        members = counted(len(group.members), "member")
        raise KafkaError(ErrorCode.NON_EMPTY_GROUP, f"group {name} has {members}; stop them first.")


async def chosen(engine: Engine, name: str, words: list[str], committed: list[tuple[str, int]]) -> dict[str, list[int]]:
    """Topic -> partitions, from `--topic` words or from what the group has committed in topics that still exist."""
    from redbroker.cli.shared import topic_named

    found: dict[str, list[int]] = {}
    for word in words:
        topic_name, colon, index = word.rpartition(":")
        if colon and not index.isdecimal():
            raise wrong(f"--topic takes TOPIC or TOPIC:PARTITION, not {word!r}")
        topic = topic_named(engine, topic_name or word)
        found.setdefault(topic.name, []).extend([int(index)] if colon else range(topic.partitions))
    if not words:
        for each, partition in sorted(committed):
            if engine.topics.get(each):
                found.setdefault(each, []).append(partition)
        if not found:
            raise wrong(f"group {name} has committed nothing: name topics with --topic")
    return {each: sorted(set(partitions)) for each, partitions in found.items()}
