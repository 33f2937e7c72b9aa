"""What a worker asks of the interpreter, in a process of its own: it would change this one for all other tests."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from redbroker.cli.tuning import tune
tune()
blocks = [bytearray(1 << 20) for _ in range(8)]
del blocks
print(gc.get_threshold()[0], gc.get_freeze_count() > 0)
"""


def test_a_tuned_worker_collects_less_often_and_lives_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["10000", "True"]
