"""From a stored batch to the records a consumer hands out; what cannot be decoded is an error that says where it is."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from redbroker.client.types import ConsumerRecord
from redbroker.errors import ErrorCode, KafkaError
from redbroker.wire.records import decode_batch, read_header

if TYPE_CHECKING:
    from redbroker.client.consumer_config import ConsumerConfig
    from redbroker.engine.log import StoredBatch
    from redbroker.types import TopicPartition

__all__ = ["decoded"]

log = logging.getLogger(__name__)


def decoded(
    stored: StoredBatch, partition: TopicPartition, wanted: int, config: ConsumerConfig, skipped: Counter[str]
) -> tuple[list[ConsumerRecord], int, KafkaError | None]:
    """(records from offset `wanted` on, the offset behind them, why there are no more of this batch).

    `skipped` counts by topic what was passed over, of a batch that cannot be read every offset it had.
    """
    try:
        header = read_header(stored.batch)
        end = stored.base_offset + header.last_offset_delta + 1
        if header.control:
            return [], end, None
        shape = (ConsumerRecord, tuple(partition), (stored.leader_epoch,))
        records: list[ConsumerRecord] = decode_batch(
            stored.batch, header, stored.base_offset, shape, bytes_max=config.batch_bytes_max
        )
    except KafkaError as error:
        end = stored.base_offset + int.from_bytes(stored.batch[23:27], "big") + 1
        where = f"{partition}, offsets {stored.base_offset} to {end - 1}"
        told = KafkaError(error.code, f"{where}: {error.message}")
        if config.undecodable == "raise":
            return [], wanted, told
        log.warning("Skipped: %s", told)
        skipped[partition.topic] += end - max(stored.base_offset, wanted)
        return [], end, None
    if records and records[0].offset < wanted:
        records = [each for each in records if each.offset >= wanted]
    if config.key_deserializer or config.value_deserializer:
        return _deserialized(records, end, partition, config, skipped)
    return records, end, None


def _deserialized(
    records: list[ConsumerRecord], end: int, partition: TopicPartition, config: ConsumerConfig, skipped: Counter[str]
) -> tuple[list[ConsumerRecord], int, KafkaError | None]:
    """The records with the caller's own keys and values; null stays None."""
    of_key, of_value = config.key_deserializer, config.value_deserializer
    made: list[ConsumerRecord] = []
    for each in records:
        try:
            key = each.key if each.key is None or of_key is None else of_key(each.key)
            value = each.value if each.value is None or of_value is None else of_value(each.value)
        except Exception as wrong:
            error = KafkaError(
                ErrorCode.CORRUPT_MESSAGE,
                f"{partition}, offset {each.offset}: the deserializer failed with {type(wrong).__name__}: {wrong}.",
            )
            error.__cause__ = wrong
            if config.undecodable == "raise":
                return made, each.offset, error
            log.warning("Skipped: %s", error)
            skipped[partition.topic] += 1
            continue
        made.append(each._replace(key=key, value=value))
    return made, end, None
