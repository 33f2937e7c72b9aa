"""`redbroker version`."""

from __future__ import annotations

from importlib.metadata import version

from tests.support.command import command


def test_the_version_is_the_packages() -> None:
    assert command("version", "--format", "json").json["redbroker"] == version("redbroker")
    assert command("version").out.startswith(f"redbroker {version('redbroker')} ")
