"""What a Redis server's own settings mean for the data, in one sentence each.

`check_server` is a pure function of what INFO and CONFIG GET answer; `inspect` asks every master, and the replicas that
masters name, which may be promoted, how they keep data. A finding tells what is set, what can be lost by it, and the
command that mends it. A risk can lose acknowledged records and stops a worker that runs with `strict`; a note is for
those who want to know (`redbroker doctor`). A server that is too old is no finding: it is refused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from redbroker.engine.discovery import ask
from redbroker.engine.target import Access, Address, StorageError
from redbroker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from redbroker.config import Settings
    from redbroker.engine.connection import Storage
    from redbroker.engine.durability import Durability

VERSION_MIN = (7, 0)
REPL_TIMEOUT_S = 15
REPLICA_ANSWER_S = 1.0
REPLICA = re.compile(r"ip=([^,]+),port=(\d+),state=")
CONFIGS = (
    "maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "cluster-allow-replica-migration",
    "cluster-replica-validity-factor", "cluster-require-full-coverage", "min-replicas-to-write", "repl-timeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a server: its level, the fact, what it can cost, and what mends it."""

    level: Literal["risk", "note"]
    server: str
    sentence: str
    loses: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.server}: {self.sentence}: {self.loses}.{f' Mend: {self.mend}' if self.mend else ''}"


def parse_info(text: bytes) -> dict[str, str]:
    """The fields of an INFO reply."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in lines}


def check_version(server: str, info: Mapping[str, str]) -> None:
    """Refuse a server older than 7.0 (sharded pub/sub); Valkey and others report a compatible `redis_version`."""
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < VERSION_MIN:
        name = f"{info.get('server_name', 'redis')} {version or 'of an unknown version'}"
        raise StorageError(
            ErrorCode.UNSUPPORTED_VERSION,
            f"storage_url leads to {server}, which runs {name}: Redis 7.0 or any Valkey is needed.",
        )


def check_server(
    server: str,
    info: Mapping[str, str],
    config: Mapping[str, str] | None,
    settings: Settings,
    *,
    embedded: bool = False,
    replicas: int | None = None,
) -> list[Finding]:
    """The findings for one master, risks first. `config` is None where the server does not let us read it.

    `replicas` is how many it should have; None: as many as are connected.
    """
    known = _known(info, config)
    found = [*_keeping(server, info, known, embedded), *_cluster(server, info, known)]
    found += [*_replication(server, info, known), *_copies(server, info, settings, embedded, replicas)]
    if config is None:
        found.append(
            Finding("note", server, "CONFIG GET is forbidden here (usual for managed Redis)",
                    f"{', '.join(CONFIGS)} could not be checked", "look at them in the provider's console")
        )  # fmt: skip
    return sorted(found, key=lambda finding: finding.level != "risk")


def _known(info: Mapping[str, str], config: Mapping[str, str] | None) -> dict[str, str]:
    """The settings, as far as they can be had; INFO tells two of them as well."""
    return {
        "maxmemory-policy": info.get("maxmemory_policy", ""),
        "appendonly": {"0": "no", "1": "yes"}.get(info.get("aof_enabled", ""), ""),
        **(config or {}),
    }


def _keeping(server: str, info: Mapping[str, str], known: Mapping[str, str], embedded: bool) -> Iterable[Finding]:
    return [*_eviction(server, known), *_persistence(server, info, known, embedded)]


def _eviction(server: str, known: Mapping[str, str]) -> Iterable[Finding]:
    policy = known["maxmemory-policy"]
    if policy and policy != "noeviction":
        level: Literal["risk", "note"] = "risk" if policy.startswith("allkeys") else "note"
        loses = "Redis may delete whole partitions to make room" if level == "risk" else "no key of ours may be evicted"
        yield Finding(level, server, f"maxmemory-policy is {policy}", loses, "CONFIG SET maxmemory-policy noeviction")


def _persistence(server: str, info: Mapping[str, str], known: Mapping[str, str], embedded: bool) -> Iterable[Finding]:
    if known["appendonly"] == "no":
        yield Finding(
            "risk", server, "appendonly is no", "a restart loses every record since the last snapshot",
            "CONFIG SET appendonly yes",
        )  # fmt: skip
        return
    fsync = known.get("appendfsync")
    if fsync == "no":
        yield Finding(
            "risk", server, "appendfsync is no", "a crash of the machine loses half a minute of records or more",
            "CONFIG SET appendfsync always (or everysec)",
        )  # fmt: skip
    elif fsync == "everysec":
        mend = "" if embedded else "CONFIG SET appendfsync always"
        loses = "a power loss can cost about two seconds"
        if info.get("connected_slaves", "0") != "0":
            loses = "a master that is killed and back before a failover may lack what acks=all acknowledged"
        yield Finding("note", server, "appendfsync is everysec", loses, mend)
    if known.get("no-appendfsync-on-rewrite") == "yes":
        yield Finding(
            "risk", server, "no-appendfsync-on-rewrite is yes", "a power loss can cost minutes",
            "CONFIG SET no-appendfsync-on-rewrite no",
        )  # fmt: skip
    if info.get("aof_last_write_status", "ok") != "ok":
        yield Finding(
            "risk", server, "the append-only file could not be written", "appends are refused (disk full?)",
            "free space on its disk",
        )  # fmt: skip


def _cluster(server: str, info: Mapping[str, str], known: Mapping[str, str]) -> Iterable[Finding]:
    if info.get("cluster_enabled") != "1":
        return
    if info.get("cluster_state", "ok") != "ok":
        yield Finding(
            "risk", server, "cluster_state is not ok", "partitions in uncovered slots can be neither read nor written",
            "redis-cli --cluster check",
        )  # fmt: skip
    if known.get("cluster-allow-replica-migration") == "yes":
        yield Finding(
            "note", server, "cluster-allow-replica-migration is yes",
            "a replica that moves away leaves acks=all waiting for copies that are not there",
            "CONFIG SET cluster-allow-replica-migration no",
        )  # fmt: skip
    if known.get("cluster-require-full-coverage") == "yes":
        yield Finding(
            "note", server, "cluster-require-full-coverage is yes",
            "when one master and its replicas are away, all partitions stop and not only theirs",
            "CONFIG SET cluster-require-full-coverage no",
        )  # fmt: skip


def _replication(server: str, info: Mapping[str, str], known: Mapping[str, str]) -> Iterable[Finding]:
    if info.get("connected_slaves", "0") == "0":
        return
    if known.get("min-replicas-to-write") == "0":
        yield Finding(
            "note", server, "min-replicas-to-write is 0",
            "a master cut off from its replicas takes records with acks=0 and 1 that the failover loses",
            "CONFIG SET min-replicas-to-write 1 min-replicas-max-lag 2; while no replica is in step groups stop then,"
            " too, and no worker starts",
        )  # fmt: skip
    timeout_s = known.get("repl-timeout", "")
    if timeout_s.isdigit() and int(timeout_s) > REPL_TIMEOUT_S:
        yield Finding(
            "note", server, f"repl-timeout is {timeout_s}",
            "a replica whose connection hangs is given up, and connects anew, only after as many seconds",
            "CONFIG SET repl-timeout 10 (more than repl-ping-replica-period)",
        )  # fmt: skip
    if info.get("cluster_enabled") == "1" and known.get("cluster-replica-validity-factor") == "0":
        yield Finding(
            "note", server, "cluster-replica-validity-factor is 0",
            "a replica that was cut off for long may be promoted; it lacks what acks=1 acknowledged meanwhile",
            "CONFIG SET cluster-replica-validity-factor 10",
        )  # fmt: skip


def _copies(
    server: str, info: Mapping[str, str], settings: Settings, embedded: bool, known: int | None
) -> Iterable[Finding]:
    seen = int(info.get("connected_slaves", "0"))
    replicas = (seen if known is None else known) if settings.replicas is None else settings.replicas
    asked = settings.min_insync_replicas
    if seen < replicas:
        yield Finding(
            "risk", server, f"{seen} of {replicas} replicas are connected",
            "acks=all is refused while min.insync.replicas needs them",
            f"start the missing replicas; gone for good: {_forget(info, settings)}, then restart the workers",
        )  # fmt: skip
    if asked is not None and asked > 1 + replicas:
        yield Finding(
            "risk", server, f"min_insync_replicas is {asked}, but there are {1 + replicas} copies",
            "acks=all is always refused", "add replicas, or leave min_insync_replicas unset",
        )  # fmt: skip
    most = max(seen, replicas)
    if asked is None and settings.replicas is not None and replicas < seen:
        yield Finding(
            "risk", server, f"{seen} replicas are connected, and acks=all waits for {replicas}",
            "a failover may promote one that lacks records acknowledged with acks=all", "raise replicas",
        )  # fmt: skip
    if asked is not None and asked < 1 + most:
        yield Finding(
            "risk", server, f"min_insync_replicas is {asked} of {1 + most} copies",
            "a failover may promote a replica that lacks records acknowledged with acks=all",
            "leave min_insync_replicas unset",
        )  # fmt: skip
    if replicas == 0 and not embedded:
        yield Finding("note", server, "there are no replicas", "a lost disk loses the log", "add a replica per master")


def _forget(info: Mapping[str, str], settings: Settings) -> str:
    """How acks=all is told not to wait for replicas that will never come back."""
    if settings.replicas is not None:
        return "lower replicas"
    if settings.storage_url.startswith(("redis+sentinel:", "rediss+sentinel:")):
        return "SENTINEL RESET on every Sentinel"
    if info.get("cluster_enabled") == "1":
        return "CLUSTER FORGET on every node"
    return f"DEL {settings.key_prefix}:{{meta}}:replicas"


async def inspect(storage: Storage, settings: Settings, durability: Durability | None = None) -> list[Finding]:
    """Ask every master and judge what it answers, risks first; `StorageError` when one is too old.

    `durability` knows how many replicas each should have. One of several that is away is a risk: whoever starts
    meanwhile serves the others. The error of one is raised where all are away, or with `strict`, which wants to know.
    """
    slots = storage.slots()
    infos, configs, states = await asyncio.gather(
        _told(storage, "INFO"),
        _told(storage, "CONFIG", "GET", *CONFIGS),
        _told(storage, "CLUSTER", "INFO") if storage.cluster else _nothing(),
    )
    found: list[Finding] = []
    addresses: list[Address] = []
    embedded = settings.storage_url.startswith("embedded:")
    away = sum(isinstance(text, KafkaError) for text in infos.values())
    for server, text in infos.items():
        if isinstance(text, KafkaError):
            if settings.strict or away == len(infos) or not text.retriable:
                raise text
            found.append(
                Finding("risk", server, f"this master could not be looked at ({text.message})",
                        "its partitions and groups stand still", "start it, or look what it is busy with")
            )  # fmt: skip
            continue
        state, flat = states.get(server), configs.get(server)
        info = parse_info(text) | ({} if state is None or isinstance(state, KafkaError) else parse_info(state))
        check_version(server, info)
        config = _pairs(flat) if flat and not isinstance(flat, KafkaError) else None
        replicas = durability.replicas(slots[server]) if durability and server in slots else None
        found += check_server(server, info, config, settings, embedded=embedded, replicas=replicas)
        named = [REPLICA.match(value) for name, value in info.items() if name.startswith("slave")]
        addresses += [Address(match[1], int(match[2])) for match in named if match]
    for some in await asyncio.gather(*(_inspect_replica(address, storage.target.access) for address in addresses)):
        found += some
    if storage.cluster and not storage.knows_the_away and settings.replicas is None:
        found.append(
            Finding("risk", next(iter(infos)), "CLUSTER SHARDS and CLUSTER NODES are forbidden",
                    "acks=all does not wait for a replica that was away whenever a worker looked",
                    "ACL SETUSER … +cluster|shards, or set replicas")
        )  # fmt: skip
    return sorted(found, key=lambda finding: finding.level != "risk")


async def _inspect_replica(address: Address, access: Access) -> Iterable[Finding]:
    """How a replica keeps data: once promoted, it has all the records."""
    try:
        text, flat = await ask(
            address, access, ("INFO",), ("CONFIG", "GET", *CONFIGS), timeout_s=REPLICA_ANSWER_S, may_refuse=1
        )
    except (OSError, KafkaError) as away:
        return [
            Finding("note", str(address), f"this replica could not be looked at ({str(away) or 'no answer'})",
                    "when it is promoted, its settings decide what is kept", "give it those of its master")
        ]  # fmt: skip
    info = parse_info(text) | {"connected_slaves": "1"}  # as a master it has replicas, too
    return _keeping(str(address), info, _known(info, _pairs(flat) if flat else None), False)


def _pairs(flat: list[bytes]) -> dict[str, str]:
    return dict(zip(map(bytes.decode, flat[::2]), map(bytes.decode, flat[1::2]), strict=True))


async def _told(storage: Storage, *words: str) -> dict[str, Any]:
    """A command's reply by server, or why there is none: it is away, or the command forbidden, renamed, unknown."""
    calls = storage.each_master(*words)
    replies = await asyncio.gather(*calls.values(), return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException) and not isinstance(reply, KafkaError):
            raise reply
    return dict(zip(calls, replies, strict=True))


async def _nothing() -> dict[str, Any]:
    return {}


def refuse_risks(findings: Iterable[Finding]) -> None:
    """With `strict`: a risk of losing records is a reason not to start."""
    risks = [finding for finding in findings if finding.level == "risk"]
    if risks:
        more = f" ({len(risks) - 1} more)" if len(risks) > 1 else ""
        raise StorageError(ErrorCode.POLICY_VIOLATION, f"strict is set, and records are at risk{more}: {risks[0]}")
