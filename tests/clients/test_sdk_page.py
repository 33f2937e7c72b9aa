"""Every example of docs/sdk.md runs, one after the other as they stand there, on a real server; so do the README's, and
those of the SDK's classes, which show everything that each can do."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import redbroker
from redbroker.client.app import TypedTopic
from redbroker.client.testing import AppTest
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sdk.md"
EXAMPLES = ["hello", "replay", "sync_script", "typed_service", "web_service", "worker_pool"]


async def run(source: str, place: str, names: dict[str, Any]) -> None:
    """A block of code that may await, as in a REPL."""
    code = compile(source, place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result


async def test_the_examples_of_the_page_run(valkey: Server) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) >= 4
    names: dict[str, Any] = {"__name__": "sdk_page"}
    for number, block in enumerate(blocks, 1):
        source = block.replace("redis://localhost:6379", valkey.url)
        await run(source, f"{PAGE.name}, block {number}", names)


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


@pytest.mark.parametrize(
    "shown",
    [redbroker.Consumer, redbroker.Admin, redbroker.RedBroker, TypedTopic, AppTest],
    ids=lambda kind: kind.__name__,
)
async def test_a_class_shows_all_it_can_do_and_the_example_runs(valkey: Server, shown: type) -> None:
    names: dict[str, Any] = {name: getattr(redbroker, name) for name in redbroker.HOMES}
    names |= {"CollectorRegistry": CollectorRegistry, "__name__": "docstring"}
    example = "\n".join(re.findall(r"^ {4}(.*)$|^$", inspect.getdoc(shown) or "", re.M))
    methods = [name for name, made in vars(shown).items() if inspect.isfunction(made) and not name.startswith("_")]
    left_out = {"add"} if shown is redbroker.RedBroker else set()  # `topic.subscribe` calls it
    assert not [name for name in methods if f"{name}(" not in example and name not in left_out | {"run", "close"}]
    async with redbroker.Producer(valkey.url, num_partitions=2) as producer:
        await producer.send("orders", b'{"id": 7}', partition=0)
    await run(example.replace("redis://localhost:6379", valkey.url), f"{shown.__name__}'s docstring", names)
