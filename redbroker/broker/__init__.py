"""The Kafka door: frames in, answers out. `redbroker.broker.server.Server` is its entrance.

One connection is `connection.py`, one request `dispatch.py`, one Kafka API one module of `api/`.
"""
