"""Print the table of all Kafka APIs: `python -m redbroker.broker.api > docs/protocol.md`."""

from __future__ import annotations

from redbroker.broker.api import Api, load

HEAD = """\
# Kafka APIs

Generated from the registry by `python -m redbroker.broker.api`; do not edit. Versions are the request bodies served;
"advertised" is told where ApiVersions lists a range that begins lower, because clients read it as a feature test.

| key | API | versions | advertised | what it does |
|---|---|---|---|---|
"""


def table() -> str:
    """The text of docs/protocol.md."""
    return HEAD + "".join(row(api) for _, api in sorted(load().items()))


def row(api: Api) -> str:
    """One API's line; the first line of its module's docstring, less its own name, says what it does."""
    doc = api.doc.removeprefix(f"{api.name}:").strip()
    versions = written((api.low, api.high))
    advertised = written(api.advertised)
    return f"| {api.key} | {api.name} | {versions} | {'' if advertised == versions else advertised} | {doc} |\n"


def written(span: tuple[int, int]) -> str:
    """`0-4`, or `3` for a single version."""
    low, high = span
    return str(low) if low == high else f"{low}-{high}"


if __name__ == "__main__":
    print(table(), end="")
