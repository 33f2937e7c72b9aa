"""A client's settings: both spellings, and one sentence for a wrong one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import Field

from redbroker.client.config import ClientConfig, configure
from redbroker.config import SettingsError


class GadgetConfig(ClientConfig):
    """A client of this test."""

    linger_ms: float = Field(5, ge=0)


def refusal(mapping: dict[str, Any] | None = None, **keywords: Any) -> str:
    """The sentence on wrong settings."""
    with pytest.raises(SettingsError) as refused:
        configure(GadgetConfig, None, mapping, keywords)
    return str(refused.value)


def test_both_spellings_are_taken_and_the_storage_gets_its_own() -> None:
    config, settings = configure(
        GadgetConfig, "redis://h:1", {"linger.ms": 7, "client.id": "billing"}, {"key_prefix": "shop"}
    )
    assert (config.linger_ms, config.client_id) == (7, "billing")
    assert (settings.storage_url, settings.key_prefix) == ("redis://h:1", "shop")


def test_a_keyword_wins_over_the_mapping() -> None:
    config, _ = configure(GadgetConfig, None, {"linger.ms": 7}, {"linger_ms": 8})
    assert config.linger_ms == 8


def test_a_misspelt_setting_is_answered_with_the_right_one() -> None:
    assert refusal(linger=3) == "linger is not a setting of a gadget; did you mean linger_ms?"
    assert refusal(key_prefx="a") == "key_prefx is not a setting of a gadget; did you mean key_prefix?"
    assert refusal({"xyzzy": 1}) == "xyzzy is not a setting of a gadget."


def test_a_setting_of_kafka_clients_that_means_nothing_here_is_explained() -> None:
    assert refusal({"bootstrap.servers": "localhost:9092"}).startswith(
        "bootstrap.servers is not a setting of a gadget: the SDK talks to Redis itself: give storage_url"
    )


def test_a_wrong_value_is_named() -> None:
    assert refusal(linger_ms=-1).startswith("linger_ms = -1 is wrong: ")
    assert refusal(storage_timeout_ms=1).startswith("storage_timeout_ms = 1 is wrong: ")


def test_importing_the_package_costs_next_to_nothing() -> None:
    script = """
import sys
before = set(sys.modules)
import redbroker
new = set(sys.modules) - before
heavy = {"asyncio", "pydantic", "redis", "hiredis", "anyio", "redbroker.client", "redbroker.engine"} & new
assert not heavy, heavy
assert [name for name in new if name.startswith("redbroker")] == ["redbroker"]
assert len(new) < 50, sorted(new)  # `typing` and what it needs
assert set(redbroker.HOMES) <= set(dir(redbroker))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
