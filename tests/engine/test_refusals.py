"""Redis's refusals in Kafka's terms."""

from __future__ import annotations

import pytest

from redbroker.engine.refusals import translate
from redbroker.errors import ErrorCode


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", ErrorCode.KAFKA_STORAGE_ERROR),
        ("MISCONF Errors writing to the AOF file", ErrorCode.KAFKA_STORAGE_ERROR),
        ("NOREPLICAS Not enough good replicas to write.", ErrorCode.NOT_ENOUGH_REPLICAS),
        ("NOPERM this user has no permissions", ErrorCode.CLUSTER_AUTHORIZATION_FAILED),
        ("READONLY You can't write against a read only replica.", ErrorCode.NOT_LEADER_OR_FOLLOWER),
        ("CLUSTERDOWN Hash slot not served", ErrorCode.NOT_LEADER_OR_FOLLOWER),
        ("ERR unknown command", ErrorCode.UNKNOWN_SERVER_ERROR),
        ("NONE is no refusal", ErrorCode.UNKNOWN_SERVER_ERROR),
        ("", ErrorCode.UNKNOWN_SERVER_ERROR),
    ],
)
def test_the_first_word_decides(text: str, code: ErrorCode) -> None:
    assert translate(text)[0] is code


def test_what_servers_append_to_a_scripts_refusal_is_left_out() -> None:
    code, sentence = translate("UNKNOWN_TOPIC_ID stale worker script: 3f2a, on @user_script:1.")
    assert (code, sentence) == (ErrorCode.UNKNOWN_TOPIC_ID, "stale worker")
