"""RedBroker: Kafka's model and wire protocol on the Redis you already run."""

__version__ = "0.1.0"
