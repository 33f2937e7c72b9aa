"""Logs of a worker: the standard library's loggers, written by structlog to standard error, for people or as JSON.

structlog is imported at the first line that is logged: a start that has nothing to say does not pay for it.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redbroker.config import Settings

QUIET = ("asyncio", "redis", "uvicorn", "uvicorn.error", "uvicorn.access")
"""Libraries that only get to say what went wrong."""


class LateHandler(logging.Handler):
    """Writes to standard error; makes its formatter when it is first needed."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        if self.formatter is None:
            self.formatter = _formatter(self.form)
        return self.formatter.format(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def configure(settings: Settings) -> None:
    """Send all loggers through one handler, at the level and in the form of the settings."""
    root = logging.getLogger()
    root.handlers[:] = [LateHandler(settings.log_format)]
    root.setLevel(settings.log_level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _formatter(form: str) -> logging.Formatter:
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=form == "json"),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
