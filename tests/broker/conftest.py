"""Tests of the Kafka door run on both event loops: its protocol depends on how they hand out buffers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.raw import Stage


@pytest.fixture(params=["asyncio", "uvloop"])
def either_loop(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Use as `anyio_backend` of a module: `anyio_backend = either_loop`."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def stage() -> Stage:
    """What the steered APIs are told, and what they did."""
    return Stage()
