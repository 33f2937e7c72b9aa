"""Writes the generated parts of docs/ from the code: `make docs`. tests/test_house.py fails when one is out of date."""

from __future__ import annotations

from pathlib import Path

from redbroker.broker.api.__main__ import table
from redbroker.config import ENV_PREFIX, Settings

DOCS = Path(__file__).parent


def settings_page() -> str:
    """docs/settings.md: every setting with its environment variable, default and sentence."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        sentence = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | `{ENV_PREFIX}{name.upper()}` | {default} | {sentence} |")
    return "\n".join(
        [
            "# Settings",
            "",
            "Made from `redbroker/config.py` by `make docs`. A setting is given as an environment variable, or as a",
            f"line `name = value` in the TOML file that `{ENV_PREFIX}CONFIG` names; the commands have flags for the",
            "common ones. Flags win over the environment, the environment over the file.",
            "",
            "| setting | environment | default | |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


PAGES = {"settings.md": settings_page, "protocol.md": table}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
