"""Logs for people and for machines."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from redbroker.cli.logs import configure
from redbroker.config import Settings


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure(Settings.load(**settings))
    logging.getLogger("redbroker.test").warning("%d clients left", 3)
    logging.getLogger("redbroker.test").info("hello")
    logging.getLogger("uvicorn").info("chatter")
    return stream.getvalue()


def test_json_logs_are_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = map(orjson.loads, logged(monkeypatch, log_format="json").splitlines())
    assert (first["event"], first["level"], first["logger"]) == ("3 clients left", "warning", "redbroker.test")
    assert second["event"] == "hello"


def test_console_logs_are_lines_without_colours_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = logged(monkeypatch, log_level="warning")
    assert "3 clients left" in text
    assert "hello" not in text
    assert "\x1b" not in text
