"""Inside a FastAPI service: the app lives as long as the server does. Starlette takes the same `lifespan`.

uvicorn examples.web_service:web            # needs `pip install fastapi`, and Redis or Valkey at localhost:6379
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel

from redbroker import RedBroker


class Click(BaseModel):
    """What a page reports: FastAPI checks it as the body of a request, the topic as the value of a record."""

    page: str
    ms: int = 0


app = RedBroker("redis://localhost:6379")
clicks = app.topic("clicks", key=str, value=Click, partitions=4)
seen: dict[str, int] = {}
web = FastAPI(lifespan=app.lifespan)


@clicks.subscribe(group="counter")
async def count(click: Click) -> None:
    """In the same process as the web server, or in another one."""
    seen[click.page] = seen.get(click.page, 0) + 1


@web.post("/clicks", status_code=202)
async def click(click: Click) -> dict[str, int]:
    """Answered when the record is stored."""
    sent = await clicks.send(click, key=click.page)
    return {"partition": sent.partition, "offset": sent.offset}


@web.get("/health")
async def health(response: Response) -> dict[str, Any]:
    """For a probe: 503 when a handler is stuck or has failed."""
    found = app.health()
    response.status_code = 200 if found["healthy"] else 503
    return found
