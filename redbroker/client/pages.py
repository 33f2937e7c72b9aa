"""Pages that a reader frees stay with its process, for the next records, instead of going back to the kernel.

Records come by the megabyte and are freed by the megabyte. glibc maps blocks from 128 KiB on one by one, and gives free
memory back at twice that: so every page is taken from the kernel again, zeroed and faulted in, which is more than half
of what reading records of 1 KiB costs. Both limits follow the largest mapped block that was freed (mallopt(3),
M_MMAP_THRESHOLD: "dynamic"), up to 32 MiB. One that nobody has written to is freed here: it never had a page.
"""

from __future__ import annotations

__all__ = ["keep_pages"]

NBYTES_MAX = 31 * 1024 * 1024
"""With its header it has to stay below 32 MiB."""

kept = 0


def keep_pages(nbytes: int) -> None:
    """Let glibc keep free memory of up to twice so many bytes; elsewhere it changes nothing."""
    global kept
    nbytes = min(nbytes, NBYTES_MAX)
    if nbytes > kept:  # a second time it would not be mapped, but zeroed by hand
        kept = nbytes
        bytes(nbytes)  # zeros by calloc: mapped, not touched, and free again
