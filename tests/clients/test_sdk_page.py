"""Every example of docs/sdk.md runs, one after the other as they stand there, on a real server."""

from __future__ import annotations

import ast
import inspect
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_on_a_page(name: str) -> None:
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 60
