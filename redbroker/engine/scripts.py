"""Lua operations: one file in lua/ is one atomic operation, called by its content hash.

The header comment of a file is its contract and the only place where the order of keys and arguments stands:

    -- KEYS   log state
    -- ARGV   topic_id count:int batch
    -- GIVES  base_offset
    -- FAILS  UNKNOWN_TOPIC_ID
    -- USES   refuse

The loader turns it into Lua locals, so the body speaks names. A script checks everything, then writes; it refuses
with Kafka's own error names (`refuse('UNKNOWN_TOPIC_ID')`). Calling by content hash lets old and new workers run
side by side in a rolling deploy; scripts are not replicated, so the caller falls back from EVALSHA to EVAL.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HEADER = re.compile(r"^-- (KEYS|ARGV|GIVES|FAILS|USES) +(.*)$", re.M)
LUA = Path(__file__).with_name("lua")


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua operation: its contract, its source and the hash Redis knows it by."""

    name: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    fails: frozenset[str]
    source: bytes
    sha: bytes


@cache
def script(name: str) -> Script:
    """The operation in `lua/<name>.lua`."""
    text = (LUA / f"{name}.lua").read_text()
    head: dict[str, list[str]] = {}
    for word, rest in HEADER.findall(text):
        head.setdefault(word, []).extend(rest.split())
    typed = [argument.partition(":")[::2] for argument in head.get("ARGV", [])]
    lines = [(LUA / "lib" / f"{lib}.lua").read_text() for lib in head.get("USES", [])]
    lines += [f"local {key} = KEYS[{i}]" for i, key in enumerate(head.get("KEYS", []), 1)]
    lines += [
        f"local {name} = tonumber(ARGV[{i}])" if kind == "int" else f"local {name} = ARGV[{i}]"
        for i, (name, kind) in enumerate(typed, 1)
    ]
    source = "\n".join([*lines, text]).encode()
    return Script(
        name,
        tuple(head.get("KEYS", ())),
        tuple(argument for argument, _ in typed),
        frozenset(head.get("FAILS", ())),
        source,
        hashlib.sha1(source).hexdigest().encode(),
    )


def all_scripts() -> list[Script]:
    """Every operation, for loading them ahead of their first use."""
    return [script(path.stem) for path in sorted(LUA.glob("*.lua"))]
