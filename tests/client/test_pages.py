"""Pages that were freed stay with the process: counted as page faults, in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives pages back so soon")

PROGRAM = """
import resource, sys
from redbroker.client.pages import keep_pages

keep_pages(int(sys.argv[1]))

def read():  # ten megabytes of records of 1 KiB, in blocks of a megabyte each, as a reader has them
    blocks = [b"x" * (1 << 20) for _ in range(10)]
    return [block[place : place + 1024] for block in blocks for place in range(0, 1 << 20, 1024)]

read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(nbytes: int) -> int:
    program = [sys.executable, "-c", PROGRAM, str(nbytes)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_what_a_reader_frees_is_used_again() -> None:
    kept, given_back = faults(16 * 1024 * 1024), faults(0)
    assert kept * 10 < given_back, (kept, given_back)


def test_more_than_glibc_allows_is_cut_to_what_it_does() -> None:
    assert faults(1 << 40) * 10 < faults(0)
