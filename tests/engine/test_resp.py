"""Commands in RESP: right for every word, and big words are not copied."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redbroker.engine.resp import BIG_WORD_BYTES, ScriptPrefix, Word, encode
from tests.support.storages import ONCE

words = st.one_of(st.binary(max_size=3000), st.text(max_size=50), st.integers(), st.binary().map(memoryview))


def flat(payload: object) -> bytes:
    return payload if isinstance(payload, bytes) else b"".join(payload)  # type: ignore[call-overload,no-any-return]


@given(st.lists(words, min_size=1, max_size=8))
def test_commands_are_what_hiredis_would_write(command: list[Word]) -> None:
    plain = tuple(bytes(word) if isinstance(word, memoryview) else word for word in command)
    assert flat(encode(command)) == hiredis.pack_command(plain)


def test_big_words_are_passed_on_as_they_are_and_small_ones_joined() -> None:
    big = memoryview(bytes(BIG_WORD_BYTES))
    segments = encode([b"XADD", b"key", big, b"tail", 1])
    assert isinstance(segments, list)
    assert [len(segment) >= BIG_WORD_BYTES for segment in segments] == [False, True, False]
    assert segments[1] is big


@pytest.mark.parametrize("argument", [b"small", bytes(5000)])
def test_a_script_call_becomes_an_eval_with_the_same_words(argument: bytes) -> None:
    prefix = ScriptPrefix(ONCE, (b"k1", b"k2"), 2, 0)
    payload = encode([1, argument], prefix.evalsha)
    assert flat(payload) == hiredis.pack_command((b"EVALSHA", ONCE.sha, 2, b"k1", b"k2", 1, argument))
    whole = prefix.with_source(payload)
    assert flat(whole) == hiredis.pack_command((b"EVAL", ONCE.source, 2, b"k1", b"k2", 1, argument))
    assert prefix.with_source(whole) is whole


def test_a_word_of_no_known_kind_is_refused_at_once() -> None:
    with pytest.raises(TypeError):
        encode([1.5])  # type: ignore[list-item]
