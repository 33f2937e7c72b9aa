"""The script without async does what it says."""

from __future__ import annotations

from examples.sync_script import send_lines
from tests.support.servers import Server


def test_every_line_becomes_a_record(valkey: Server) -> None:
    assert send_lines(["a\n", "b\n", "c"], "lines", valkey.unix_url) == 3
    assert send_lines([], "lines", valkey.unix_url) == 3
