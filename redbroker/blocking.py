"""The SDK's clients without async: `from redbroker.blocking import Producer, Consumer, Admin`."""

from __future__ import annotations

from redbroker.client.blocking import Admin as Admin
from redbroker.client.blocking import Consumer as Consumer
from redbroker.client.blocking import Producer as Producer
