"""ApiVersions: which APIs, versions and features this worker speaks, the first request of every client.

* The key table is the registry's: what is advertised is what is implemented, except for ranges that begin lower on
  purpose because clients read the minimum as a feature test (`advertised` in the module of that API).
* A version that is not implemented is answered with UNSUPPORTED_VERSION in a v0 body that still lists every API, and
  the response header is v0 at every version, so that any client can read the answer (KIP-511).
* v3 brings the client's software name and version; malformed ones are INVALID_REQUEST.
* v3+ lists features (KIP-584). What is implemented is finalized, always: Java clients look for group.version 1 before
  they speak KIP-848. Ranges that begin at 0 are told as such from v4 on, and as beginning at 1 before (KIP-1022).
"""

from __future__ import annotations

import functools
import re
from typing import Any

from redbroker.broker.api import APIS, api
from redbroker.broker.context import Context
from redbroker.errors import ErrorCode, KafkaError

API = api(
    key=18,
    name="ApiVersions",
    versions="0-4",
    flexible="3+",
    fallback=0,
    plain_header=True,
    request="""
        client_software_name            str  3+
        client_software_version         str  3+
    """,
    response="""
        error_code                      i16
        api_keys                        []
            api_key                     i16
            min_version                 i16
            max_version                 i16
        throttle_time_ms                i32  1+
        supported_features              []   3+  #0
            name                        str  3+
            min_version                 i16  3+
            max_version                 i16  3+
        finalized_features_epoch        i64  3+  #1  =-1
        finalized_features              []   3+  #2
            name                        str  3+
            max_version_level           i16  3+
            min_version_level           i16  3+
        zk_migration_ready              bool 3+  #3
    """,
)
Response, Key = API.Response, API.response.struct("api_keys")
Supported, Finalized = API.response.struct("supported_features"), API.response.struct("finalized_features")

FEATURES = {"group.version": 1}
"""Kafka's features, each finalized at the one level that is implemented."""
FEATURES_EPOCH = 1
"""Clients take the greatest they have seen; it grows with `FEATURES`."""
FROM_ZERO_SINCE = 4

SOFTWARE_SINCE = 3
SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")  # Kafka's own pattern


def key_table() -> list[Any]:
    """One entry per registered API, in key order."""
    return [
        Key(api_key=key, min_version=APIS[key].advertised[0], max_version=APIS[key].advertised[1])
        for key in sorted(APIS)
    ]


@functools.cache
def encoded(version: int, apis: int) -> bytes:
    """The body that lists every API, encoded once per version (and again when more than `apis` are registered)."""
    body: list[Any] = []
    API.codec(version).encode(Response(api_keys=key_table(), **features(version)), body.append)
    return b"".join(body)


def features(version: int) -> dict[str, Any]:
    """The feature fields of an answer."""
    lowest = 0 if version >= FROM_ZERO_SINCE else 1
    return {
        "supported_features": [
            Supported(name=name, min_version=lowest, max_version=level) for name, level in FEATURES.items()
        ],
        "finalized_features_epoch": FEATURES_EPOCH,
        "finalized_features": [
            Finalized(name=name, min_version_level=level, max_version_level=level) for name, level in FEATURES.items()
        ],
    }


@API
async def api_versions(request: Any, ctx: Context) -> bytes:
    """The key table; INVALID_REQUEST when the client's software name or version is malformed."""
    if ctx.version >= SOFTWARE_SINCE:
        for text in (request.client_software_name, request.client_software_version):
            if not SOFTWARE.fullmatch(text):
                raise KafkaError(ErrorCode.INVALID_REQUEST, "The client software name or version is malformed.")
    return encoded(ctx.version, len(APIS))


@API.refuse
def refusal(request: Any, error: KafkaError, version: int) -> Any:
    """An unsupported version is told together with the supported ones; other errors alone."""
    keys = key_table() if error.code is ErrorCode.UNSUPPORTED_VERSION else []
    return Response(error_code=error.code, api_keys=keys)
