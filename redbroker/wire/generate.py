"""Writes the Python source of an encoder or decoder for one message at one version.

The source is what a patient person would write by hand for that version: neighbouring fixed-width fields
become one `struct` call, short varints are read in line, and no version or type is looked at while it runs.

Rules of the generated decoders:
* `pos <= end` holds after every step; `end` is the length of the buffer. Slices would silently come out short,
  so each is preceded by a comparison with `end`; indexing and `unpack_from` raise by themselves, and one `except`
  around the whole body turns that into `MalformedMessage`.
* An array is refused before it is built when its smallest elements could not fit into the bytes left, and a message
  when its arrays hold more than `ITEMS_MAX` items in all: decoded, an item costs fifty times its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from redbroker.wire import primitives
from redbroker.wire.tables import FIXED, SIZED, Field, Struct, maker, starts_as_struct

I16, I32 = struct.Struct(">h"), struct.Struct(">i")
ITEMS_MAX = 200_000
"""Structs and strings in all arrays of one message; a Fetch of a whole large cluster has a quarter of it."""


class Source:
    """Lines of Python, and the names they may use."""

    def __init__(self, version: int, flexible: bool) -> None:
        self.version, self.flexible = version, flexible
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self.count = 0

    def put(self, depth: int, *lines: str) -> None:
        self.lines.extend("    " * depth + line for line in lines)

    def fresh(self, stem: str) -> str:
        """A name not used before."""
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, value: Any) -> str:
        """An expression for a value: a name bound to it, or the literal itself."""
        if value is None or type(value) in (bool, int, str, bytes):
            return repr(value)
        name = self.fresh("K")
        self.names[name] = value
        return name

    def build(self, title: str) -> Any:
        """Compiles the lines, and returns their function `run`."""
        exec(compile("\n".join(self.lines), f"<{title}>", "exec"), self.names)
        return self.names["run"]


def runs(fields: list[Field]) -> Iterator[list[Field]]:
    """Neighbouring fixed-width fields together, all others alone."""
    for fixed, group in groupby(fields, key=lambda f: f.type in FIXED):
        if fixed:
            yield list(group)
        else:
            yield from ([f] for f in group)


def packer_of(fields: list[Field]) -> struct.Struct:
    return struct.Struct(">" + "".join(FIXED[f.type] for f in fields))


class Decoder(Source):
    """Source of `run(buf, pos) -> (obj, pos)`."""

    def write(self, root: Struct) -> None:
        self.names |= {
            "uvarint": primitives.read_uvarint, "skip_tags": primitives.skip_tags, "refuse": primitives.refuse,
            "to_uuid": primitives.to_uuid, "Malformed": primitives.MalformedMessage,
            "broken": (struct.error, IndexError, UnicodeDecodeError),
            "i16": I16.unpack_from, "i32": I32.unpack_from,
        }  # fmt: skip
        self.put(0, "def run(buf, pos=0):")
        self.put(1, "end = len(buf)", f"room = {ITEMS_MAX}")
        head = len(self.lines)
        self.put(1, "try:")
        self.struct(2, root, "result")
        if any("view[" in line for line in self.lines):
            self.lines.insert(head, "    view = memoryview(buf)")
        self.put(2, "return result, pos")
        self.put(1, "except broken as error:")
        self.put(2, f"raise Malformed(f'{root.name} v{self.version}: {{error}}') from error")

    def struct(self, depth: int, shape: Struct, out: str) -> None:
        """Reads a struct into the variable `out`."""
        variables: dict[str, str] = {}
        for run in runs(shape.plain(self.version, self.flexible)):
            names = [variables.setdefault(f.name, self.fresh(f.name)) for f in run]
            if run[0].type in FIXED:
                packer = packer_of(run)
                self.put(depth, f"{', '.join(names)}, = {self.constant(packer.unpack_from)}(buf, pos)")
                self.put(depth, f"pos += {packer.size}")
            else:
                self.value(depth, run[0], names[0])
        if self.flexible:
            self.tags(depth, shape.tagged(self.version, self.flexible), variables)
        arguments = ", ".join(variables.get(f.name) or self.default(f) for f in shape.fields)
        self.put(depth, f"{out} = {self.constant(shape.cls)}({arguments})")

    def default(self, line: Field) -> str:
        make = maker(line)
        if make is None:
            return self.constant(line.default)
        return "[]" if make is list else self.constant(make) + "()"

    def tags(self, depth: int, fields: list[Field], variables: dict[str, str]) -> None:
        """Reads the tagged section: known fields by their tags, the rest skipped by their sizes."""
        for f in fields:
            variables[f.name] = self.fresh(f.name)
            self.put(depth, f"{variables[f.name]} = {self.default(f)}")
        self.put(depth, "if buf[pos] == 0: pos += 1")
        if not fields:
            self.put(depth, "else: pos = skip_tags(buf, pos)")
            return
        tag, stop = self.fresh("tag"), self.fresh("stop")
        self.put(depth, "else:")
        self.put(depth + 1, "count, pos = uvarint(buf, pos)", "for _ in range(count):")
        self.put(depth + 2, f"{tag}, pos = uvarint(buf, pos)", f"{stop}, pos = uvarint(buf, pos)", f"{stop} += pos")
        self.put(depth + 2, f"if {stop} > end: refuse('a tagged field reaches past the end')")
        for word, f in zip(["if"] + ["elif"] * len(fields), fields, strict=False):
            self.put(depth + 2, f"{word} {tag} == {f.tag}:")
            self.value(depth + 3, f, variables[f.name])
        self.put(depth + 2, f"else: pos = {stop}")
        self.put(depth + 2, f"if pos != {stop}: refuse('a tagged field has not the size it states')")

    def value(self, depth: int, line: Field, out: str) -> None:
        """Reads one value of any type into the variable `out`."""
        if line.type in FIXED:
            packer = packer_of([line])
            self.put(depth, f"{out}, = {self.constant(packer.unpack_from)}(buf, pos)", f"pos += {packer.size}")
        elif line.type == "uuid":
            self.put(depth, "if pos + 16 > end: refuse('a uuid reaches past the end')")
            self.put(depth, f"{out} = to_uuid(bytes(buf[pos:pos + 16]))", "pos += 16")
        elif line.struct is not None and not line.array:
            self.one_struct(depth, line, line.struct, out)
        else:
            size = self.fresh("size")
            self.size(depth, line, size, out)
            self.put(depth, "else:")
            if line.type in SIZED:
                self.sized(depth + 1, line, size, out)
            else:
                self.array(depth + 1, line, size, out)

    def size(self, depth: int, line: Field, size: str, out: str) -> None:
        """Reads a length or count into `size`, and opens the `if` for null; the caller writes the `else`."""
        if self.flexible:
            self.put(depth, f"{size} = buf[pos]", "pos += 1")
            self.put(depth, f"if {size} > 127: {size}, pos = uvarint(buf, pos - 1)")
            self.put(depth, f"{size} -= 1")
        else:
            read, width = ("i16", 2) if line.type == "str" else ("i32", 4)
            self.put(depth, f"{size}, = {read}(buf, pos)", f"pos += {width}")
        self.put(depth, f"if {size} < 0:")
        if self.nullable(line):
            if not self.flexible:
                self.put(depth + 1, f"if {size} != -1: refuse('{line.name} has a negative length')")
            self.put(depth + 1, f"{out} = None")
        else:
            self.put(depth + 1, f"refuse('{line.name} must not be null')")

    def nullable(self, line: Field) -> bool:
        return line.nullable(self.version)

    def sized(self, depth: int, line: Field, size: str, out: str) -> None:
        self.put(depth, f"{size} += pos")
        self.put(depth, f"if {size} > end: refuse('{line.name} reaches past the end')")
        read = f"str(buf[pos:{size}], 'utf-8')" if line.type == "str" else f"view[pos:{size}]"
        self.put(depth, f"{out} = {read}", f"pos = {size}")

    def array(self, depth: int, line: Field, count: str, out: str) -> None:
        item = line.item
        nbytes_min = max(1, item.nbytes_min(self.version, self.flexible))
        self.put(depth, f"if {count} * {nbytes_min} > end - pos: refuse('{line.name} has more items than bytes')")
        if item.type in FIXED:
            packer, stop = packer_of([item]), self.fresh("stop")
            self.put(depth, f"{stop} = pos + {count} * {packer.size}")
            self.put(depth, f"{out} = [x for x, in {self.constant(packer.iter_unpack)}(buf[pos:{stop}])]")
            self.put(depth, f"pos = {stop}")
            return
        self.put(depth, f"room -= {count}", f"if room < 0: refuse('more than {ITEMS_MAX} items')")
        element = self.fresh(line.name)
        self.put(depth, f"{out} = []", f"for _ in range({count}):")
        self.value(depth + 1, item, element)
        self.put(depth + 1, f"{out}.append({element})")

    def one_struct(self, depth: int, line: Field, shape: Struct, out: str) -> None:
        """A single struct; a nullable one opens with a byte: -1 null, 1 present (KIP-893)."""
        if self.nullable(line):
            self.put(depth, "pos += 1", f"if buf[pos - 1] == 255: {out} = None")
            self.put(depth, f"elif buf[pos - 1] != 1: refuse('{line.name} is neither present nor null')", "else:")
            depth += 1
        self.struct(depth, shape, out)


class Encoder(Source):
    """Source of `run(obj, write)`: hands the message to `write` piece by piece."""

    def write(self, root: Struct) -> None:
        self.names |= {
            "uvarint": primitives.to_uvarint, "short": primitives.SHORT_UVARINTS, "pack": struct.pack,
            "i16": I16.pack, "i32": I32.pack,
        }  # fmt: skip
        self.put(0, "def run(obj, write):")
        self.struct(1, root, "obj", "write")
        self.put(1, "return")

    def struct(self, depth: int, shape: Struct, src: str, write: str) -> None:
        for run in runs(shape.plain(self.version, self.flexible)):
            if run[0].type in FIXED:
                values = ", ".join(f"{src}.{f.name}" for f in run)
                self.put(depth, f"{write}({self.constant(packer_of(run).pack)}({values}))")
            else:
                self.value(depth, run[0], f"{src}.{run[0].name}", write)
        if self.flexible:
            self.tags(depth, shape.tagged(self.version, self.flexible), src, write)

    def tags(self, depth: int, fields: list[Field], src: str, write: str) -> None:
        """Writes the tagged section. Defaults are left out: librdkafka before 2.2 misreads them."""
        if not fields:
            self.put(depth, f"{write}(b'\\0')")
            return
        bag = self.fresh("bag")
        self.put(depth, f"{bag} = []")
        for f in fields:
            value, parts = self.fresh(f.name), self.fresh("parts")
            self.put(depth, f"{value} = {src}.{f.name}", f"if {self.differs(f, value)}:")
            self.put(depth + 1, f"{parts} = []")
            self.value(depth + 1, f, value, f"{parts}.append")
            self.put(depth + 1, f"{parts} = b''.join({parts})")
            head = self.constant(primitives.to_uvarint(f.tag or 0))
            self.put(depth + 1, f"{bag}.append({head} + uvarint(len({parts})) + {parts})")
        self.put(depth, f"if {bag}: {write}(uvarint(len({bag})) + b''.join({bag}))")
        self.put(depth, f"else: {write}(b'\\0')")

    def differs(self, line: Field, src: str) -> str:
        """An expression: true when the value is not the default of its field, as far as this version can tell."""
        if line.array or line.type in ("bytes", "records"):
            if line.default is None:
                return f"{src} is not None"
            return f"({src} is None or len({src}))" if line.nullable(self.version) else f"len({src})"
        if line.struct is None:
            return f"{src} != {self.constant(line.default)}"
        if not starts_as_struct(line):
            return f"{src} is not None"
        inner = line.struct
        live = inner.plain(self.version, self.flexible) + inner.tagged(self.version, self.flexible)
        return "(" + " or ".join(self.differs(f, f"{src}.{f.name}") for f in live) + ")" if live else "False"

    def value(self, depth: int, line: Field, src: str, write: str) -> None:
        """Writes one value of any type; `src` is an expression without side effects."""
        if line.type in FIXED:
            self.put(depth, f"{write}({self.constant(packer_of([line]).pack)}({src}))")
            return
        if line.type == "uuid":
            self.put(depth, f"{write}({src}.bytes)")
            return
        value = self.fresh(line.name)
        self.put(depth, f"{value} = {src}")
        if line.nullable(self.version):
            self.put(depth, f"if {value} is None: {write}({self.null(line)!r})", "else:")
            depth += 1
        if line.array:
            self.array(depth, line, value, write)
        elif line.type == "str":
            self.put(depth, f"{value} = {value}.encode()")
            self.put(depth, f"{write}({self.size(line, f'len({value})')} + {value})")
        elif line.type == "bytes":
            self.put(depth, f"{write}({self.size(line, f'len({value})')})", f"{write}({value})")
        elif line.type == "records":
            self.records(depth, line, value, write)
        elif line.struct is not None:
            if line.nullable(self.version):
                self.put(depth, f"{write}(b'\\1')")
            self.struct(depth, line.struct, value, write)

    def null(self, line: Field) -> bytes:
        if line.type == "{}":
            return b"\xff"
        if self.flexible:
            return b"\0"
        return b"\xff\xff" if line.type == "str" else b"\xff\xff\xff\xff"

    def size(self, line: Field, length: str) -> str:
        """An expression for the bytes in front of a string, a byte field or an array of `length`."""
        if self.flexible:
            return f"(short[{length} + 1] if {length} < 1023 else uvarint({length} + 1))"
        return f"i16({length})" if line.type == "str" else f"i32({length})"

    def records(self, depth: int, line: Field, value: str, write: str) -> None:
        """Record sets come whole or in segments; segments are passed on as they are, never joined."""
        segment, nbytes = self.fresh("segment"), self.fresh("nbytes")
        self.put(depth, f"if isinstance({value}, (list, tuple)):")
        self.put(depth + 1, f"{nbytes} = sum(map(len, {value}))", f"{write}({self.size(line, nbytes)})")
        self.put(depth + 1, f"for {segment} in {value}: {write}({segment})")
        self.put(depth, "else:")
        self.put(depth + 1, f"{write}({self.size(line, f'len({value})')})", f"{write}({value})")

    def array(self, depth: int, line: Field, value: str, write: str) -> None:
        item, element = line.item, self.fresh(line.name)
        self.put(depth, f"{write}({self.size(line, f'len({value})')})")
        if item.type in FIXED:
            self.put(depth, f"{write}(pack(f'>{{len({value})}}{FIXED[item.type]}', *{value}))")
            return
        self.put(depth, f"for {element} in {value}:")
        if item.struct is not None:
            self.struct(depth + 1, item.struct, element, write)
            self.put(depth + 1, "pass")  # a struct without fields at this version writes nothing
        else:
            self.value(depth + 1, item, element, write)
