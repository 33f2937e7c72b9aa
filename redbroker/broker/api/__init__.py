"""The registry of Kafka APIs: one module per API holds its key, versions, field tables and handler.

Importing a module of this package registers it; `load()` imports them all. ApiVersions, dispatch and docs/protocol.md
are derived from `APIS`, so what is advertised is what is implemented. A module looks like this:

    API = api(key=42, name="DeleteGroups", versions="0-2", flexible="2+", request=\"\"\"…\"\"\", response=\"\"\"…\"\"\")
    Response, Result = API.Response, API.response.struct("results")

    @API
    async def delete_groups(request: Any, ctx: Context) -> Any: ...

    @API.refuse
    def refusal(request: Any, error: KafkaError, version: int) -> Any: ...

The field tables are the text form of `redbroker.wire.schema`; field names are Kafka's, in snake_case.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from redbroker.wire import schema

if TYPE_CHECKING:
    from redbroker.broker.context import Context
    from redbroker.errors import KafkaError

__all__ = ["APIS", "Api", "Codec", "api", "load"]

H = TypeVar("H", bound="Handler")
R = TypeVar("R", bound="Refusal")
Handler = Callable[[Any, "Context"], Awaitable[Any]]
Refusal = Callable[[Any, "KafkaError", int], Any]

APIS: dict[int, Api] = {}
"""Every registered API by its key; complete after `load()`."""

NEVER = 1 << 15  # the first flexible version of an API that has none


class Codec(NamedTuple):
    """The compiled forms of one version: `decode(buf, pos) -> (request, pos)`, `encode(response, write)`."""

    decode: Callable[[Any, int], tuple[Any, int]]
    encode: Callable[[Any, Callable[[Any], Any]], None]
    flexible: bool


class Api:
    """One Kafka API. Used as a decorator it takes the handler and registers the API.

    `low`-`high` are the implemented versions, `advertised` the range ApiVersions tells (it may begin lower, because
    some clients read the minimum as a feature test). `parks`: a request may wait for something to happen (Fetch,
    JoinGroup, SyncGroup) and is cancelled when its client goes away; requests of all other APIs run to their end.
    `in_turn`: the answer may be large (Fetch), so a request starts only when all earlier answers of its connection
    have left. `fallback` is the version that answers a version not implemented (ApiVersions alone; all others close the
    connection), and `plain_header` keeps the response header at v0 in flexible versions (ApiVersions again, KIP-511).
    `bulk` requests carry records (Produce), which stay views into the frame; all others turn into Python objects whole.
    """

    __slots__ = (
        "_codecs", "advertised", "bulk", "doc", "fallback", "flexible", "handler", "high", "in_turn", "key", "low",
        "name", "parks", "plain_header", "refusal", "request", "response",
    )  # fmt: skip

    def __init__(
        self, key: int, name: str, versions: str, flexible: str | None, request: str, response: str,
        *, advertised: str | None = None, parks: bool = False, in_turn: bool = False, fallback: int | None = None,
        plain_header: bool = False,
    ) -> None:  # fmt: skip
        self.key = key
        self.name = name
        self.low, self.high = span(versions)
        self.advertised = span(advertised) if advertised else (self.low, self.high)
        self.flexible = int(flexible.rstrip("+")) if flexible else NEVER
        self.request = schema.parse(request, f"{name}Request")
        self.response = schema.parse(response, f"{name}Response")
        self.parks = parks
        self.in_turn = in_turn
        self.bulk = carries_records(self.request)
        self.fallback = fallback
        self.plain_header = plain_header
        self.handler: Handler | None = None
        self.refusal: Refusal | None = None
        self.doc = ""
        self._codecs: dict[int, Codec] = {}

    @property
    def Request(self) -> Any:
        """The class of the request: keyword construction, every field has a default."""
        return self.request.cls

    @property
    def Response(self) -> Any:
        """The class of the response; nested ones are `API.response.struct("topics.partitions")`."""
        return self.response.cls

    def __call__(self, handler: H) -> H:
        """Register this API with its handler; the first line of the module's docstring describes it in the docs."""
        if self.key in APIS:
            raise ValueError(f"Two modules claim API key {self.key}: {APIS[self.key].name} and {self.name}.")
        self.handler = handler
        module = sys.modules.get(handler.__module__)
        self.doc = ((module and module.__doc__) or "").strip().split("\n")[0]
        APIS[self.key] = self
        return handler

    def refuse(self, refusal: R) -> R:
        """Register `refusal(request, error, version) -> Response`: the answer when a `KafkaError` ends the request.

        It may return None where the request wants no answer (acks=0).
        """
        self.refusal = refusal
        return refusal

    def implements(self, version: int) -> bool:
        """True where a request of this version is served."""
        return self.low <= version <= self.high

    def codec(self, version: int) -> Codec:
        """The compiled request decoder and response encoder of one implemented version."""
        codec = self._codecs.get(version)
        if codec is None:
            flexible = version >= self.flexible
            codec = self._codecs[version] = Codec(
                schema.decoder(self.request, version, flexible),
                schema.encoder(self.response, version, flexible),
                flexible,
            )
        return codec


api = Api  # reads as a sentence in the modules: API = api(key=…, …)


def carries_records(struct: schema.Struct) -> bool:
    """True where a field of this struct, or of one within it, is a record set."""
    return any(
        field.type == "records" or (field.struct is not None and carries_records(field.struct))
        for field in struct.fields
    )


def span(versions: str) -> tuple[int, int]:
    """`"0-2"` -> (0, 2) and `"3"` -> (3, 3)."""
    low, _, high = versions.partition("-")
    return int(low), int(high or low)


def load() -> dict[int, Api]:
    """Import every module of this package, which registers the APIs; returns `APIS`."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("__"):
            importlib.import_module(f"{__name__}.{module.name}")
    return APIS
