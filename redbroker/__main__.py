"""`python -m redbroker`, and the `redbroker` command: both begin here.

Ctrl-C while everything is still being imported just ends the process, as it would a program in C; once the command
runs, it answers for itself.
"""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from redbroker.cli import main as run

    run()


if __name__ == "__main__":
    main()
