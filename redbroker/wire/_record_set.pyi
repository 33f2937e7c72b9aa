"""What `_record_set.c` offers, where it could be compiled."""

from typing import Any

def decode_records(
    data: bytes | bytearray | memoryview,
    count: int,
    base_offset: int,
    first_ms: int,
    append_time_ms: int | None,
    shape: tuple[type[Any], tuple[Any, ...], tuple[Any, ...]],
    /,
) -> list[Any]:
    """As `record_set.decode_records`; ValueError where that raises CORRUPT_MESSAGE."""
