"""Kafka's bytes, and nothing else: messages, frames, record batches, compression. No I/O, no clock."""
