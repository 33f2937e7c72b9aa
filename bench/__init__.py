"""Benchmarks: RedBroker beside tansu's memory engine, in one run, with the same client.

`python -m bench` (or `make bench`) from the repository root runs all of it; docs/benchmarks.md tells how to read it.

    measures.py   what is measured: names, units, targets
    servers.py    starting, probing and stopping the servers, each on a free port
    contenders.py who is measured: tansu, and RedBroker on each storage
    clients/      one load generator a file, each run in its own process and printing one JSON object
    workloads.py  which clients run against a fresh contender, with which sizes
    harness.py    the rounds: A B C, B C A, ... and the statistics over them
    report.py     the table on the terminal, the JSON file, the table in docs/benchmarks.md

It is no part of the installed package and imports nothing of RedBroker but what it times: the storage connection and
the SDK.
"""
