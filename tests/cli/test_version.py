"""`redbroker version`."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from redbroker.wire import record_set
from tests.support.command import command


def test_the_version_is_the_packages() -> None:
    assert command("version", "--format", "json").json["redbroker"] == version("redbroker")
    assert command("version").out.startswith(f"redbroker {version('redbroker')} ")


@pytest.mark.parametrize(
    ("decoder", "short", "told"),
    [
        (None, "plain", "The SDK decodes records in plain Python; to have that compiled, install again where "),
        (record_set, "compiled", "The SDK decodes records by its compiled decoder."),
    ],
)
def test_it_tells_how_records_are_decoded(
    decoder: object, short: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_set, "compiled", decoder)
    assert command("version", "--format", "json").json["decoder"] == short
    assert told in command("version").out
