"""Config resources: what DescribeConfigs lists and the AlterConfigs requests change.

* A TOPIC's own configs are its overrides. A BROKER is a worker; as workers hold no state and any of them serves
  any partition, its dynamic configs are those of the whole cluster: changing them through a node id or through the
  empty name (Kafka's cluster default) is the same thing. They are told as DYNAMIC_BROKER where a node was asked and
  as DYNAMIC_DEFAULT_BROKER elsewhere, because tools show only what has the source that fits their question.
* What only one worker has (node id, addresses, rack) is told for the worker asked for; the other static configs are
  those of the worker that answers. All static ones are read-only.
* BROKER_LOGGER, CLIENT_METRICS and GROUP resources are refused with INVALID_REQUEST, unknown types likewise.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redbroker.broker.admin import existing_topic, fresh, repeated
from redbroker.broker.context import Context
from redbroker.config import Settings
from redbroker.engine.workers import Worker
from redbroker.errors import ErrorCode, KafkaError
from redbroker.topic_config import (
    BROKER_CONFIGS,
    TOPIC_CONFIGS,
    Config,
    ConfigSource,
    Described,
    Source,
    describe_broker,
    describe_topic,
    static_configs,
    topic_default,
)


class ResourceType(enum.IntEnum):
    """Kafka's types of config resources."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class Changes(NamedTuple):
    """What a request does to a resource's own configs."""

    set: dict[str, str]
    unset: list[str]


class Current(NamedTuple):
    """A resource's configs before a change: the table of all, its own values, and what holds without one."""

    table: Mapping[str, Config]
    own: Mapping[str, str]
    default: Callable[[str], str]

    def value(self, name: str) -> str:
        """The value in force."""
        return self.own[name] if name in self.own else self.default(name)


Plan = Callable[[Any, Current], Changes]
"""Reads one resource of a request against its current configs; raises the refusal."""


def log_dir(settings: Settings) -> str:
    """The one log directory: the storage URL without credentials and options."""
    bare = re.split(r"[?#]", settings.storage_url)[0]
    return re.sub(r"//.*@", "//", bare)


def static(ctx: Context, worker: Worker | None = None) -> dict[str, str]:
    """The static broker configs: this worker's settings, with the addresses of `worker` when one is given."""
    where, durability = log_dir(ctx.settings), ctx.engine.durability
    configs = static_configs(
        ctx.settings,
        log_dir=where,
        log_dirs=where,
        default_replication_factor=str(durability.replication_factor),
        min_insync_replicas=str(durability.copies_default),
    )
    if worker is not None:
        node_id, listener = str(worker.node_id), f"PLAINTEXT://{worker.host}:{worker.port}"
        configs |= {"node.id": node_id, "broker.id": node_id, "listeners": listener, "advertised.listeners": listener}
        configs.pop("broker.rack", None)
        configs |= {"broker.rack": worker.rack} if worker.rack else {}
    return configs


def topic_configs(overrides: Mapping[str, str], ctx: Context) -> list[Described]:
    """Every config of a topic with these overrides, sorted by name."""
    return sorted(describe_topic(overrides, ctx.engine.topics.broker_configs, static(ctx)))


def describe(kind: int, name: str, ctx: Context) -> list[Described]:
    """Every config of a resource, sorted by name; raises the refusal."""
    if kind == ResourceType.TOPIC:
        return topic_configs(existing_topic(name, ctx).configs, ctx)
    worker = find_worker(kind, name, ctx)
    described = sorted(describe_broker(ctx.engine.topics.broker_configs, static(ctx, worker)))
    if worker is None:  # the cluster default lists what was set, as in Kafka
        return [each for each in described if each.source is ConfigSource.DYNAMIC_DEFAULT_BROKER]
    return [on_node(each) for each in described]


def on_node(config: Described) -> Described:
    """A broker config as it is told where a node was asked for it."""
    if config.source is not ConfigSource.DYNAMIC_DEFAULT_BROKER:
        return config
    own = Source(config.name, config.value, ConfigSource.DYNAMIC_BROKER)
    return config._replace(source=own.source, synonyms=(own, *config.synonyms))


def find_worker(kind: int, name: str, ctx: Context) -> Worker | None:
    """The live worker a broker resource names, None for the cluster default; raises the refusal."""
    if kind in (ResourceType.BROKER_LOGGER, ResourceType.CLIENT_METRICS, ResourceType.GROUP):
        raise invalid(f"{ResourceType(kind).name} resources have no configs here; TOPIC and BROKER have.")
    if kind != ResourceType.BROKER:
        raise invalid(f"Unknown resource type {kind}.")
    if not name:
        return None
    if not re.fullmatch(r"-?\d{1,10}", name, re.ASCII):
        raise invalid(f"Node id must be an integer, but it is: {name[:100]}")
    for worker in ctx.engine.workers.live():
        if worker.node_id == int(name):
            return worker
    raise invalid(f"There is no live broker with the id {name}.")


async def alter(resources: Sequence[Any], plan: Plan, validate_only: bool, ctx: Context) -> list[KafkaError | None]:
    """Changes resources one after another; the refusal of each in the request's order, None where it worked."""
    await fresh(ctx)
    twice = repeated((each.resource_type, each.resource_name) for each in resources)
    outcome: list[KafkaError | None] = []
    for each in resources:
        try:
            if (each.resource_type, each.resource_name) in twice:
                raise invalid("Each resource must appear at most once.")
            check_entries(each)
            await alter_one(each, plan, validate_only, ctx)
            outcome.append(None)
        except KafkaError as error:
            outcome.append(error)
    return outcome


def check_entries(resource: Any) -> None:
    """A config named twice is INVALID_REQUEST: which value is meant would be a guess."""
    if repeated(entry.name for entry in resource.configs):
        raise invalid("Error due to duplicate config keys")


async def alter_one(resource: Any, plan: Plan, validate_only: bool, ctx: Context) -> None:
    topics = ctx.engine.topics
    dynamic = topics.broker_configs
    if resource.resource_type == ResourceType.TOPIC:
        topic = existing_topic(resource.resource_name, ctx)
        fixed = static(ctx)
        current = Current(TOPIC_CONFIGS, topic.configs, lambda name: topic_default(name, dynamic, fixed))
        changes = plan(resource, current)
        await topics.configure(topic.name, changes.set, changes.unset, validate_only=validate_only)
        return
    fixed = static(ctx, find_worker(resource.resource_type, resource.resource_name, ctx))
    current = Current(BROKER_CONFIGS, dynamic, lambda name: fixed.get(name, BROKER_CONFIGS[name].default or ""))
    changes = plan(resource, current)
    await topics.configure_broker(changes.set, changes.unset, validate_only=validate_only)


def needed(value: str | None, name: str) -> str:
    """The value of an entry that must have one."""
    if value is None:
        raise invalid(f"Null value not supported for : {name[:249]}")
    return value


def invalid(why: str) -> KafkaError:
    return KafkaError(ErrorCode.INVALID_REQUEST, why)
