"""Starting `redbroker` commands as processes, waiting for their `ready` line, and ending exactly those again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue

READY_S = 20.0
STOP_S = 15.0


class Process:
    """One running `redbroker dev` or `redbroker worker`; `address` is where clients connect."""

    def __init__(self, *words: str, cwd: Path | None = None, group: int | None = None) -> None:
        """Start it and wait until it is ready; RuntimeError with its last words when it is not.

        `cwd`: where to run; `group`: as which group, for root.
        """
        self.words = words
        self.last_words: deque[str] = deque(maxlen=20)
        self.running = subprocess.Popen(
            [sys.executable, "-m", "redbroker", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            group=group,
        )
        self._ready: Queue[str | None] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.ready_line = self._wait()
        except KeyboardInterrupt:
            self.stop()
            raise
        self.address = self._named("kafka")

    @property
    def pid(self) -> int:
        return self.running.pid

    @property
    def http(self) -> str:
        """host:port of its metrics, where it was started with an `--http-port`."""
        return self._named("http")

    def _named(self, what: str) -> str:
        found = re.search(rf"  {what} (\S+)", self.ready_line)
        assert found, f"no {what} in {self.ready_line!r}"
        return found[1]

    def _listen(self) -> None:
        assert self.running.stdout
        for line in self.running.stdout:
            self.last_words.append(line.rstrip())
            if line.startswith("ready  "):
                self._ready.put(line.rstrip())
        self._ready.put(None)

    def _wait(self) -> str:
        try:
            line = self._ready.get(timeout=READY_S)
        except Empty:
            line = None
        if line is None:
            self.kill()
            raise RuntimeError(f"redbroker {' '.join(self.words)} did not start:\n" + "\n".join(self.last_words))
        return line

    def stop(self) -> int:
        """SIGTERM, and wait until it has drained; gives the exit code."""
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
        try:
            return self.running.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL: no warning, no clean-up."""
        self.running.kill()
        self.running.wait(STOP_S)


def stop_all(processes: Sequence[Process]) -> None:
    """Stop whatever still runs, newest first."""
    for process in reversed(processes):
        if process.running.poll() is None:
            process.stop()
