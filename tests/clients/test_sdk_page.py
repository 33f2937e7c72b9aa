"""Every example of docs/sdk.md runs, one after the other as they stand there, on a real server; and the README's."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sdk.md"
EXAMPLES = ["hello", "replay", "sync_script", "typed_service", "web_service", "worker_pool"]


async def test_the_examples_of_the_page_run(valkey: Server) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) >= 4
    names: dict[str, Any] = {"__name__": "sdk_page"}
    for number, block in enumerate(blocks, 1):
        source = block.replace("redis://localhost:6379", valkey.url)
        code = compile(source, f"{PAGE.name}, block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
        result = eval(code, names)
        if inspect.isawaitable(result):
            await result


async def test_the_service_of_the_readme_runs() -> None:
    [block] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec", dont_inherit=True), names)
    async with names["app"].test() as t:
        await t.send("orders", names["Order"](id=7, cents=500), key="ann")
        assert [json.loads(value) for value in await t.sent("invoices")] == [{"order": 7}]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_on_a_page(name: str) -> None:
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 60
