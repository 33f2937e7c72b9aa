"""Every panel and every alert once: title, unit and query. `python -m grafana` writes the files from this one.

The boards are the workers' and Redis', but for `apps`: services built with the SDK, scraped in a job of their own.

A panel is (title, unit, {legend: query}); legends are Grafana's, `{{topic}}` being a label. `$topic`, `$group`
and `$instance` are the dashboards' variables. Figures of the cluster are told by one worker each
(redbroker/broker/observer.py), so `sum()` is right; where an instant of a moving leader shows a series twice, `max by`
takes one.
"""

from __future__ import annotations

from typing import NamedTuple

WINDOW = "[$__rate_interval]"
JOB = 'job="redbroker"'
APPS = 'job="redbroker-apps"'


class Panel(NamedTuple):
    """One panel: its queries by legend. `unit` is Grafana's name of it; `stat` shows the last value in large."""

    title: str
    unit: str
    queries: dict[str, str]
    stat: bool = False


class Alert(NamedTuple):
    """One alert rule; its runbook is the heading of the same name in docs/operating.md."""

    name: str
    query: str
    lasting: str
    severity: str
    summary: str


def rate(metric: str, by: str = "", where: str = "") -> str:
    """The sum of a counter's rate."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{f'{{{where}}}' if where else ''}{WINDOW}))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """A quantile of a histogram."""
    within = f"{{{where}}}" if where else ""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{within}{WINDOW})))"


TOPIC, GROUP, INSTANCE = 'topic=~"$topic"', 'group=~"$group"', 'instance=~"$instance"'
HANDLED = f"{TOPIC}, {GROUP}, {INSTANCE}"
LAG = f"max by (group, topic, partition) (redbroker_group_lag_records{{{GROUP}}})"
MEMORY_LIMIT = "((redbroker_redis_memory_max_bytes > 0) or redbroker_redis_memory_system_bytes)"

DASHBOARDS: dict[str, list[Panel]] = {
    "overview": [
        Panel("Workers up", "short", {"up": f"sum(up{{{JOB}}})"}, stat=True),
        Panel("Topics", "short", {"topics": "max(redbroker_topics)"}, stat=True),
        Panel("Partitions", "short", {"partitions": "count(redbroker_partition_end_offset)"}, stat=True),
        Panel("Redis answers", "short", {"nodes": "count(min by (node) (redbroker_redis_node_up) == 1)"}, stat=True),
        Panel("Records per second", "short", {
            "in": rate("redbroker_topic_records_in_total"), "out": rate("redbroker_topic_records_out_total")}),
        Panel("Bytes per second", "Bps", {
            "in": rate("redbroker_topic_bytes_in_total"), "out": rate("redbroker_topic_bytes_out_total")}),
        Panel("Produce latency", "s", {
            f"p{int(share * 100)}": quantile(share, "redbroker_request_seconds", where='api="Produce"')
            for share in (0.5, 0.95, 0.99)}),
        Panel("Lag by group", "short", {"{{group}}": "sum by (group) (redbroker_group_lag_records)"}),
        Panel("Lag by group, in seconds", "s", {"{{group}}": "max by (group) (redbroker_group_lag_seconds)"}),
        Panel("Redis memory", "bytes", {"{{node}}": "max by (node) (redbroker_redis_memory_used_bytes)"}),
        Panel("Errors told to clients", "reqps", {
            "{{api}} {{error}}": rate("redbroker_requests_total", "api, error", 'error!="NONE"')}),
        Panel("Connections", "short", {"{{instance}}": "sum by (instance) (redbroker_connections)"}),
        Panel("Requests per second", "reqps", {"{{api}}": rate("redbroker_requests_total", "api")}),
    ],
    "topics": [
        Panel("Records in", "short", {"{{topic}}": rate("redbroker_topic_records_in_total", "topic", TOPIC)}),
        Panel("Records out", "short", {"{{topic}}": rate("redbroker_topic_records_out_total", "topic", TOPIC)}),
        Panel("Bytes in", "Bps", {"{{topic}}": rate("redbroker_topic_bytes_in_total", "topic", TOPIC)}),
        Panel("Bytes out", "Bps", {"{{topic}}": rate("redbroker_topic_bytes_out_total", "topic", TOPIC)}),
        Panel("Records per batch", "short", {
            "{{topic}}": f"{rate('redbroker_topic_records_in_total', 'topic', TOPIC)}"
            f" / {rate('redbroker_topic_batches_in_total', 'topic', TOPIC)}"}),
        Panel("Bytes kept", "bytes", {
            "{{topic}}": f"sum by (topic) (max by (topic, partition) (redbroker_partition_bytes{{{TOPIC}}}))"}),
        Panel("Records kept", "short", {
            "{{topic}}": f"sum by (topic) (max by (topic, partition) (redbroker_partition_end_offset{{{TOPIC}}}"
            f" - redbroker_partition_start_offset{{{TOPIC}}}))"}),
        Panel("Trimmed records per second", "short", {
            "{{topic}}": f"sum by (topic) (deriv(redbroker_partition_start_offset{{{TOPIC}}}{WINDOW}))"}),
        Panel("Trimmed bytes per second", "Bps", {"bytes": rate("redbroker_janitor_trimmed_bytes_total")}),
        Panel("Compactions per hour", "short", {
            "done": f"3600 * {rate('redbroker_janitor_compactions_total')}",
            "failed": f"3600 * {rate('redbroker_janitor_compactions_failed_total')}"}),
        Panel("Leader epochs", "short", {
            "{{topic}}": f"max by (topic) (redbroker_partition_leader_epoch{{{TOPIC}}})"}),
    ],
    "groups": [
        Panel("Lag by partition", "short", {"{{group}} {{topic}}:{{partition}}": LAG}),
        Panel("Lag in seconds", "s", {
            "{{group}} {{topic}}": f"max by (group, topic) (redbroker_group_lag_seconds{{{GROUP}}})"}),
        Panel("Committed per second", "short", {
            "{{group}}": f"sum by (group) (deriv(redbroker_group_committed_offset{{{GROUP}}}{WINDOW}))"}),
        Panel("Members", "short", {"{{group}}": f"max by (group) (redbroker_group_members{{{GROUP}}})"}),
        Panel("State", "short", {
            "{{group}} {{state}}": f"max by (group, state) (redbroker_group_state{{{GROUP}}})"}),
        Panel("Rebalances per second", "short", {
            "{{group}}": rate("redbroker_group_rebalances_total", "group", GROUP)}),
        Panel("Requests of groups", "reqps", {
            "{{api}}": rate("redbroker_requests_total", "api",
                            'api=~"JoinGroup|SyncGroup|Heartbeat|LeaveGroup|OffsetCommit|ConsumerGroupHeartbeat"')}),
    ],
    "workers": [
        Panel("Versions", "short", {
            "node {{node_id}}, {{version}}": f"max by (node_id, version) (redbroker_worker_info{{{INSTANCE}}})"}),
        Panel("Ready", "short", {"{{instance}}": f"redbroker_worker_ready{{{INSTANCE}}}"}),
        Panel("Processor", "percentunit", {"{{instance}}": f"rate(process_cpu_seconds_total{{{JOB}}}{WINDOW})"}),
        Panel("Resident memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{JOB}}}"}),
        Panel("Event loop delay, p99", "s", {
            "{{instance}}": quantile(0.99, "redbroker_event_loop_delay_seconds", "instance", INSTANCE)}),
        Panel("Requests", "reqps", {"{{api}}": rate("redbroker_requests_total", "api", INSTANCE)}),
        Panel("Latency by API, p99", "s", {
            "{{api}}": quantile(0.99, "redbroker_request_seconds", "api", INSTANCE)}),
        Panel("New connections", "cps", {
            "{{instance}}": rate("redbroker_connections_accepted_total", "instance", INSTANCE)}),
        Panel("Closed by us", "cps", {
            "{{reason}}": rate("redbroker_connections_closed_total", "reason", INSTANCE)}),
        Panel("Open files", "short", {"{{instance}}": f"process_open_fds{{{JOB}}}"}),
        Panel("Request bytes held", "bytes", {"{{instance}}": f"redbroker_frame_bytes{{{INSTANCE}}}"}),
    ],
    "redis": [
        Panel("Memory used", "percentunit", {
            "{{node}}": f"max by (node) (redbroker_redis_memory_used_bytes / {MEMORY_LIMIT})"}),
        Panel("Memory", "bytes", {"{{node}}": "max by (node) (redbroker_redis_memory_used_bytes)"}),
        Panel("Time to an answer", "s", {"{{node}}": "max by (node) (redbroker_redis_answer_seconds)"}),
        Panel("Commands", "ops", {"{{node}}": rate("redbroker_redis_commands_total", "node")}),
        Panel("Network", "Bps", {
            "{{node}} in": rate("redbroker_redis_received_bytes_total", "node"),
            "{{node}} out": rate("redbroker_redis_sent_bytes_total", "node")}),
        Panel("Replicas", "short", {"{{node}}": "max by (node) (redbroker_redis_replicas)"}),
        Panel("Replica lag", "bytes", {"{{node}}": "max by (node) (redbroker_redis_replica_lag_bytes)"}),
        Panel("Waits for replicas, p99", "s", {
            "{{instance}}": quantile(0.99, "redbroker_replication_wait_seconds", "instance")}),
        Panel("Too few replicas in time", "short", {"appends": rate("redbroker_replication_waits_short_total")}),
        Panel("Redirects and refusals", "ops", {"{{error}}": rate("redbroker_redis_refusals_total", "error")}),
        Panel("Lost connections", "cps", {"{{instance}}": rate("redbroker_redis_connections_lost_total", "instance")}),
        Panel("Delayed fsyncs", "short", {"{{node}}": "max by (node) (redbroker_redis_aof_delayed_fsyncs)"}),
    ],
    "apps": [
        Panel("Processes up", "short", {"up": f"sum(redbroker_client_up{{{INSTANCE}}})"}, stat=True),
        Panel("Healthy", "short", {"healthy": f"sum(redbroker_client_healthy{{{INSTANCE}}})"}, stat=True),
        Panel("Records behind", "short", {
            "lag": f"sum(redbroker_client_lag_records{{{HANDLED}}})"}, stat=True),
        Panel("Dead letters in this time", "short", {
            "dead": f"sum(increase(redbroker_client_records_dead_total{{{HANDLED}}}[$__range]))"}, stat=True),
        Panel("Handled", "short", {
            "{{group}} {{topic}}": rate("redbroker_client_records_handled_total", "group, topic", HANDLED)}),
        Panel("Handled by each process", "short", {
            "{{instance}}": rate("redbroker_client_records_handled_total", "instance", HANDLED)}),
        Panel("Sent", "short", {
            "{{topic}}": rate("redbroker_client_records_sent_total", "topic", f"{TOPIC}, {INSTANCE}")}),
        Panel("Lag", "short", {
            "{{group}} {{topic}}": f"sum by (group, topic) (redbroker_client_lag_records{{{HANDLED}}})"}),
        Panel("Lag, in seconds", "s", {
            "{{group}} {{topic}}": f"max by (group, topic) (redbroker_client_lag_seconds{{{HANDLED}}})"}),
        Panel("In flight", "short", {
            "{{group}} {{topic}}": f"sum by (group, topic) (redbroker_client_in_flight_records{{{HANDLED}}})"}),
        Panel("Tried again", "short", {
            "{{group}} {{topic}}": rate("redbroker_client_records_retried_total", "group, topic", HANDLED)}),
        Panel("Dead letters", "short", {
            "{{group}} {{topic}}": rate("redbroker_client_records_dead_total", "group, topic", HANDLED)}),
        Panel("Not decodable and skipped", "short", {
            "{{group}} {{topic}}": rate("redbroker_client_records_skipped_total", "group, topic", HANDLED)}),
        Panel("Not delivered", "short", {
            "{{topic}}": rate("redbroker_client_records_failed_total", "topic", f"{TOPIC}, {INSTANCE}")}),
        Panel("Oldest handler", "s", {
            "{{instance}} {{group}} {{topic}}":
                f"max by (instance, group, topic) (redbroker_client_oldest_handler_seconds{{{HANDLED}}})"}),
        Panel("Partitions", "short", {
            "{{instance}} {{group}} {{topic}}":
                f"max by (instance, group, topic) (redbroker_client_partitions{{{HANDLED}}})"}),
    ],
}  # fmt: skip

ALERTS = [
    Alert("WorkerDown", f"up{{{JOB}}} == 0", "1m", "critical", "Worker {{ $labels.instance }} cannot be scraped."),
    Alert("RedisDown", "min by (node) (redbroker_redis_node_up) == 0", "1m", "critical",
          "Redis {{ $labels.node }} does not answer: its partitions can be neither read nor written."),
    Alert("RedisMemoryHigh",
          f"max by (node) (redbroker_redis_memory_used_bytes / {MEMORY_LIMIT}) > 0.85", "5m", "critical",
          "Redis {{ $labels.node }} has used {{ $value | humanizePercentage }} of its memory."),
    Alert("RedisMemoryFullSoon",
          f"max by (node) (predict_linear(redbroker_redis_memory_used_bytes[30m], 3600)) > "
          f"on (node) max by (node) ({MEMORY_LIMIT})", "15m", "warning",
          "Redis {{ $labels.node }} will be full within an hour."),
    Alert("RedisEvicts", "increase(redbroker_redis_evicted_keys_total[5m]) > 0", "0m", "critical",
          "Redis {{ $labels.node }} evicts keys: records are lost."),
    Alert("RedisCannotPersist", "redbroker_redis_aof_ok == 0", "1m", "critical",
          "Redis {{ $labels.node }} cannot write its append-only file."),
    Alert("ReplicaMissing",
          "max by (node) (redbroker_redis_replicas_counted) > max by (node) (redbroker_redis_replicas)",
          "5m", "warning", "Redis {{ $labels.node }} has fewer replicas than acks=all waits for."),
    Alert("ReplicasTooSlow", "sum(rate(redbroker_replication_waits_short_total[5m])) > 0", "5m", "warning",
          "acks=all fails because replicas are too slow."),
    Alert("RequestErrors",
          'sum(rate(redbroker_requests_total{error!~"NONE|REBALANCE_IN_PROGRESS|MEMBER_ID_REQUIRED"}[5m]))'
          " / sum(rate(redbroker_requests_total[5m])) > 0.01", "5m", "warning",
          "{{ $value | humanizePercentage }} of all requests fail."),
    Alert("ProduceSlow",
          'histogram_quantile(0.95, sum by (le) (rate(redbroker_request_seconds_bucket{api="Produce"}[5m]))) > 0.1',
          "5m", "warning", "Produce takes {{ $value | humanizeDuration }} at p95."),
    Alert("GroupLagsBehind", "max by (group, topic) (redbroker_group_lag_seconds) > 300", "10m", "warning",
          "Group {{ $labels.group }} is {{ $value | humanizeDuration }} behind on {{ $labels.topic }}."),
    Alert("GroupStandsStill",
          "sum by (group) (redbroker_group_lag_records) > 0 and"
          " sum by (group) (changes(redbroker_group_committed_offset[10m])) == 0", "10m", "warning",
          "Group {{ $labels.group }} has records to read and commits nothing."),
    Alert("GroupRebalancesOften", "sum by (group) (increase(redbroker_group_rebalances_total[10m])) > 10", "10m",
          "warning", "Group {{ $labels.group }} rebalances all the time."),
    Alert("CompactionFails", "increase(redbroker_janitor_compactions_failed_total[1h]) > 3", "0m", "warning",
          "Worker {{ $labels.instance }} cannot compact a partition; its log says why."),
    Alert("EventLoopSlow",
          "histogram_quantile(0.99,"
          " sum by (le, instance) (rate(redbroker_event_loop_delay_seconds_bucket[5m]))) > 0.25",
          "5m", "warning", "Worker {{ $labels.instance }} has more to do than one processor can."),
    Alert("ClientsRefused", "increase(redbroker_connections_refused_total[5m]) > 0", "0m", "warning",
          "Worker {{ $labels.instance }} refuses clients: connections_max are open."),
    Alert("MetricsStale", "redbroker_observation_age_seconds > 60", "5m", "warning",
          "Worker {{ $labels.instance }} has not read its figures of Redis for a minute."),
    Alert("AppDown", f"(up{{{APPS}}} == 0) or (redbroker_client_up == 0)", "1m", "critical",
          "App {{ $labels.instance }} cannot be scraped, does not run, or its event loop is blocked."),
    Alert("AppUnhealthy", "redbroker_client_healthy == 0", "1m", "critical",
          "App {{ $labels.instance }} has stopped with an error, or one of its handlers is stuck."),
    Alert("AppLagsBehind", "max by (group, topic) (redbroker_client_lag_seconds) > 300", "10m", "warning",
          "Apps of group {{ $labels.group }} are {{ $value | humanizeDuration }} behind on {{ $labels.topic }}."),
    Alert("AppBuriesRecords", "sum by (group, topic) (increase(redbroker_client_records_dead_total[10m])) > 0", "0m",
          "warning", "Group {{ $labels.group }} has put records of {{ $labels.topic }} into its dead-letter topic."),
    Alert("AppSkipsRecords", "sum by (group, topic) (increase(redbroker_client_records_skipped_total[10m])) > 0", "0m",
          "warning", "Group {{ $labels.group }} skips records of {{ $labels.topic }} that it cannot decode."),
    Alert("AppRetriesOften",
          "sum by (group, topic) (rate(redbroker_client_records_retried_total[10m]))"
          " / (sum by (group, topic) (rate(redbroker_client_records_retried_total[10m]))"
          " + sum by (group, topic) (rate(redbroker_client_records_handled_total[10m]))) > 0.1", "10m", "warning",
          "{{ $value | humanizePercentage }} of what group {{ $labels.group }} does with {{ $labels.topic }} fails."),
    Alert("AppCannotSend", "sum by (instance, topic) (increase(redbroker_client_records_failed_total[10m])) > 0", "0m",
          "critical", "App {{ $labels.instance }} could not deliver records to {{ $labels.topic }}."),
]  # fmt: skip
