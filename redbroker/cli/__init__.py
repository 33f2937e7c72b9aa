"""The `redbroker` command: one module per command group, imported only when it is named.

    dev worker                      run
    topic produce consume group     use
    doctor bench version            look

What every command shares: `--storage` (a `redbroker dev` that runs is joined, not disturbed), `--format text|json`,
one clear sentence and a non-zero exit code on failure, and `--dry-run` beside `--yes` where something is lost.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

COMMANDS = ("dev", "worker", "topic", "produce", "consume", "group", "doctor", "bench", "version")


def application(words: list[str]) -> typer.Typer:
    """The typer application for this command line: only the named module is imported, for the sake of a quick start."""
    app = typer.Typer(
        name="redbroker",
        help="Kafka's model and wire protocol on the Redis you already run.",
        no_args_is_help=True,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    named = words[:1] if words and words[0] in COMMANDS else COMMANDS
    for name in named:
        module = import_module(f"redbroker.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def _root(version: Annotated[bool, typer.Option("--version", help="Show the versions and leave.")] = False) -> None:
    """Gives typer a root beside the one command that was imported."""
    if version:
        from redbroker.cli.version import command

        command()
        raise typer.Exit


def main(words: list[str] | None = None) -> NoReturn:
    """Run one command line and leave with its exit code: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    given = sys.argv[1:] if words is None else words
    gc.disable()  # importing makes no garbage, but much to look through; `shared.run` switches it on again
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `redbroker.__main__` took it away for the imports
        application(given)(given, prog_name="redbroker", standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `redbroker consume … | head`: the reader has enough. Nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as failure:
        sys.exit(_explained(failure))
    sys.exit(0)


def _explained(failure: Exception) -> int:
    """Tell an expected failure in one sentence; anything else is a defect and is raised with its traceback."""
    from redbroker.cli.shared import Misuse
    from redbroker.config import SettingsError
    from redbroker.errors import KafkaError

    reason: Exception = failure
    while isinstance(reason, ExceptionGroup) and len(reason.exceptions) == 1:
        reason = reason.exceptions[0]
    if not isinstance(reason, Misuse | KafkaError | SettingsError | OSError):
        raise failure
    print(f"redbroker: {reason}", file=sys.stderr)
    return 2 if isinstance(reason, Misuse) else 1
