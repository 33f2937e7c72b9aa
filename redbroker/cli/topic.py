"""`redbroker topic`: create, look at, change and delete topics, straight on the engine (no worker is needed)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redbroker.cli.output import print_json, show, size
from redbroker.cli.shared import (
    DryRunOption,
    Format,
    FormatOption,
    StorageOption,
    YesOption,
    confirm,
    counted,
    pairs,
    raised,
    settings_for,
    topic_named,
    with_engine,
    wrong,
)

if TYPE_CHECKING:
    from redbroker.engine import Engine
    from redbroker.engine.log import Bounds
    from redbroker.engine.topics import Topic

app = typer.Typer(no_args_is_help=True, help="Create, look at, change and delete topics.")

Name = Annotated[str, typer.Argument(metavar="TOPIC")]
ConfigOption = Annotated[list[str], typer.Option("--config", "-c", metavar="NAME=VALUE", help="A topic config.")]


def _told(output: Format, sentence: str, **facts: Any) -> None:
    if output is Format.JSON:
        print_json(facts)
    else:
        print(sentence)


@app.command()
def create(
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC")],
    partitions: Annotated[int | None, typer.Option("--partitions", "-p", min=1)] = None,
    config: ConfigOption = [],  # noqa: B006  typer copies it
    if_not_exists: Annotated[bool, typer.Option(help="Say nothing when it is already there.")] = False,
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
    dry_run: DryRunOption = False,
) -> None:
    """Create topics."""
    configs = pairs(config, "--config")

    async def work(engine: Engine) -> None:
        for name in topics:
            if if_not_exists and engine.topics.get(name):
                continue
            topic = await engine.topics.create(name, partitions, configs, validate_only=dry_run)
            verb = "would create" if dry_run else "created"
            facts = {"topic": topic.name, "partitions": topic.partitions, "configs": dict(topic.configs)}
            _told(output, f"{verb} {topic.name} with {counted(topic.partitions, 'partition')}", **facts)

    with_engine(settings_for(storage), work)


@app.command("list")
def list_topics(
    sizes: Annotated[bool, typer.Option("--sizes", "-s", help="Count records and bytes too.")] = False,
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """List the topics."""

    async def work(engine: Engine) -> list[dict[str, Any]]:
        topics = sorted(engine.topics.all().values(), key=lambda topic: topic.name)
        rows: list[dict[str, Any]] = [{"topic": topic.name, "partitions": topic.partitions} for topic in topics]
        if sizes:
            for row, topic in zip(rows, topics, strict=True):
                bounds = await bounds_of(engine, topic)
                nbytes = sum(bound.nbytes for bound in bounds)
                row["records"] = sum(bound.next - bound.log_start for bound in bounds)
                row["bytes"] = nbytes if output is Format.JSON else size(nbytes)
        return rows

    show(with_engine(settings_for(storage), work), output, nothing="no topics yet: redbroker topic create NAME")


@app.command()
def describe(name: Name, storage: StorageOption = None, output: FormatOption = Format.TEXT) -> None:
    """Show a topic's partitions, their leaders, offsets, bytes and memory in Redis, and the configs set on it."""

    async def work(engine: Engine) -> tuple[Topic, list[dict[str, Any]]]:
        topic = topic_named(engine, name)
        bounds = await bounds_of(engine, topic)
        memory = await engine.log.memory(topic)
        alive = bool(engine.workers.live())
        rows: list[dict[str, Any]] = [
            {
                "partition": partition,
                "leader": engine.workers.leader(topic.name, partition).node_id if alive else None,
                "epoch": bound.leader_epoch,
                "start": bound.log_start,
                "end": bound.next,
                "records": bound.next - bound.log_start,
                "bytes": bound.nbytes if output is Format.JSON else size(bound.nbytes),
                "memory": memory[partition] if output is Format.JSON else size(memory[partition]),
            }
            for partition, bound in enumerate(bounds)
        ]
        return topic, rows

    topic, rows = with_engine(settings_for(storage), work)
    if output is Format.JSON:
        print_json({"topic": topic.name, "id": str(topic.id), "configs": dict(topic.configs), "partitions": rows})
        return
    print(f"{topic.name}  id {topic.id}  {counted(topic.partitions, 'partition')}")
    for key, value in sorted(topic.configs.items()):
        print(f"  {key} = {value}")
    show(rows, output)


@app.command()
def delete(
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC")],
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Delete topics and every record in them."""

    async def look(engine: Engine) -> int:
        return sum([await _records(engine, topic_named(engine, name)) for name in topics])

    settings = settings_for(storage)
    records = with_engine(settings, look)
    sentence = f"delete {', '.join(topics)} with {counted(records, 'record')}"
    if not confirm(sentence, yes=yes, dry_run=dry_run):
        return

    async def work(engine: Engine) -> None:
        for name in topics:
            await engine.topics.delete(name)
            _told(output, f"deleted {name}", deleted=name)

    with_engine(settings, work)


@app.command("add-partitions")
def add_partitions(
    name: Name,
    to: Annotated[int, typer.Option("--to", min=1, help="How many there are afterwards.")],
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
    dry_run: DryRunOption = False,
) -> None:
    """Give a topic more partitions; keys may move to other partitions from then on."""

    async def work(engine: Engine) -> None:
        before = topic_named(engine, name).partitions
        topic = await engine.topics.grow(name, to, validate_only=dry_run)
        verb = "would grow" if dry_run else "grew"
        _told(output, f"{verb} {name} from {before} to {topic.partitions} partitions", topic=name, partitions=to)

    with_engine(settings_for(storage), work)


@app.command()
def config(
    name: Name,
    put: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE")] = [],  # noqa: B006  typer copies it
    unset: Annotated[list[str], typer.Option("--unset", metavar="NAME", help="Back to the default.")] = [],  # noqa: B006
    every: Annotated[bool, typer.Option("--all", "-a", help="Defaults too.")] = False,
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
    dry_run: DryRunOption = False,
) -> None:
    """Show a topic's configs, or change them with --set and --unset."""
    changes = pairs(put, "--set")
    settings = settings_for(storage)

    async def work(engine: Engine) -> Sequence[dict[str, Any]]:
        from redbroker.topic_config import ConfigSource, check_topic_config, describe_topic, static_configs

        topic = topic_named(engine, name)
        for each in unset:
            check_topic_config(each)
        if changes or unset:
            topic = await engine.topics.configure(name, changes, unset, validate_only=dry_run)
        described = describe_topic(topic.configs, engine.topics.broker_configs, static_configs(settings))
        return [
            {"config": each.name, "value": each.value, "source": each.source.name.lower().replace("_", " ")}
            for each in described
            if every or each.source != ConfigSource.DEFAULT
        ]

    rows = with_engine(settings, work)
    if dry_run and output is Format.TEXT:
        print("dry run: nothing was changed; it would be")
    show(rows, output, nothing=f"{name} has Kafka's defaults everywhere; --all shows them")


@app.command()
def trim(
    name: Name,
    before: Annotated[str, typer.Option("--before", metavar="OFFSET|@TIME|end", help="First offset that stays.")],
    partition: Annotated[list[int], typer.Option("--partition", "-p", help="Default: all.")] = [],  # noqa: B006
    storage: StorageOption = None,
    output: FormatOption = Format.TEXT,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Delete the records before an offset or a time."""
    from redbroker.cli.positions import Position, place

    position = Position.parse(before)
    if position.kind == "last":
        raise wrong("--before takes an offset, @TIME or end")
    settings = settings_for(storage)

    async def look(engine: Engine) -> tuple[dict[int, int], int]:
        topic = topic_named(engine, name)
        targets = await place(engine, topic, position, partition or range(topic.partitions))
        bounds = await bounds_of(engine, topic)
        lost = [min(target, bounds[index].next) - bounds[index].log_start for index, target in targets.items()]
        return targets, sum(max(0, count) for count in lost)

    targets, lost = with_engine(settings, look)
    if not confirm(f"delete {counted(lost, 'record')} of {name}", yes=yes, dry_run=dry_run):
        return

    async def work(engine: Engine) -> list[dict[str, Any]]:
        topic = topic_named(engine, name)
        starts = await engine.log.trim([(topic, index, target) for index, target in targets.items()])
        return [{"partition": index, "start": raised(start)} for index, start in zip(targets, starts, strict=True)]

    show(with_engine(settings, work), output)


async def bounds_of(engine: Engine, topic: Topic) -> list[Bounds]:
    """The bounds of every partition of a topic; the first error is raised."""
    return [raised(bound) for bound in await engine.log.bounds([(topic, index) for index in range(topic.partitions)])]


async def _records(engine: Engine, topic: Topic) -> int:
    return sum(bound.next - bound.log_start for bound in await bounds_of(engine, topic))
