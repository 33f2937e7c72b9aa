"""What the commands share: their common options, opening the engine, and running until done.

Importing this module stays cheap (no engine, no rich): it is on the way of every start.
"""

from __future__ import annotations

import asyncio
import enum
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine import Engine
    from redbroker.engine.topics import Topic

T = TypeVar("T")


class Misuse(Exception):
    """A command line that makes no sense, in one sentence: the command leaves with code 2."""


class Format(enum.StrEnum):
    """How a command prints: for people, or one JSON value for scripts."""

    TEXT = "text"
    JSON = "json"


StorageOption = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="Where the log lives; default: REDBROKER_STORAGE_URL, or embedded:."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for scripts.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def settings_for(storage: str | None, **given: Any) -> Settings:
    """The settings of this run: flags over environment over file; `SettingsError` names a wrong one."""
    from redbroker.config import Settings

    return Settings.load(storage_url=storage, **given)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine on uvloop where it is available, else on asyncio's own loop."""
    try:
        return _run(work)
    finally:
        work.close()  # Ctrl-C may come before it was begun


def _run(work: Awaitable[T]) -> T:

    async def whole() -> T:
        return await work

    gc.freeze()  # what was imported stays: the collector need never look at it
    gc.enable()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(whole())
    return uvloop.run(whole())


def with_engine(settings: Settings, work: Callable[[Engine], Awaitable[T]]) -> T:
    """Open the engine, do the work on it, close it again."""

    async def whole() -> T:
        from redbroker.engine import Engine

        async with Engine.open(settings) as engine:
            return await work(engine)

    return run(whole())


def storage_name(settings: Settings) -> str:
    """The storage as it may be shown: without its password; an embedded one with its folder."""
    from redbroker.engine.embedded import SCHEME, embedded_directory
    from redbroker.engine.target import redacted

    url = settings.storage_url
    return f"{SCHEME}{embedded_directory(url)}" if url.startswith(SCHEME) else redacted(url)


def topic_named(engine: Engine, name: str) -> Topic:
    """The topic, or UNKNOWN_TOPIC_OR_PARTITION with the names that are close to it."""
    import difflib

    from redbroker.errors import ErrorCode, KafkaError

    topic: Topic | None = engine.topics.get(name)
    if topic is None:
        close = difflib.get_close_matches(name, list(engine.topics.all()), n=1)
        meant = f"; did you mean {close[0]}?" if close else "; `redbroker topic list` shows those there are."
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {name}{meant}")
    return topic


def raised(value: T | Exception) -> T:
    """The value, or its error raised: for answers that carry errors as values."""
    if isinstance(value, Exception):
        raise value
    return value


def counted(count: int, noun: str) -> str:
    """`1 record`, `2,000 records`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def pairs(words: list[str], flag: str) -> dict[str, str]:
    """`["a=1", "b=2"]` as a mapping; anything without `=` is refused in the name of its flag."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise wrong(f"{flag} takes NAME=VALUE, not {word!r}")
        found[name] = value
    return found


def wrong(sentence: str) -> Misuse:
    """What to raise when the command line, or the input it names, makes no sense."""
    return Misuse(sentence)


def confirm(sentence: str, *, yes: bool, dry_run: bool) -> bool:
    """Whether to go on with something that loses data: `--dry-run` never, `--yes` always, else the person is asked."""
    import sys

    if dry_run:
        print(f"dry run: {sentence}")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise wrong(f"{sentence}: not done without --yes, since nobody can be asked here")
    return typer.confirm(f"{sentence}. Go on?", default=False)
