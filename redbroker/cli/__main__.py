"""`python -m redbroker.cli`: the `redbroker` command where no script was installed."""

from redbroker.cli import main

main()
