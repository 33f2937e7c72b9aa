"""A small disk of its own for one server: a file system in a file, mounted over the server's folder, and filled up.

Only inside `apart.a_network`, whose mounts nobody else sees and which end with it: the file behind a disk has no name
any more once it is mounted, so nothing is left of it, whoever is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path

from tests.system.faults.apart import NotPermitted

DISK_BYTES = 1 << 30
"""Room for a long run; what is not used takes no space."""
NEARLY_BYTES = 1 << 20
BLOCK = bytes(1 << 14)


class Disk:
    """The disk of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take every block there is: reserve nearly all, write until the disk refuses."""
        room = os.statvfs(self.folder)
        with self._ballast.open("wb", buffering=0) as ballast:
            os.posix_fallocate(ballast.fileno(), 0, max(1, room.f_bavail * room.f_frsize - NEARLY_BYTES))
            ballast.seek(0, os.SEEK_END)
            for _ in range(NEARLY_BYTES):
                if not self._taken(ballast.fileno()):
                    return
        raise AssertionError("the disk does not get full")

    def _taken(self, file: int) -> bool:
        """One more block; False when there is none."""
        try:
            os.write(file, BLOCK)
        except OSError as error:
            if error.errno != ENOSPC:
                raise
            return False
        return True

    def free(self) -> None:
        """Give it all back."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def a_disk(folder: Path) -> Iterator[Disk]:
    """Mount a fresh disk over a folder, and take both away at the end; NotPermitted where that cannot be."""
    image = folder.with_suffix(".disk")
    try:
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        command("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
        command("mount", "-o", "loop", str(image), str(folder))
    finally:
        image.unlink(missing_ok=True)
    try:
        yield Disk(folder)
    finally:
        command("umount", "--lazy", str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def command(*words: str) -> None:
    """Run it; NotPermitted with its words when it cannot be."""
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError as missing:
        raise NotPermitted(f"{words[0]} is not installed") from missing
    if done.returncode:
        raise NotPermitted(f"{words[0]}: {done.stderr.strip()[:200]}")
