"""Redis's refusals in Kafka's terms: the one place of translation.

The first word of a Redis error decides; what follows differs between servers and is only for people. Scripts refuse
with the name of a Kafka error code as their first word.
"""

from __future__ import annotations

from redbroker.errors import ErrorCode

# Not executed, and another try soon (perhaps elsewhere) may succeed: the cluster or the server is in transition.
TRANSIENT = frozenset({"TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "BUSY"})

# Not executed: the partition's new leader epoch is not replicated yet (lib/leader.lua). Soon it is.
UNSETTLED = "UNSETTLED"

CODES = {
    "OOM": ErrorCode.KAFKA_STORAGE_ERROR,
    "MISCONF": ErrorCode.KAFKA_STORAGE_ERROR,
    "NOREPLICAS": ErrorCode.NOT_ENOUGH_REPLICAS,
    "NOPERM": ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
    "NOAUTH": ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
    "WRONGPASS": ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
} | dict.fromkeys((*TRANSIENT, UNSETTLED, "MOVED", "ASK", "UNBLOCKED"), ErrorCode.NOT_LEADER_OR_FOLLOWER)

CODES |= {name: code for name, code in ErrorCode.__members__.items() if name != "NONE"}


def translate(text: str) -> tuple[ErrorCode, str]:
    """The code and the sentence for a Redis error."""
    word = text.partition(" ")[0].lstrip("-")
    code = CODES.get(word, ErrorCode.UNKNOWN_SERVER_ERROR)
    if word in ErrorCode.__members__:
        # Servers append ", script: <sha>, on @user_script:<line>."
        return code, text.partition(" ")[2].partition(" script: ")[0].rstrip(", ")
    return code, f"Redis refused: {text}"
