"""`redbroker dev`: a whole broker in one process: an embedded Valkey that keeps its data, and a worker on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redbroker.cli.shared import run, settings_for
from redbroker.cli.worker import AdvertiseOption, HostOption, HttpPortOption, PortOption


def command(
    port: PortOption = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", file_okay=False, help="Where the data stays between runs.")
    ] = None,
    host: HostOption = None,
    advertise: AdvertiseOption = None,
    http_port: HttpPortOption = None,
) -> None:
    """Run a broker with its own storage; nothing else is needed. A second one on the same folder joins the first."""
    storage = "embedded:" if data_dir is None else f"embedded:{data_dir}"
    settings = settings_for(storage, port=port, host=host, advertise=advertise, http_port=http_port)

    from redbroker.cli.serve import serve

    run(serve(settings))
