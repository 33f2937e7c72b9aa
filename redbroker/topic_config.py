"""Kafka's configs: every topic config and the broker configs that admin tools read, as tables.

Names, types, defaults, bounds and broker-level synonyms are Kafka 4.x's (LogConfig, ServerTopicConfigSynonyms,
KIP-1030 for the tightened defaults); the sentences are our own and say where RedBroker differs. A topic's value is
its own override, else a dynamic broker config, else this worker's settings, else Kafka's default, in that order.

Values travel as strings, as in Kafka's protocol. `dynamic` and `static` below are mappings of broker config name ->
value: `dynamic` from Redis (set by clients for the whole cluster), `static` from the worker's settings.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from redbroker.errors import ErrorCode, KafkaError

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
MINUTE_MS = 60_000
HOUR_MS = 3_600_000


class ConfigType(enum.IntEnum):
    """The type number DescribeConfigs gives (KIP-569)."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class ConfigSource(enum.IntEnum):
    """Where a value comes from, as DescribeConfigs numbers it (KIP-226)."""

    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5


BOOLEAN, STRING, INT, LONG, DOUBLE, LIST = (
    ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LONG, ConfigType.DOUBLE, ConfigType.LIST,
)  # fmt: skip

Check = Callable[[str], str]


class Synonym(NamedTuple):
    """A broker config that gives a topic config its default; `factor` turns its unit into the topic config's."""

    name: str
    factor: int = 1


@dataclass(frozen=True, slots=True)
class Config:
    """One config: `default` None means unset; `check` gives the normalised value or raises ValueError with the why.

    `setting` names the field of Settings that a broker config shows; `dynamic` ones may be altered by clients.
    """

    name: str
    type: ConfigType
    default: str | None
    documentation: str
    check: Check
    synonyms: tuple[Synonym, ...] = ()
    setting: str | None = None
    dynamic: bool = True


class Source(NamedTuple):
    """One place that gives a config a value; the first of a list is in force."""

    name: str
    value: str | None
    source: ConfigSource


class Described(NamedTuple):
    """One config as DescribeConfigs answers it."""

    name: str
    value: str | None
    source: ConfigSource
    type: ConfigType
    documentation: str
    read_only: bool
    synonyms: tuple[Source, ...]


# --- checks: a string in, the normalised string out -----------------------------------------------------------


def _boolean(value: str) -> str:
    word = value.lower()
    if word not in ("true", "false"):
        raise ValueError("true or false is expected")
    return word


def _text(value: str) -> str:
    return value


def _whole(least: int, most: int) -> Check:
    def check(value: str) -> str:
        if not re.fullmatch(r"[+-]?\d{1,20}", value, re.ASCII):
            raise ValueError("a whole number is expected")
        number = int(value)
        if not least <= number <= most:
            raise ValueError(f"at least {least} is expected" if number < least else f"at most {most} is expected")
        return str(number)

    return check


def _ratio(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        raise ValueError("a number from 0 to 1 is expected") from None
    if not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1 is expected")
    return str(number)


def _one_of(*words: str) -> Check:
    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)} is expected")
        return value

    return check


def _some_of(*words: str) -> Check:
    def check(value: str) -> str:
        parts = [part.strip() for part in value.split(",")] if value else []
        if len(set(parts)) < len(parts) or not set(parts) <= set(words):
            raise ValueError(f"a comma-separated list of {', '.join(words)} is expected, each at most once")
        return ",".join(parts)

    return check


def _gzip_level(value: str) -> str:
    return value if value == "-1" else _whole(1, 9)(value)


def _throttled(value: str) -> str:
    if value not in ("", "*") and not re.fullmatch(r"\d+:\d+(,\s*\d+:\d+)*", value, re.ASCII):
        raise ValueError("* or a list of PARTITION:BROKER is expected")
    return value


def _never_true(value: str) -> str:
    if _boolean(value) == "true":
        raise ValueError("tiered storage is not available")
    return "false"


# --- topic configs --------------------------------------------------------------------------------------------


def _integer(type_: ConfigType, least: int | None) -> Check:
    most = INT_MAX if type_ is INT else LONG_MAX
    return _whole(-most - 1 if least is None else least, most)


def _topic(
    name: str,
    type_: ConfigType,
    default: object,
    check: Check | int | None,
    documentation: str,
    *synonyms: str | Synonym,
) -> Config:
    """`check` may be the least allowed number; None leaves only the type's own range."""
    checked = check if callable(check) else _integer(type_, check)
    named = tuple(Synonym(each) if isinstance(each, str) else each for each in synonyms)
    return Config(name, type_, str(default), documentation, checked, named)


_SEGMENT = " Accepted for compatibility; a stream has no segment files."
_TIERED = " Accepted for compatibility; there is no tiered storage."
_CODEC = _one_of("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")

TOPIC_CONFIGS: Mapping[str, Config] = {
    config.name: config
    for config in (
        _topic("cleanup.policy", LIST, "delete", _some_of("compact", "delete"),
               "delete discards old batches by time and size, compact keeps the last value of each key; both may be"
               " named.", "log.cleanup.policy"),
        _topic("compression.gzip.level", INT, -1, _gzip_level,
               "Compression level when compression.type is gzip.", "compression.gzip.level"),
        _topic("compression.lz4.level", INT, 9, _whole(1, 17),
               "Compression level when compression.type is lz4.", "compression.lz4.level"),
        _topic("compression.type", STRING, "producer", _CODEC,
               "Final codec of the topic; producer keeps what the producer chose. Batches are stored as they were"
               " sent.", "compression.type"),
        _topic("compression.zstd.level", INT, 3, _whole(-131_072, 22),
               "Compression level when compression.type is zstd.", "compression.zstd.level"),
        _topic("delete.retention.ms", LONG, 86_400_000, 0,
               "How long a compacted topic keeps tombstones.", "log.cleaner.delete.retention.ms"),
        _topic("file.delete.delay.ms", LONG, 60_000, 0,
               "Wait before a deleted file leaves the disk." + _SEGMENT, "log.segment.delete.delay.ms"),
        _topic("flush.messages", LONG, LONG_MAX, 1,
               "Records between forced fsyncs. Accepted for compatibility; Redis' appendfsync decides.",
               "log.flush.interval.messages"),
        _topic("flush.ms", LONG, LONG_MAX, 0,
               "Time between forced fsyncs. Accepted for compatibility; Redis' appendfsync decides.",
               "log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
        _topic("follower.replication.throttled.replicas", LIST, "", _throttled,
               "Replicas throttled on the follower side. Accepted for compatibility; Redis replicates."),
        _topic("index.interval.bytes", INT, 4_096, 0,
               "Bytes between entries of the offset index." + _SEGMENT, "log.index.interval.bytes"),
        _topic("leader.replication.throttled.replicas", LIST, "", _throttled,
               "Replicas throttled on the leader side. Accepted for compatibility; Redis replicates."),
        _topic("local.retention.bytes", LONG, -2, -2,
               "Local size limit of a tiered topic; -2 means retention.bytes." + _TIERED, "log.local.retention.bytes"),
        _topic("local.retention.ms", LONG, -2, -2,
               "Local time limit of a tiered topic; -2 means retention.ms." + _TIERED, "log.local.retention.ms"),
        _topic("max.compaction.lag.ms", LONG, LONG_MAX, 1,
               "Longest time a record may stay out of compaction.", "log.cleaner.max.compaction.lag.ms"),
        _topic("max.message.bytes", INT, 1_048_588, 0,
               "Largest record batch, as sent (after compression).", "message.max.bytes"),
        _topic("message.timestamp.after.max.ms", LONG, HOUR_MS, 0,
               "How far a record's time may lie ahead of the worker's clock (CreateTime only).",
               "log.message.timestamp.after.max.ms"),
        _topic("message.timestamp.before.max.ms", LONG, LONG_MAX, 0,
               "How far a record's time may lie behind the worker's clock (CreateTime only).",
               "log.message.timestamp.before.max.ms"),
        _topic("message.timestamp.type", STRING, "CreateTime", _one_of("CreateTime", "LogAppendTime"),
               "Whether a record carries the producer's time or the time of the append.",
               "log.message.timestamp.type"),
        _topic("min.cleanable.dirty.ratio", DOUBLE, 0.5, _ratio,
               "Share of uncompacted bytes that starts a compaction.", "log.cleaner.min.cleanable.ratio"),
        _topic("min.compaction.lag.ms", LONG, 0, 0,
               "Shortest time a record stays uncompacted.", "log.cleaner.min.compaction.lag.ms"),
        _topic("min.insync.replicas", INT, 1, 1,
               "Copies (the Redis master included) that must hold a batch before acks=all is answered.",
               "min.insync.replicas"),
        _topic("preallocate", BOOLEAN, "false", _boolean,
               "Allocate segment files ahead." + _SEGMENT, "log.preallocate"),
        _topic("remote.log.copy.disable", BOOLEAN, "false", _boolean,
               "Stop copying to tiered storage." + _TIERED),
        _topic("remote.log.delete.on.disable", BOOLEAN, "false", _boolean,
               "Delete tiered data when tiering is switched off." + _TIERED),
        _topic("remote.storage.enable", BOOLEAN, "false", _never_true,
               "Tiered storage; true is refused, as by a Kafka broker without a remote log."),
        _topic("retention.bytes", LONG, -1, None,
               "Size a partition may reach before its oldest batches go; negative means no limit.",
               "log.retention.bytes"),
        _topic("retention.ms", LONG, 604_800_000, -1,
               "Age at which batches are discarded; -1 means never.", "log.retention.ms",
               Synonym("log.retention.minutes", MINUTE_MS), Synonym("log.retention.hours", HOUR_MS)),
        _topic("segment.bytes", INT, 1_073_741_824, 1_048_576, "Size of a log segment." + _SEGMENT,
               "log.segment.bytes"),
        _topic("segment.index.bytes", INT, 10_485_760, 4, "Size of a segment's index." + _SEGMENT,
               "log.index.size.max.bytes"),
        _topic("segment.jitter.ms", LONG, 0, 0, "Random part of segment.ms." + _SEGMENT, "log.roll.jitter.ms",
               Synonym("log.roll.jitter.hours", HOUR_MS)),
        _topic("segment.ms", LONG, 604_800_000, 1, "Age at which a segment is closed." + _SEGMENT, "log.roll.ms",
               Synonym("log.roll.hours", HOUR_MS)),
        _topic("unclean.leader.election.enable", BOOLEAN, "false", _boolean,
               "Whether a replica without all acknowledged batches may lead. Redis' election decides.",
               "unclean.leader.election.enable"),
    )
}  # fmt: skip


# --- broker configs -------------------------------------------------------------------------------------------


def _broker_synonyms(topic: Config) -> Iterable[Config]:
    """The broker configs behind a topic config; as in Kafka only the first is dynamic, the last has the default."""
    for synonym in topic.synonyms:
        last = synonym is topic.synonyms[-1]
        default = topic.default if synonym.factor == 1 else str(int(topic.default or 0) // synonym.factor)
        yield Config(
            synonym.name,
            topic.type if synonym.factor == 1 else INT,
            default if last else None,
            f"Default of the topic config {topic.name}. {topic.documentation}",
            topic.check if synonym.factor == 1 else _integer(INT, None),
            setting={"message.max.bytes": "message_bytes_max", "min.insync.replicas": "min_insync_replicas"}.get(
                synonym.name
            ),
            dynamic=synonym is topic.synonyms[0],
        )


def _broker(name: str, type_: ConfigType, default: object, documentation: str, setting: str | None = None) -> Config:
    check = {BOOLEAN: _boolean, INT: _integer(INT, None), LONG: _integer(LONG, None)}.get(type_, _text)
    return Config(name, type_, None if default is None else str(default), documentation, check, (), setting, False)


BROKER_CONFIGS: Mapping[str, Config] = {
    config.name: config
    for config in (
        *(synonym for topic in TOPIC_CONFIGS.values() for synonym in _broker_synonyms(topic)),
        _broker("advertised.listeners", STRING, None, "Where clients are told to connect."),
        _broker("authorizer.class.name", STRING, "", "Class that decides who may do what; empty means everybody."),
        _broker("auto.create.topics.enable", BOOLEAN, "true", "Create a topic when a client first names it.",
                "auto_create_topics"),
        _broker("auto.leader.rebalance.enable", BOOLEAN, "true", "Leaders are spread over live workers by hashing."),
        _broker("broker.id", INT, -1, "Node id of this worker."),
        _broker("broker.rack", STRING, None, "Rack or zone of this worker.", "rack"),
        _broker("connections.max.idle.ms", LONG, 600_000, "A connection silent this long is closed.",
                "idle_connection_ms"),
        _broker("controlled.shutdown.enable", BOOLEAN, "true", "A stopping worker drains and hands over its leaders."),
        _broker("default.replication.factor", INT, 1, "Copies of each partition: a Redis master and its replicas."),
        _broker("delete.topic.enable", BOOLEAN, "true", "Clients may delete topics."),
        _broker("fetch.max.bytes", INT, 57_671_680, "Most bytes one Fetch answers.", "fetch_bytes_max"),
        _broker("group.consumer.assignors", LIST, "uniform,range", "Server-side assignors (KIP-848)."),
        _broker("group.consumer.heartbeat.interval.ms", INT, 5_000, "Heartbeat interval of KIP-848 groups."),
        _broker("group.consumer.max.heartbeat.interval.ms", INT, 15_000, "Longest heartbeat interval a group may set."),
        _broker("group.consumer.max.session.timeout.ms", INT, 60_000, "Longest session timeout a group may set."),
        _broker("group.consumer.max.size", INT, INT_MAX, "Most members of a KIP-848 group."),
        _broker("group.consumer.min.heartbeat.interval.ms", INT, 5_000, "Shortest heartbeat interval a group may set."),
        _broker("group.consumer.min.session.timeout.ms", INT, 45_000, "Shortest session timeout a group may set."),
        _broker("group.consumer.session.timeout.ms", INT, 45_000, "Session timeout of KIP-848 groups."),
        _broker("group.initial.rebalance.delay.ms", INT, 3_000, "Wait for more members before a first rebalance."),
        _broker("group.max.session.timeout.ms", INT, 1_800_000, "Longest session timeout of a classic group."),
        _broker("group.max.size", INT, INT_MAX, "Most members of a classic group."),
        _broker("group.min.session.timeout.ms", INT, 6_000, "Shortest session timeout of a classic group."),
        _broker("listener.security.protocol.map", STRING, "PLAINTEXT:PLAINTEXT", "Security protocol per listener."),
        _broker("listeners", STRING, "PLAINTEXT://:9092", "Where this worker listens."),
        _broker("log.dir", STRING, "/tmp/kafka-logs", "Where the log lives: the storage, without its password."),
        _broker("log.dirs", STRING, None, "Where the log lives: the storage, without its password."),
        _broker("log.retention.check.interval.ms", LONG, 300_000, "How often old batches are looked for.",
                "retention_check_ms"),
        _broker("max.connections", INT, INT_MAX, "Open client connections of this worker.", "connections_max"),
        _broker("max.incremental.fetch.session.cache.slots", INT, 1_000, "Cached fetch sessions (KIP-227).",
                "fetch_sessions_max"),
        _broker("max.request.partition.size.limit", INT, 2_000, "Most partitions one DescribeTopicPartitions answers."),
        _broker("node.id", INT, -1, "Node id of this worker."),
        _broker("num.partitions", INT, 1, "Partitions of a topic created without a count.", "num_partitions"),
        _broker("offset.metadata.max.bytes", INT, 4_096, "Longest metadata string of a committed offset."),
        _broker("offsets.retention.minutes", INT, 10_080, "How long offsets of an empty group are kept."),
        _broker("offsets.topic.num.partitions", INT, 50, "Partitions of __consumer_offsets; offsets live in hashes."),
        _broker("offsets.topic.replication.factor", INT, 3, "Copies of committed offsets."),
        _broker("process.roles", LIST, "broker,controller", "What this node does."),
        _broker("producer.id.expiration.ms", INT, 86_400_000, "An idle producer id is forgotten after this.",
                "producer_id_expiration_ms"),
        _broker("queued.max.request.bytes", LONG, -1, "Bytes of requests held before reading pauses.",
                "frame_bytes_in_flight_max"),
        _broker("queued.max.requests", INT, 500, "Requests held per connection before reading pauses.",
                "requests_in_flight_max"),
        _broker("replica.lag.time.max.ms", LONG, 30_000, "A replica this far behind is out of sync."),
        _broker("request.timeout.ms", INT, 30_000, "Longest wait for an answer of the storage.", "storage_timeout_ms"),
        _broker("sasl.enabled.mechanisms", LIST, "GSSAPI", "SASL mechanisms clients may use."),
        _broker("socket.request.max.bytes", INT, 104_857_600, "Largest request frame.", "frame_bytes_max"),
        _broker("transaction.max.timeout.ms", INT, 900_000, "Longest transaction timeout a producer may ask for."),
        _broker("transaction.state.log.num.partitions", INT, 50, "Partitions of __transaction_state."),
        _broker("transactional.id.expiration.ms", INT, 604_800_000, "An idle transactional id is forgotten then."),
    )
}  # fmt: skip


# --- reading and checking -------------------------------------------------------------------------------------


def parse_config(name: str, value: str | None) -> str:
    """The normalised value of a topic config; INVALID_CONFIG names the config and what is wrong with it."""
    return _parse(TOPIC_CONFIGS, "topic", name, value)


def parse_broker_config(name: str, value: str | None) -> str:
    """The normalised value of a dynamic broker config; INVALID_CONFIG for unknown, read-only and wrong ones."""
    parsed = _parse(BROKER_CONFIGS, "broker", name, value)
    if not BROKER_CONFIGS[name].dynamic:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"{name} cannot be changed while running; it is a worker setting.")
    return parsed


def parse_configs(configs: Mapping[str, str | None]) -> dict[str, str]:
    """All overrides of a topic, checked one by one and together."""
    parsed = {name: parse_config(name, value) for name, value in configs.items()}
    least, most = (
        int(parsed.get(name) or TOPIC_CONFIGS[name].default or 0)
        for name in ("min.compaction.lag.ms", "max.compaction.lag.ms")
    )
    if least > most:
        raise KafkaError(
            ErrorCode.INVALID_CONFIG, f"min.compaction.lag.ms ({least}) must not exceed max.compaction.lag.ms ({most})."
        )
    return parsed


def check_topic_config(name: str) -> None:
    """INVALID_CONFIG for a name that no topic config has."""
    _known(TOPIC_CONFIGS, "topic", name)


def _known(table: Mapping[str, Config], kind: str, name: str) -> Config:
    config = table.get(name)
    if config is None:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"{name} is not a {kind} config{_nearest(name, table)}")
    return config


def _parse(table: Mapping[str, Config], kind: str, name: str, value: str | None) -> str:
    config = _known(table, kind, name)
    if value is None:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"{name} needs a value.")
    try:
        return config.check(value.strip())
    except ValueError as why:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"{name} = {value[:100]!r} is wrong: {why}.") from None


def _nearest(name: str, table: Iterable[str]) -> str:
    import difflib  # only on the way to an error

    close = difflib.get_close_matches(name[:100], table, n=1)
    return f"; did you mean {close[0]}?" if close else "."


def topic_default(name: str, dynamic: Mapping[str, str], static: Mapping[str, str]) -> str:
    """The value of a topic config that the topic itself does not set."""
    config = TOPIC_CONFIGS[name]
    for values in (dynamic, static):
        for synonym in config.synonyms:
            if (value := values.get(synonym.name)) is not None:
                return value if synonym.factor == 1 else str(int(value) * synonym.factor)
    return config.default or ""


def topic_defaults(dynamic: Mapping[str, str], static: Mapping[str, str]) -> dict[str, str]:
    """Every topic config's value for topics that do not set it.

    `min.insync.replicas` only when a broker config sets it: unset, the number of Redis replicas decides.
    """
    values = {name: topic_default(name, dynamic, static) for name in TOPIC_CONFIGS}
    if "min.insync.replicas" not in {*dynamic, *static}:
        del values["min.insync.replicas"]
    return values


def static_configs(settings: object, **more: str) -> dict[str, str]:
    """The broker configs that a worker's settings give (only those that differ from Kafka's default), and `more`.

    `more` takes names with `_` for `.`, for what no setting knows alone: node_id, listeners, …
    """
    values = {name.replace("_", "."): value for name, value in more.items()}
    for config in BROKER_CONFIGS.values():
        value = getattr(settings, config.setting) if config.setting else None
        if value is not None:
            values[config.name] = str(value).lower() if isinstance(value, bool) else str(value)
    return {name: value for name, value in values.items() if value != BROKER_CONFIGS[name].default}


def describe_topic(
    overrides: Mapping[str, str], dynamic: Mapping[str, str], static: Mapping[str, str]
) -> list[Described]:
    """Every topic config with its value, source and synonyms, as DescribeConfigs of a topic answers."""
    described = []
    for config in TOPIC_CONFIGS.values():
        own = [Source(config.name, overrides[config.name], ConfigSource.TOPIC)] if config.name in overrides else []
        names = [synonym.name for synonym in config.synonyms]
        sources = own + _sources(names, dynamic, static)
        value = sources[0].value if own else topic_default(config.name, dynamic, static)
        source = sources[0].source if sources else ConfigSource.DEFAULT
        described.append(
            Described(config.name, value, source, config.type, config.documentation, False, tuple(sources))
        )
    return described


def describe_broker(dynamic: Mapping[str, str], static: Mapping[str, str]) -> list[Described]:
    """Every broker config with its value, source and synonyms, as DescribeConfigs of a broker answers."""
    described = []
    for config in BROKER_CONFIGS.values():
        sources = _sources([config.name], dynamic, static)
        value, source = (sources[0].value, sources[0].source) if sources else (None, ConfigSource.DEFAULT)
        described.append(
            Described(config.name, value, source, config.type, config.documentation, not config.dynamic, tuple(sources))
        )
    return described


def _sources(names: Iterable[str], dynamic: Mapping[str, str], static: Mapping[str, str]) -> list[Source]:
    """Where broker configs of these names get values, strongest first: all dynamic, all static, the default."""
    defaults = {name: default for name in names if (default := BROKER_CONFIGS[name].default) is not None}
    return [
        Source(name, values[name], source)
        for values, source in (
            (dynamic, ConfigSource.DYNAMIC_DEFAULT_BROKER),
            (static, ConfigSource.STATIC_BROKER),
            (defaults, ConfigSource.DEFAULT),
        )
        for name in names
        if name in values
    ]
