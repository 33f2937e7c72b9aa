"""What all commands share: exit codes, one sentence on failure, quick help."""

from __future__ import annotations

import sys

import pytest

from redbroker.cli import COMMANDS, application
from tests.support.command import command


def test_help_lists_every_command_with_a_sentence() -> None:
    told = command("--help")
    assert told.code == 0
    for name in COMMANDS:
        assert name in told.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    told = command(name, "--help")
    assert told.code == 0
    assert "--help" in told.out


def test_only_the_named_command_is_imported() -> None:
    for name in [name for name in sys.modules if name.startswith("redbroker.cli.")]:
        del sys.modules[name]
    application(["version"])
    assert "redbroker.cli.version" in sys.modules
    assert "redbroker.cli.bench" not in sys.modules


def test_a_wrong_setting_is_told_in_one_line_that_names_it() -> None:
    told = command("topic", "list", "--storage", "foo://x")
    assert told.code == 1
    assert told.err.count("\n") == 1
    assert "storage_url foo://x" in told.err


def test_storage_that_is_away_is_told_in_one_line() -> None:
    told = command("topic", "list", "--storage", "redis://127.0.0.1:1")
    assert (told.code, told.out) == (1, "")
    assert told.err.count("\n") == 1
    assert "storage_url" in told.err


def test_a_command_line_that_makes_no_sense_leaves_with_2() -> None:
    assert command("topic", "create").code == 2
    assert command("nonsense").code == 2
    told = command("produce", "orders", "--codec", "rar")
    assert told.code == 2
    assert "gzip" in told.err
