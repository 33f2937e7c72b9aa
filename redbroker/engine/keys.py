"""Every Redis key, one function each.

One partition's keys share the hash tag `{topic:partition}`, so they live in one slot and one script may touch them
all; spreading partitions over slots spreads them over the masters of a cluster. Topic names are limited to
`[A-Za-z0-9._-]`, so neither `{` nor `:` can come from outside. Group names may hold anything but NUL: whatever is in
them, all keys of one group have one tag (up to the first `}`), and the last `}:` of a key ends the name.

    rb:{orders:0}:log        stream   <leader epoch>-<last offset>  b -> one whole Kafka RecordBatch v2
    rb:{orders:0}:state      hash     id        topic id (32 hex digits): a stale worker's write is refused by it
                                      rid       replication id of the master that wrote last
                                      epoch     leader epoch, bumped when rid changes; since -> its first offset
                                      next      next offset (log end)      start -> log start offset
                                      batches   entries appended ever      written -> bytes appended ever
                                      trimmed   bytes trimmed (estimated)  largest -> bytes of the largest batch
                                      time      largest batch timestamp    time_at -> last offset of that batch
                                      duplicates  answered duplicates (written, so that WAIT covers them)
                                      bumped    ms, when this epoch began; gone once replicas have it
                                      confirmed "<offset> <written>": the high watermark as last proved
                                      cleaned   first offset not compacted   cleaned_written -> `written` up to there
                                      horizons  "<offset>:<ms> …": tombstones below it are compacted since then
                                      tombstones  kept by the last compaction  swapped -> who made it
    rb:{orders:0}:epochs     zset     leader epoch scored by its first offset
    rb:{orders:0}:producers  hash     producer id, 16 hex digits -> "epoch time first:last:offset …", newest first
    rb:{orders:0}:times      zset     sparse index, one per 64 batches or MiB: "<last offset, 16 digits>:<written>",
                                      scored by the largest timestamp up to there
    rb:{orders:0}:janitor    hash     who compacts the partition: holder   a name used once (the fencing token)
                                      until -> end of the lease, server time in ms
    rb:{orders:0}:compacted  stream   a compaction under way: what will be the log, same IDs (and what becomes of
    rb:{orders:0}:compacted_times  zset  `times`); swapped in at the end, removed by the next holder if left over
    rb:{orders:0}:tail       channel  sharded pub/sub, "<next> <written>" at each append

    rb:{g:NAME}:state        string   JSON of the whole group value (machines/), compared and set by head's version
    rb:{g:NAME}:head         hash     what heartbeats and commits check: version   server time in us, always growing
                                      type -> classic | consumer         phase -> Stable, …
                                      epoch -> generation or group epoch protocol_type -> consumer, …
                                      deadline -> ms, when the group must be ticked; 0: never
                                      since -> ms, when the phase began  token -> who wrote last (resent writes)
                                      static:<instance id> -> member id
    rb:{g:NAME}:sessions     hash     member id -> "<session timeout ms> <member epoch or -1> <flags> [<instance id>]"
                                      flags: w waits (may be silent), n has news to hear, c classic protocol, - none
    rb:{g:NAME}:beats        zset     member id scored by the end of its session (server time, ms)
    rb:{g:NAME}:assignment   hash     topic:partition -> "<member id> <epoch> <client id> <host>"
    rb:{g:NAME}:offsets      hash     topic:partition -> JSON [offset, leader epoch, metadata, commit ms, topic id]
    rb:{g:NAME}:wake         channel  sharded pub/sub, "<phase> <version>" when parked requests may have an answer

    rb:{meta}:groups         hash     group name -> JSON {type, protocol_type, phase}: may lag, mended by the tenders
    rb:{meta}:topics         hash     topic name -> JSON {id, partitions, configs, created_ms}
    rb:{meta}:configs        hash     dynamic broker setting -> value
    rb:{meta}:deleted        hash     topic id -> JSON {name, partitions, created_ms}, until its logs are dropped
    rb:{meta}:versions       hash     "topics", "workers" -> time of the last change, ms, always growing
    rb:{meta}:cluster        string   cluster id, made once
    rb:{meta}:workers        hash     node id -> JSON {host, port, rack, instance, started_ms}
    rb:{meta}:nodes          hash     advertised host:port -> node id, so that a restarted worker keeps its id
    rb:{meta}:beats          zset     node id scored by its last heartbeat (server time, ms)
    rb:{meta}:replicas       hash     most -> the most replicas ever seen, where no server tells of those that are away
    rb:{meta}:changes        channel  sharded pub/sub: "topics" or "workers", when either changed
"""

from __future__ import annotations

from redbroker.types import TopicPartition


class PartitionKeys:
    """The keys of one partition, built once and kept beside it."""

    __slots__ = ("compacted", "compacted_times", "epochs", "janitor", "log", "producers", "state", "tail", "times")

    def __init__(self, prefix: str, partition: TopicPartition) -> None:
        stem = f"{prefix}:{{{partition.topic}:{partition.partition}}}:"
        self.log = f"{stem}log".encode()
        self.state = f"{stem}state".encode()
        self.epochs = f"{stem}epochs".encode()
        self.producers = f"{stem}producers".encode()
        self.times = f"{stem}times".encode()
        self.tail = f"{stem}tail".encode()
        self.janitor = f"{stem}janitor".encode()
        self.compacted = f"{stem}compacted".encode()
        self.compacted_times = f"{stem}compacted_times".encode()

    @property
    def compaction(self) -> tuple[bytes, bytes, bytes]:
        """Lease and half done work of a compaction: what goes with the partition."""
        return self.janitor, self.compacted, self.compacted_times


class GroupKeys:
    """The keys of one consumer group."""

    __slots__ = ("assignment", "beats", "head", "offsets", "sessions", "state", "wake")

    def __init__(self, prefix: str, name: str) -> None:
        stem = f"{prefix}:{{g:{name}}}:"
        self.state = f"{stem}state".encode()
        self.head = f"{stem}head".encode()
        self.sessions = f"{stem}sessions".encode()
        self.beats = f"{stem}beats".encode()
        self.assignment = f"{stem}assignment".encode()
        self.offsets = f"{stem}offsets".encode()
        self.wake = f"{stem}wake".encode()


class MetaKeys:
    """The keys of the cluster's own metadata, all in one slot."""

    __slots__ = (
        "beats", "changes", "cluster", "configs", "deleted", "groups", "nodes", "replicas", "topics", "versions",
        "workers",
    )  # fmt: skip

    def __init__(self, prefix: str) -> None:
        stem = f"{prefix}:{{meta}}:"
        self.groups = f"{stem}groups".encode()
        self.topics = f"{stem}topics".encode()
        self.configs = f"{stem}configs".encode()
        self.deleted = f"{stem}deleted".encode()
        self.versions = f"{stem}versions".encode()
        self.cluster = f"{stem}cluster".encode()
        self.workers = f"{stem}workers".encode()
        self.nodes = f"{stem}nodes".encode()
        self.beats = f"{stem}beats".encode()
        self.replicas = f"{stem}replicas".encode()
        self.changes = f"{stem}changes".encode()
