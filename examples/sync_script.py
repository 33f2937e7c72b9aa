"""A plain script, without async: `printf 'a\\nb\\n' | python -m examples.sync_script TOPIC [STORAGE_URL]`.

Each line of standard input becomes a record. `send_nowait` hands it over and goes on; `flush` waits for all of them,
and the futures tell where each went, or raise a `DeliveryError` that carries the record.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from redbroker.blocking import Admin, Producer


def send_lines(lines: Iterable[str], topic: str, storage_url: str | None) -> int:
    """Gives the number of records the topic holds afterwards."""
    with Producer(storage_url, linger_ms=5) as producer:
        futures = [producer.send_nowait(topic, line.rstrip("\n")) for line in lines]
        producer.flush(60)
        for future in futures:
            future.result()
    with Admin(storage_url) as admin:
        return sum(each.end - each.start for each in admin.describe_topic(topic).partitions)


if __name__ == "__main__":
    print(send_lines(sys.stdin, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
