"""A consumer's settings: Kafka's names, and one sentence for a wrong value."""

from __future__ import annotations

import pytest

from redbroker.client.config import configure
from redbroker.client.consumer_config import ConsumerConfig
from redbroker.config import SettingsError


def config(policy: str) -> ConsumerConfig:
    found, _ = configure(ConsumerConfig, None, {"auto.offset.reset": policy, "group.id": "billing"}, {})
    assert (found.group_id, found.auto_offset_reset) == ("billing", policy)
    return found


@pytest.mark.parametrize(("policy", "ago_ms"), [
    ("earliest", None), ("latest", None), ("none", None), ("by_duration:PT1H", 3_600_000),
    ("by_duration:P1DT2H3M4.5S", 93_784_500), ("by_duration:PT0S", 0), ("by_duration:P3D", 259_200_000),
])  # fmt: skip
def test_the_start_is_one_end_of_the_log_or_so_long_ago(policy: str, ago_ms: int | None) -> None:
    assert config(policy).reset_duration_ms == ago_ms


@pytest.mark.parametrize(
    "policy", ["", "oldest", "by_duration", "by_duration:", "by_duration:1h", "by_duration:3600", "by_duration:P",
               "by_duration:-PT1H", "by_duration:PT-1H", "by_duration:01:00:00", "By_Duration:PT1H"],
)  # fmt: skip
def test_any_other_start_is_refused_with_those_there_are(policy: str) -> None:
    with pytest.raises(SettingsError) as refused:
        config(policy)
    assert str(refused.value) == (
        f"auto_offset_reset = {policy!r} is wrong: it is earliest, latest, none, or a duration as in by_duration:PT1H."
    )


def test_what_of_transactions_is_read_is_a_choice_of_two() -> None:
    found, _ = configure(ConsumerConfig, None, {"isolation.level": "read_committed"}, {})
    assert found.isolation_level == "read_committed"
    with pytest.raises(SettingsError, match=r"isolation_level = 'serializable' is wrong: .*read_committed"):
        configure(ConsumerConfig, None, {"isolation.level": "serializable"}, {})
