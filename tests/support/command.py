"""Running `redbroker` commands inside the test's process: quick, and with everything they print in hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any, NamedTuple

import orjson

from redbroker.cli import main


class Told(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, read as one JSON value."""
        return orjson.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class _Stream(io.TextIOWrapper):
    """A text stream over memory that has a `buffer` to write bytes to, as the real one has."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


def command(*words: str) -> Told:
    """Run one command line to its end; a defect raises here."""
    out, err, code = _Stream(), _Stream(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
    return Told(code, out.text(), err.text())
