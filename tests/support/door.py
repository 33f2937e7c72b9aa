"""A worker's handlers without sockets: requests and answers go through the real codecs and the real dispatch.

door = Door(engine, settings)
answer = await door.ask(produce.API, 9, acks=-1, topic_data=[…])
"""

from __future__ import annotations

import itertools
from typing import Any

from redbroker.broker.api import Api
from redbroker.broker.dispatch import answer, read_request
from redbroker.broker.server import Server
from redbroker.broker.turnstile import Turnstile
from redbroker.config import Settings
from redbroker.engine import Engine
from redbroker.engine.topics import Topic
from redbroker.wire import schema
from redbroker.wire.records import Record, build_batch, iter_records, read_header


class Door:
    """The Kafka door of one worker over an open engine, as one connection sees it.

    The worker must be registered for leaders to exist.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.broker = Server(engine, settings).broker
        self.turnstile = Turnstile()
        self._correlation_ids = itertools.count(1)

    async def ask(self, api: Api, version: int, **fields: Any) -> Any:
        """The decoded answer to one request, or None where none is wanted."""
        flexible = version >= api.flexible
        number = next(self._correlation_ids)
        client_id = b"test"
        parts: list[Any] = [
            api.key.to_bytes(2, "big"), version.to_bytes(2, "big"), number.to_bytes(4, "big"),
            len(client_id).to_bytes(2, "big"), client_id, b"\0" if flexible else b"",
        ]  # fmt: skip
        schema.encoder(api.request, version, flexible)(api.Request(**fields), parts.append)
        segments = await answer(read_request(b"".join(parts)), self.broker, "127.0.0.1", self.turnstile)
        if segments is None:
            return None
        frame = b"".join(segments)
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4
        assert int.from_bytes(frame[4:8], "big") == number
        decoded, end = schema.decoder(api.response, version, flexible)(frame, 8 + flexible)
        assert end == len(frame)
        return decoded

    async def topic(self, name: str = "orders", partitions: int = 1, **configs: str) -> Topic:
        """A new topic; configs are named with underscores for dots."""
        named = {key.replace("_", "."): value for key, value in configs.items()}
        return await self.engine.topics.create(name, partitions, named)


def a_batch(*values: bytes | None, key: bytes | None = b"k", codec: str = "none", **fields: Any) -> bytes:
    """A produced batch: one record per value, all with the same key; `timestamp` is the first one's, others follow."""
    first_ms = fields.pop("timestamp", 1_700_000_000_000)
    step_ms = fields.pop("step", 1)
    records = [Record(i, first_ms + i * step_ms, key, value) for i, value in enumerate(values or (b"v",))]
    return build_batch(records, codec, **fields)


def records_of(fetched: Any) -> list[Record]:
    """The records of one partition of a Fetch answer, in order."""
    data = bytes(fetched.records or b"")
    records: list[Record] = []
    while data:
        nbytes = read_header(data).nbytes
        records += iter_records(data[:nbytes])
        data = data[nbytes:]
    return records


def only(answer: Any, *path: str) -> Any:
    """Follows `path` through lists of exactly one element."""
    for name in path:
        [answer] = getattr(answer, name)
    return answer
