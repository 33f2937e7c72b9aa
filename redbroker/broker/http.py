"""/metrics and the health probes of one worker, over HTTP. Imported only by a worker that has an `http_port`.

/livez     200 as long as the event loop turns; says nothing about Redis: restarting a worker does not heal Redis
/readyz    200 while this worker accepts clients, 503 before it is ready and while it drains
/healthz   the same as /readyz, with the worker's figures as JSON
/metrics   Prometheus' text format; answered even while Redis is away
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from redbroker.broker.server import Server

__all__ = ["HttpServer", "application"]

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def application(server: Server) -> Starlette:
    """The HTTP application of one worker."""

    def status() -> int:
        return 200 if server.accepting else 503

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ready\n" if server.accepting else "not ready\n", status())

    async def healthz(_: Request) -> Response:
        return JSONResponse(server.figures(), status())

    async def metrics(_: Request) -> Response:
        return Response(await server.observer.text(), media_type=PROMETHEUS_TEXT)

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/healthz", healthz),
            Route("/metrics", metrics),
        ]
    )


class HttpServer(uvicorn.Server):
    """uvicorn inside somebody else's event loop: signals stay the worker's own affair.

    It takes its port when it is made, because uvicorn ends the process where a port is taken: OSError then.
    """

    def __init__(self, server: Server) -> None:
        settings = server.settings
        self.listening = anyio.Event()
        self._socket = listening_socket(settings.http_host, settings.http_port or 0)
        super().__init__(
            uvicorn.Config(
                application(server),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )

    async def run_here(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve([self._socket])

    def close(self) -> None:
        """Give the port back, whether it was ever served or not."""
        self._socket.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.listening.set()

    @property
    def port(self) -> int:
        """The port that is really listened on (`http_port` may be 0)."""
        return int(self._socket.getsockname()[1])


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket on the first address of the host."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family)
