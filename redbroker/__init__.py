"""RedBroker: Kafka's model and wire protocol on the Redis you already run.

The names below are the SDK's; each is imported when it is first used, so that `import redbroker` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redbroker.client.admin import Admin as Admin
    from redbroker.client.app import RedBroker as RedBroker
    from redbroker.client.connection import Connection as Connection
    from redbroker.client.consumer import Consumer as Consumer
    from redbroker.client.consumer_config import RebalanceListener as RebalanceListener
    from redbroker.client.context import Context as Context
    from redbroker.client.delivery import Delivery as Delivery
    from redbroker.client.errors import BufferFullError as BufferFullError
    from redbroker.client.errors import DeliveryError as DeliveryError
    from redbroker.client.errors import DeserializationError as DeserializationError
    from redbroker.client.errors import SerializationError as SerializationError
    from redbroker.client.producer import Producer as Producer
    from redbroker.client.retries import Retry as Retry
    from redbroker.client.types import ConsumerRecord as ConsumerRecord
    from redbroker.client.types import OffsetAndMetadata as OffsetAndMetadata
    from redbroker.client.types import Sent as Sent
    from redbroker.config import SettingsError as SettingsError
    from redbroker.errors import ErrorCode as ErrorCode
    from redbroker.errors import KafkaError as KafkaError
    from redbroker.types import TopicPartition as TopicPartition

__version__ = "0.1.0"

HOMES = {
    "Admin": "redbroker.client.admin",
    "BufferFullError": "redbroker.client.errors",
    "Connection": "redbroker.client.connection",
    "Consumer": "redbroker.client.consumer",
    "ConsumerRecord": "redbroker.client.types",
    "Context": "redbroker.client.context",
    "Delivery": "redbroker.client.delivery",
    "DeliveryError": "redbroker.client.errors",
    "DeserializationError": "redbroker.client.errors",
    "ErrorCode": "redbroker.errors",
    "KafkaError": "redbroker.errors",
    "OffsetAndMetadata": "redbroker.client.types",
    "Producer": "redbroker.client.producer",
    "RebalanceListener": "redbroker.client.consumer_config",
    "RedBroker": "redbroker.client.app",
    "Retry": "redbroker.client.retries",
    "Sent": "redbroker.client.types",
    "SerializationError": "redbroker.client.errors",
    "SettingsError": "redbroker.config",
    "TopicPartition": "redbroker.types",
}
"""Where each public name lives."""


def __getattr__(name: str) -> Any:
    home = HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'redbroker' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
