"""Wrong settings are told in one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from redbroker.config import Settings, SettingsError


def refusal(**given: object) -> str:
    """The sentence on wrong settings."""
    with pytest.raises(SettingsError) as refused:
        Settings.load(**given)
    return str(refused.value)


def test_a_misspelt_variable_is_answered_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDBROKER_STORAGE_ULR", "redis://")
    assert refusal() == "REDBROKER_STORAGE_ULR is not a setting; did you mean REDBROKER_STORAGE_URL?"


def test_a_variable_that_is_like_none_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDBROKER_XYZZY", "1")
    assert refusal() == "REDBROKER_XYZZY is not a setting."


def test_a_misspelt_line_of_the_file_is_answered_with_the_right_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "redbroker.toml"
    file.write_text("prot = 9092\n")
    monkeypatch.setenv("REDBROKER_CONFIG", str(file))
    assert refusal() == "prot is not a setting; did you mean port?"


@pytest.mark.parametrize("content", [b"port = \n", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "redbroker.toml"
    file.write_bytes(content)
    monkeypatch.setenv("REDBROKER_CONFIG", str(file))
    assert refusal().startswith(f"REDBROKER_CONFIG names {file}, which is no TOML: ")


def test_a_word_that_is_not_one_of_those_allowed_is_answered_with_them() -> None:
    assert refusal(log_level="loud") == "log_level = 'loud' is wrong: debug, info, warning or error."


@pytest.mark.parametrize("advertise", ["kafka", "kafka:", "kafka:port", ":9092", "::1:9092", "a b:9092"])
def test_an_advertised_address_that_clients_could_not_use_is_refused(advertise: str) -> None:
    assert refusal(advertise=advertise).endswith("is wrong: HOST:PORT that clients are told to connect to.")


@pytest.mark.parametrize("advertise", ["kafka-1.example.com:9092", "[::1]:9092", "10.0.0.1:0"])
def test_a_host_and_a_port_are_advertised(advertise: str) -> None:
    assert Settings.load(advertise=advertise).advertise == advertise
