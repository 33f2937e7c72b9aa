"""The health check of a container: code 0 while this worker accepts clients. `python -m workers.health [livez]`."""

from __future__ import annotations

import http.client
import sys

from redbroker.config import Settings


def healthy(probe: str = "readyz") -> bool:
    """Whether the worker of this environment's settings answers its probe with 200."""
    settings = Settings.load()
    host = settings.http_host if settings.http_host not in ("", "0.0.0.0", "::") else "127.0.0.1"
    connection = http.client.HTTPConnection(host, settings.http_port or 0, timeout=2)
    try:
        connection.request("GET", f"/{probe}")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not healthy(*sys.argv[1:2]))
