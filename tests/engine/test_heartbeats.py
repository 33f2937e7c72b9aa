"""Which groups have to look at the topics again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from redbroker.engine import heartbeats
from redbroker.engine.heartbeats import GroupTopics


def test_a_group_is_behind_until_shown_and_again_after_each_change() -> None:
    topics = SimpleNamespace(version=3)
    seen = GroupTopics(cast("Any", topics))
    assert seen.behind("g")
    seen.shown("g", seen.version)
    assert not seen.behind("g")
    assert seen.behind("h")
    topics.version = 4
    assert seen.behind("g")


def test_what_changed_while_a_group_was_looking_is_not_taken_for_seen() -> None:
    topics = SimpleNamespace(version=3)
    seen = GroupTopics(cast("Any", topics))
    looked_at = seen.version
    topics.version = 4
    seen.shown("g", looked_at)
    assert seen.behind("g")


def test_the_group_shown_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "GROUPS_MAX", 2)
    seen = GroupTopics(cast("Any", SimpleNamespace(version=1)))
    for name in ("a", "b", "a", "c"):
        seen.shown(name, 1)
    assert [seen.behind(name) for name in ("a", "b", "c")] == [False, True, False]
