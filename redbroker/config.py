"""Every setting once: its name, default, bounds and the sentence that explains it.

A setting `storage_url` is given as the flag `--storage-url` (some have shorter flags in the CLI), the environment
variable `REDBROKER_STORAGE_URL`, or a line `storage_url = "…"` in the TOML file named by `REDBROKER_CONFIG`.
Units stand last in the name (`_ms`, `_bytes`). Loops, queues, waits and buffers take their bounds from here.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ENV_PREFIX = "REDBROKER_"


class SettingsError(ValueError):
    """A wrong setting, told in one sentence that names it."""


class Settings(BaseSettings):
    """All settings of a worker and of the engine beneath it."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    # --- storage ---------------------------------------------------------------------------------------------
    storage_url: str = Field(
        "embedded:",
        description="Where the log lives: embedded:[DIR], redis://, rediss://, unix://, redis+sentinel://H:P,H:P/NAME;"
        " a cluster is recognised by itself.",
    )
    key_prefix: str = Field(
        "rb",
        pattern=r"^[A-Za-z0-9._-]{1,32}$",
        description="First part of every Redis key: at most 32 letters, digits, '.', '_' and '-'.",
    )
    storage_timeout_ms: int = Field(
        5_000,
        ge=100,
        description="Longest wait for one answer of Redis. Of several masters, a silent one keeps those who read of "
        "others, too, for a tenth of it, once.",
    )
    storage_retry_ms: int = Field(
        300, ge=0, description="How long a call is tried again while its Redis node is away, before a retriable error."
    )
    storage_start_ms: int = Field(
        60_000, ge=0, description="How long a starting worker waits for Redis, telling what it waits for."
    )
    storage_pending_max: int = Field(100_000, ge=1, description="Calls in flight per Redis connection.")
    storage_tls_ca_file: Path | None = Field(None, description="Certificate authority file for rediss://.")
    storage_tls_cert_file: Path | None = Field(None, description="Client certificate for rediss://.")
    storage_tls_key_file: Path | None = Field(None, description="Key of the client certificate.")
    storage_tls_verify: bool = Field(True, description="Check the certificate of the Redis server.")
    replicas: int | None = Field(
        None,
        ge=0,
        le=8,
        description="Replicas of a Redis master; unset: as cluster or Sentinel tell, or the most ever seen.",
    )
    strict: bool = Field(False, description="Refuse to start when a storage check finds a risk of data loss.")

    # --- the Kafka door --------------------------------------------------------------------------------------
    host: str = Field("127.0.0.1", description="Address the Kafka port listens on.")
    port: int = Field(9092, ge=0, le=65535, description="Kafka port; 0 takes a free one.")
    advertise: str | None = Field(
        None,
        pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):\d{1,5}$",
        description="HOST:PORT that clients are told to connect to.",
    )
    http_port: int | None = Field(None, ge=0, le=65535, description="Port of /metrics and the health probes.")
    http_host: str = Field("127.0.0.1", description="Address the HTTP port listens on.")
    rack: str | None = Field(None, description="Rack or zone of this worker, told to clients.")
    cluster_id: str | None = Field(None, description="Cluster id told to clients; unset: made once and kept in Redis.")
    frame_bytes_max: int = Field(
        104_857_600, ge=1024, description="Largest request frame (Kafka's socket.request.max.bytes)."
    )
    control_frame_bytes_max: int = Field(
        2_097_152, ge=1024, description="Largest request frame without records; to decode one takes up to 1 s/MiB."
    )
    connections_max: int = Field(10_000, ge=1, description="Open client connections of one worker.")
    requests_in_flight_max: int = Field(
        100, ge=1, description="Unanswered requests per connection before reading pauses."
    )
    frame_bytes_in_flight_max: int = Field(
        536_870_912, ge=1024, description="Bytes of request frames held by one worker before reading pauses."
    )
    idle_connection_ms: int = Field(600_000, ge=1_000, description="A connection silent this long is closed.")
    stalled_connection_ms: int = Field(
        30_000, ge=100, description="A connection that stops within a frame, or reads no answers, this long is closed."
    )
    fetch_bytes_max: int = Field(
        57_671_680, ge=1024, description="Most bytes one Fetch answers (Kafka's fetch.max.bytes)."
    )
    fetch_wait_ms_max: int = Field(60_000, ge=0, description="Longest wait a Fetch may ask for.")
    fetch_sessions_max: int = Field(1_000, ge=0, description="Cached incremental fetch sessions (KIP-227).")
    drain_ms: int = Field(10_000, ge=0, description="Time a stopping worker gives requests in flight.")

    # --- workers ---------------------------------------------------------------------------------------------
    worker_heartbeat_ms: int = Field(500, ge=50, description="How often a worker says it is alive.")
    worker_timeout_ms: int = Field(1_500, ge=200, description="A worker silent this long is dead; its partitions move.")
    metadata_refresh_ms: int = Field(
        5_000, ge=100, description="Backstop for reloading topics and counting replicas when no change was announced."
    )

    # --- topics ----------------------------------------------------------------------------------------------
    auto_create_topics: bool = Field(True, description="Create a topic when a client first names it.")
    num_partitions: int = Field(4, ge=1, le=10_000, description="Partitions of a topic created without a count.")
    partitions_max: int = Field(10_000, ge=1, description="Most partitions one topic may have.")
    topics_max: int = Field(10_000, ge=1, description="Most topics in one key space.")
    min_insync_replicas: int | None = Field(
        None, ge=1, le=9, description="Copies acks=all waits for; unset: one plus the master's replicas."
    )
    message_bytes_max: int = Field(1_048_588, ge=100, description="Default max.message.bytes of a topic.")
    producer_id_expiration_ms: int = Field(
        86_400_000, ge=1_000, description="An idle producer id is forgotten after this."
    )
    producers_max: int = Field(100_000, ge=1, description="Remembered producer ids per partition.")

    # --- reading ---------------------------------------------------------------------------------------------
    read_overshoot_bytes: int = Field(
        33_554_432, ge=1_048_576, description="Most bytes one partition read may take beyond what was asked for."
    )
    wait_idle_ms: int = Field(
        60_000, ge=1_000, description="A wake-up subscription nobody waits on is dropped after this."
    )

    # --- retention, compaction, memory -------------------------------------------------------------------------
    retention_check_ms: int = Field(
        10_000,
        ge=20,
        description="How often old batches are looked for in a partition (log.retention.check.interval.ms).",
    )
    trim_entries_per_s: int = Field(
        200_000, ge=100, description="Batches a worker trims per second; ten times as many while memory is short."
    )
    compaction_check_ms: int = Field(
        15_000, ge=20, description="How often a worker looks for compacted topics that have become dirty."
    )
    compaction_dirty_bytes_min: int = Field(
        1_048_576, ge=0, description="Fewer dirty bytes start no compaction, whatever min.cleanable.dirty.ratio says."
    )
    compaction_keys_bytes_max: int = Field(
        67_108_864,
        ge=4_096,
        description="Memory for the keys of one compaction; more keys take several (log.cleaner.dedupe.buffer.size).",
    )
    compaction_cpu_share: float = Field(
        0.3, gt=0, le=1, description="Share of its time that a worker gives to a compaction under way."
    )
    janitor_lease_ms: int = Field(
        10_000, ge=200, description="A compaction whose worker is silent this long may be begun anew by another."
    )
    memory_check_ms: int = Field(500, ge=20, description="How often the memory of each Redis master is looked at.")
    memory_throttle_share: float = Field(
        0.85, gt=0, le=1, description="Share of a Redis master's maxmemory from which producers are slowed down."
    )
    memory_refuse_share: float = Field(
        0.95, gt=0, le=1, description="Share of a Redis master's maxmemory from which records are refused for a while."
    )
    throttle_ms_max: int = Field(1_000, ge=0, description="Longest pause a produce answer asks of its client.")

    # --- consumer groups: the consumer protocol (KIP-848) ------------------------------------------------------
    group_consumer_heartbeat_interval_ms: int = Field(
        5_000, ge=100, description="How often settled members are told to heartbeat."
    )
    group_consumer_settle_interval_ms: int = Field(
        250, ge=50, description="How often a member is told to heartbeat while it waits for partitions of others."
    )
    group_consumer_session_timeout_ms: int = Field(
        45_000, ge=500, description="A member silent this long is out of its group."
    )
    group_consumer_max_size: int = Field(10_000, ge=1, description="Most members of one group.")
    group_consumer_migration_policy: str = Field(
        "bidirectional",
        pattern="^(bidirectional|upgrade|downgrade|disabled)$",
        description="Which groups change their protocol while they run: upgrade to consumer, downgrade to classic.",
    )

    # --- groups ----------------------------------------------------------------------------------------------
    group_min_session_timeout_ms: int = Field(
        6_000, ge=1, description="Shortest session timeout a classic member may ask for (group.min.session.timeout.ms)."
    )
    group_max_session_timeout_ms: int = Field(
        1_800_000, ge=1, description="Longest session timeout a classic member may ask for."
    )
    group_initial_rebalance_delay_ms: int = Field(
        200,
        ge=0,
        le=60_000,
        description="Time the first members of an empty group get to come together; each who joins extends it.",
    )
    group_max_size: int = Field(10_000, ge=1, description="Most members of one group (group.max.size).")
    group_member_bytes_max: int = Field(262_144, ge=64, description="Largest subscription metadata of one member.")
    group_bytes_max: int = Field(
        33_554_432, ge=1024, description="Largest metadata, and largest assignment, of all members of one group."
    )
    groups_max: int = Field(100_000, ge=1, description="Most groups in one key space.")
    group_tend_ms: int = Field(1_000, ge=20, description="How often a worker looks after the groups it coordinates.")
    offset_metadata_bytes_max: int = Field(
        4_096, ge=0, description="Longest metadata of a committed offset (offset.metadata.max.bytes)."
    )
    offsets_retention_minutes: int = Field(
        10_080, ge=1, description="Offsets of a group that is empty this long are forgotten."
    )
    offsets_retention_check_ms: int = Field(600_000, ge=20, description="How often offsets are looked at for this.")

    # --- metrics -----------------------------------------------------------------------------------------------
    metrics_age_ms: int = Field(5_000, ge=0, description="How long a scrape's figures of Redis may be told again.")
    metrics_timeout_ms: int = Field(
        1_000, ge=10, description="Longest a scrape waits for Redis; it then tells what was known."
    )
    metrics_topics_max: int = Field(1_000, ge=1, description="Topics a worker counts by name; the rest as _other.")
    metrics_partitions_max: int = Field(
        10_000, ge=1, description="Most partitions, and most partitions of groups, that one worker tells of."
    )
    metrics_groups_max: int = Field(1_000, ge=1, description="Most groups that one worker tells of.")
    metrics_kafka_names: bool = Field(True, description="Tell offsets and lags under kafka_exporter's names, too.")

    # --- logging ---------------------------------------------------------------------------------------------
    log_format: str = Field("console", pattern="^(console|json)$", description="console or json.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over the environment, the environment over the file."""
        file = os.environ.get(f"{ENV_PREFIX}CONFIG")
        files = (TomlConfigSettingsSource(settings_cls, Path(file)),) if file else ()
        return init_settings, env_settings, *files

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Settings from flags (None means not given), environment and file; `SettingsError` names the wrong one."""
        file = os.environ.get(f"{ENV_PREFIX}CONFIG")
        if file and not Path(file).is_file():
            raise SettingsError(f"{ENV_PREFIX}CONFIG names {file}, which is not a file.")
        known = set(cls.model_fields)
        for name in os.environ:
            bare = name.removeprefix(ENV_PREFIX).lower()
            if name.startswith(ENV_PREFIX) and bare not in known | {"config"}:
                raise SettingsError(f"{name} is not a setting{nearest(bare, environment=True)}")
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise SettingsError(f"{ENV_PREFIX}CONFIG names {file}, which is no TOML: {fault}.") from None
        except ValidationError as wrong:
            first = wrong.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            if first["type"] == "extra_forbidden":
                raise SettingsError(f"{name} is not a setting{nearest(name)}") from None
            raise SettingsError(f"{name} = {first.get('input')!r} is wrong: {_expected(name, first)}") from None


def nearest(name: str, *, environment: bool = False) -> str:
    """The end of a sentence on a misspelt setting: `; did you mean …?`, or a full stop."""
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    if not close:
        return "."
    return f"; did you mean {f'{ENV_PREFIX}{close[0].upper()}' if environment else close[0]}?"


def _expected(name: str, fault: ErrorDetails) -> str:
    """What would be right, as the setting's own description has it where pydantic only has a regular expression."""
    if fault["type"] == "string_pattern_mismatch":
        return str(Settings.model_fields[name].description)
    return f"{fault['msg']}."
