"""Inside a web service: the app lives as long as the server does. FastAPI takes the same `lifespan`.

uvicorn examples.web_service:web
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redbroker import RedBroker

app = RedBroker("redis://localhost:6379")
clicks = app.topic("clicks", key=str, value=dict, partitions=4)
seen: dict[str, int] = {}


@clicks.subscribe(group="counter")
async def count(click: dict[str, str]) -> None:
    """In the same process as the web server, or in another one."""
    seen[click["page"]] = seen.get(click["page"], 0) + 1


async def click(request: Request) -> JSONResponse:
    """Answered when the record is stored."""
    page = request.path_params["page"]
    sent = await clicks.send({"page": page}, key=page)
    return JSONResponse({"partition": sent.partition, "offset": sent.offset}, 202)


async def health(_: Request) -> JSONResponse:
    """For a probe: 503 when a handler is stuck or has failed."""
    found = app.health()
    return JSONResponse(found, 200 if found["healthy"] else 503)


web = Starlette(
    routes=[Route("/clicks/{page}", click, methods=["POST"]), Route("/health", health)], lifespan=app.lifespan
)
