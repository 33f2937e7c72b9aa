"""The SDK: producers, consumers and apps that drive the engine straight to Redis; no broker in between.

Topics, groups and offsets are the ones the Kafka door serves, so a Go service there and a Python service here share one
group. Users import from `redbroker`; what lies in this package's modules is importable, not promised.
"""
