"""Kafka messages as text tables: one line a field, read into `Struct` and `Field`, one dataclass a struct.

    name               type     versions  options
    ------------------------------------------------
    timeout_ms         i32
    topics             []                              -- an array of structs: its fields are indented
        name           str      0-12
        topic_id       uuid     13+
        rack           str      4+        ?4+ =null
        cursor         {}       15+       ?15+ #1      -- one struct

* Types: bool i8 i16 i32 i64 u16 u32 f64 uuid str bytes records, `[]type`, and `[]` or `{}` with a block.
* Versions: where the field exists. `0+` unless told; `4+`, `0-12`, `7`.
* `?2+`: may be null in these versions (`records` always may).
* `#1`: a tagged field in flexible versions, an ordinary one before.
* `=x`: the default: a number, a word, `true`, `false`, `null`. Else zero, empty, or a struct of defaults.
* `--` opens a comment.

The names, types and versions come from apache/kafka's message definitions, in snake_case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, make_dataclass
from typing import Any
from uuid import UUID

from redbroker.wire.primitives import NULL_UUID

FIXED = {"bool": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u16": "H", "u32": "I", "f64": "d"}
"""Fixed-width types and their letters in `struct`."""
SIZED = ("str", "bytes", "records")
"""Types that carry their length in front."""
EMPTY: dict[str, Any] = {"bool": False, "f64": 0.0, "str": "", "bytes": b"", "records": None, "uuid": NULL_UUID}


@dataclass(frozen=True, slots=True)
class Versions:
    """An inclusive range of message versions: `version in versions`."""

    low: int = 0
    high: int = 1 << 15

    @classmethod
    def of(cls, text: str) -> Versions:
        """Reads `4+`, `0-12` or `7`."""
        low, dash, high = text.removesuffix("+").partition("-")
        if text.endswith("+"):
            return cls(int(low))
        return cls(int(low), int(high if dash else low))

    def __contains__(self, version: int) -> bool:
        return self.low <= version <= self.high


@dataclass(slots=True)
class Struct:
    """A message or a struct inside one; `cls` is its dataclass, made with slots and a default for every field."""

    name: str
    fields: list[Field] = field(default_factory=list)
    cls: type[Any] = object
    codecs: dict[Any, Any] = field(default_factory=dict, repr=False)

    def struct(self, path: str) -> type[Any]:
        """The dataclass of a nested struct: `response.struct("topics.partitions")`; KeyError when there is none."""
        here = self
        for name in path.split("."):
            inner = next((f.struct for f in here.fields if f.name == name), None)
            if inner is None:
                raise KeyError(f"{here.name} has no struct {name!r}")
            here = inner
        return here.cls

    def plain(self, version: int, flexible: bool) -> list[Field]:
        """The fields written in order at this version."""
        return [f for f in self.fields if version in f.versions and not (flexible and f.tag is not None)]

    def tagged(self, version: int, flexible: bool) -> list[Field]:
        """The fields written in the tagged section at this version, by rising tag."""
        live = [f for f in self.fields if version in f.versions and flexible and f.tag is not None]
        return sorted(live, key=lambda f: f.tag or 0)

    def nbytes_min(self, version: int, flexible: bool) -> int:
        """The fewest bytes one of these takes: bounds how many an array can truly hold."""
        return flexible + sum(f.nbytes_min(version, flexible) for f in self.plain(version, flexible))


@dataclass(slots=True)
class Field:
    """One line of a table."""

    name: str
    type: str
    versions: Versions = Versions()
    tag: int | None = None
    nulls: Versions | None = None
    default: Any = None
    struct: Struct | None = None

    @property
    def array(self) -> bool:
        return self.type.startswith("[]")

    @property
    def item(self) -> Field:
        """What an array holds, as a field of its own."""
        kind = self.type[2:] or "{}"
        return Field(self.name, kind, default=EMPTY.get(kind, 0), struct=self.struct)

    def nullable(self, version: int) -> bool:
        return self.type == "records" or (self.nulls is not None and version in self.nulls)

    def nbytes_min(self, version: int, flexible: bool) -> int:
        """The fewest bytes a value takes at this version."""
        if self.type in FIXED:
            return {"?": 1, "b": 1, "h": 2, "i": 4, "q": 8, "H": 2, "I": 4, "d": 8}[FIXED[self.type]]
        if self.type == "uuid":
            return 16
        if self.struct is not None and not self.array:
            return 1 if self.nullable(version) else self.struct.nbytes_min(version, flexible)
        if flexible:
            return 1
        return 2 if self.type == "str" else 4


def parse(text: str, name: str) -> Struct:
    """The root struct of a table; ValueError with the offending line when the table is wrong."""
    root = Struct(name)
    open_blocks = [(-1, root)]
    for depth, words in _lines(text):
        while open_blocks[-1][0] >= depth:
            open_blocks.pop()
        parent = open_blocks[-1][1]
        try:
            line = _field(words, parent.name)
        except (ValueError, LookupError) as error:
            raise ValueError(f"{name}: cannot read {' '.join(words)!r}: {error}") from error
        if any(f.name == line.name for f in parent.fields):
            raise ValueError(f"{name}: {line.name!r} appears twice in {parent.name}")
        parent.fields.append(line)
        if line.struct is not None:
            open_blocks.append((depth, line.struct))
    _build_classes(root)
    return root


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """(indentation, words) of every line that says something."""
    for line in text.splitlines():
        words = line.split("--")[0].split()
        if words:
            yield len(line) - len(line.lstrip()), words


def _field(words: list[str], parent: str) -> Field:
    result = Field(words[0], words[1])
    kind = result.type.removeprefix("[]")
    if result.type in ("[]", "{}"):
        result.struct = Struct(f"{parent}_{result.name}")
    elif kind not in FIXED and kind not in SIZED and kind != "uuid":
        raise ValueError(f"unknown type {kind!r}")
    default = None
    for word in words[2:]:
        if word[0] == "#":
            result.tag = int(word[1:])
        elif word[0] == "?":
            result.nulls = Versions.of(word[1:])
        elif word[0] == "=":
            default = word[1:]
        else:
            result.versions = Versions.of(word)
    result.default = _default(result, default)
    return result


def _default(line: Field, text: str | None) -> Any:
    if text == "null":
        return NULL_UUID if line.type == "uuid" else None
    if text is None:
        return [] if line.array else EMPTY.get(line.type, None if line.struct else 0)
    if line.type == "bool":
        return {"true": True, "false": False}[text]
    if line.type == "f64":
        return float(text)
    if line.type == "uuid":
        return UUID(text)
    if line.type in FIXED:
        return int(text, 0)
    if line.type == "str":
        return text
    raise ValueError(f"a {line.type} takes no default but null")


def starts_as_struct(line: Field) -> bool:
    """True for a single struct that is present by default."""
    return line.type == "{}" and line.nulls is None


def maker(line: Field) -> Callable[[], Any] | None:
    """What makes the default where every new object needs one of its own: a list or a struct; else None."""
    if starts_as_struct(line) and line.struct is not None:
        return line.struct.cls
    return list if line.default == [] else None


def _build_classes(struct: Struct) -> None:
    """Makes the dataclasses, innermost first. They compare by value, and hold their fields in the table's order."""
    members: list[tuple[str, Any, Any]] = []
    for line in struct.fields:
        if line.struct is not None:
            _build_classes(line.struct)
        make = maker(line)
        members.append((line.name, Any, field(default=line.default) if make is None else field(default_factory=make)))
    struct.cls = make_dataclass(struct.name, members, slots=True)
