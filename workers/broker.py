"""The worker of a container: `python -m workers.broker`. Everything is set by the environment (docs/settings.md)."""

from __future__ import annotations

import sys

from redbroker.cli import main

if __name__ == "__main__":
    main(["worker", *sys.argv[1:]])
