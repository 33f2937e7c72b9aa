"""`python -m redbroker`: the same as the `redbroker` command."""

from redbroker.cli import main

if __name__ == "__main__":
    main()
