"""One request frame in, one response frame out.

`read_request` decodes a frame, `answer` runs the handler and encodes what it gives. Neither knows sockets; order,
concurrency and flow control are `connection.py`'s. What goes wrong ends in one of three ways, each with one log line:

    malformed frame, unknown API, unsupported version     `Refused`: the connection is closed, as Kafka does
    KafkaError raised for the whole request                the API's `refusal` is answered; without one: `Refused`
    any other exception                                    the same, as UNKNOWN_SERVER_ERROR, with the traceback
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

from redbroker.broker.api import APIS, Api, Codec
from redbroker.broker.context import Broker, Context
from redbroker.broker.turnstile import Turnstile
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.frame import RESPONSE_FRAME_HEAD, RESPONSE_HEAD, Buffer, peek, read_request_header
from redbroker.wire.primitives import MalformedMessage

__all__ = ["Refused", "Request", "answer", "read_request"]

log = logging.getLogger(__name__)

JOIN_BYTES = 32_768
"""A smaller answer is joined to one segment: cheaper than many small ones on their way to the socket."""
CONTROL_BYTES_MAX = 2_097_152
"""The largest frame that may turn into objects whole, where no setting says otherwise."""


class Refused(Exception):
    """This request ends its connection; the message says why, for the log. `reason` is the word it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Request:
    """One decoded request. `error` is set where the answer is a refusal without asking the handler."""

    __slots__ = ("api", "body", "client_id", "codec", "correlation_id", "error", "throttle_ms", "version")

    def __init__(
        self, api: Api, codec: Codec, version: int, correlation_id: int, client_id: str | None, body: Any
    ) -> None:
        self.api = api
        self.codec = codec
        self.version = version
        self.correlation_id = correlation_id
        self.client_id = client_id
        self.body = body
        self.error: KafkaError | None = None
        self.throttle_ms = 0  # how long its client is muted after the answer


def read_request(frame: Buffer, control_bytes_max: int = CONTROL_BYTES_MAX) -> Request:
    """Decode a frame (without its size); `Refused` when nothing can be answered.

    A frame above `control_bytes_max` may only bring records: two bytes of anything else can become sixty bytes of
    objects, and two microseconds in which nobody is served.

    Byte fields of the request are views into the frame, which therefore must not change while the request lives.
    """
    try:
        key, version, correlation_id = peek(frame)
        api = APIS.get(key)
        if api is None:
            raise Refused("unknown_api", f"API key {key} (version {version}) is unknown")
        if not api.low <= version <= api.high:
            return unsupported(api, version, correlation_id)
        if len(frame) > control_bytes_max and not api.bulk:
            raise Refused("too_large", f"{api.name} in {len(frame)} bytes is above control_frame_bytes_max")
        codec = api.codec(version)
        header, pos = read_request_header(frame, codec.flexible)
        body, _ = codec.decode(frame, pos)
    except MalformedMessage as error:
        raise Refused("malformed", f"a request of {len(frame)} bytes is malformed: {error}") from None
    return Request(api, codec, version, correlation_id, header.client_id, body)


def unsupported(api: Api, version: int, correlation_id: int) -> Request:
    """A version we do not have: only ApiVersions answers it, in its oldest form."""
    if api.fallback is None:
        raise Refused("unsupported_version", f"{api.name} version {version} is not supported")
    request = Request(api, api.codec(api.fallback), api.fallback, correlation_id, None, None)
    request.error = KafkaError(ErrorCode.UNSUPPORTED_VERSION, f"{api.name} version {version} is not supported.")
    return request


async def answer(
    request: Request, broker: Broker, client_host: str, turnstile: Turnstile | None = None
) -> list[Any] | None:
    """The segments of the response frame, or None where none is wanted (acks=0); `turnstile` is the connection's."""
    started_s = perf_counter()
    api = request.api
    ctx = Context(
        broker, request.version, request.correlation_id, request.client_id, client_host, turnstile or Turnstile()
    )
    try:
        if request.error is not None:
            raise request.error
        assert api.handler is not None
        response = await api.handler(request.body, ctx)
        request.throttle_ms = ctx.throttle_ms
        segments = encode(request, response)
        code = ctx.error_code or getattr(response, "error_code", 0)
    except KafkaError as error:
        log.info("%s is refused: %s", label(request, client_host), error)
        segments, code = refuse(request, error), error.code
    except Exception as unexpected:
        log.exception("%s failed unexpectedly: %r", label(request, client_host), unexpected)
        code = ErrorCode.UNKNOWN_SERVER_ERROR
        segments = refuse(request, KafkaError(code, "The server failed unexpectedly; its log tells more."))
    broker.metrics.api(api.name).done(code, perf_counter() - started_s)
    return segments


def encode(request: Request, response: Any) -> list[Any] | None:
    """A response as the segments of its frame; `bytes` are a body that the handler has encoded itself."""
    if response is None:
        return None
    body: list[Any] = [b""]  # the first place is kept for the head, which tells the size of all
    if type(response) is bytes:
        body.append(response)
    else:
        request.codec.encode(response, body.append)
    nbytes = RESPONSE_HEAD.size + sum(map(len, body))
    if request.codec.flexible and not request.api.plain_header:
        body[0] = RESPONSE_FRAME_HEAD.pack(nbytes + 1, request.correlation_id) + b"\0"
    else:
        body[0] = RESPONSE_FRAME_HEAD.pack(nbytes, request.correlation_id)
    return [b"".join(body)] if nbytes < JOIN_BYTES else joined(body)


def joined(segments: list[Any]) -> list[Any]:
    """The same bytes in few segments: runs of small ones become one, large ones stay uncopied."""
    out: list[Any] = []
    run: list[Any] = []
    for segment in segments:
        if len(segment) < JOIN_BYTES:
            run.append(segment)
            continue
        if run:
            out.append(b"".join(run))
        out.append(segment)
        run = []
    if run:
        out.append(b"".join(run))
    return out


def refuse(request: Request, error: KafkaError) -> list[Any] | None:
    """The frame that tells a whole request's error; `Refused` when its API has no way to tell it."""
    if request.api.refusal is None:
        raise Refused("no_refusal", f"{request.api.name} has no answer for {error.code.name}")
    return encode(request, request.api.refusal(request.body, error, request.version))


def label(request: Request, client_host: str) -> str:
    """Who asked what, for the log; the client's own words are quoted and cut."""
    return (
        f"{request.api.name} v{request.version} correlation_id={request.correlation_id}"
        f" client_id={(request.client_id or '')[:100]!r} from {client_host}"
    )
