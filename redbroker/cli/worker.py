"""`redbroker worker`: one broker worker on the storage that all workers of a cluster share."""

from __future__ import annotations

from typing import Annotated

import typer

from redbroker.cli.shared import StorageOption, run, settings_for

PortOption = Annotated[int | None, typer.Option("--port", help="Kafka port; 0 takes a free one. Default 9092.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Address to listen on. Default 127.0.0.1.")]
HttpPortOption = Annotated[int | None, typer.Option("--http-port", help="Port of /metrics, /livez and /readyz.")]
AdvertiseOption = Annotated[
    str | None, typer.Option("--advertise", metavar="HOST:PORT", help="What clients are told to connect to.")
]


def command(
    storage: StorageOption = None,
    port: PortOption = None,
    host: HostOption = None,
    advertise: AdvertiseOption = None,
    http_port: HttpPortOption = None,
    rack: Annotated[str | None, typer.Option("--rack", help="Rack or zone told to clients.")] = None,
) -> None:
    """Run one worker until SIGTERM or Ctrl-C, which drain it."""
    from redbroker.cli.serve import serve

    run(serve(settings_for(storage, port=port, host=host, advertise=advertise, http_port=http_port, rack=rack)))
