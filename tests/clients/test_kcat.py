"""kcat against two workers: Debian's brings librdkafka 2.0.2, which misreads tagged fields that carry defaults."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.clients.conftest import Cluster

KCAT = shutil.which("kcat") or shutil.which("kafkacat")

pytestmark = pytest.mark.skipif(KCAT is None, reason="no kcat on this machine")


def kcat(cluster: Cluster, *words: str, stdin: bytes = b"") -> bytes:
    assert KCAT is not None
    done = subprocess.run([KCAT, "-b", cluster.bootstrap, *words], input=stdin, capture_output=True, timeout=40)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_lines_come_back_as_they_were_sent_under_every_codec(cluster: Cluster, topic: str, codec: str) -> None:
    lines = b"".join(b"key%d:value%d\n" % (number, number) for number in range(500))
    kcat(cluster, "-P", "-t", topic, "-p", "0", "-K", ":", "-z", codec, stdin=lines)
    assert kcat(cluster, "-C", "-t", topic, "-p", "0", "-K", ":", "-o", "beginning", "-e", "-q") == lines


def test_headers_null_values_and_large_records_come_back(cluster: Cluster, topic: str) -> None:
    kcat(cluster, "-P", "-t", topic, "-p", "0", "-K", ":", "-Z", "-H", "a=1", "-H", "b=2", stdin=b"gone:\n")
    large = b"x" * 900_000
    kcat(cluster, "-P", "-t", topic, "-p", "0", stdin=large)
    told = [
        json.loads(line)
        for line in kcat(cluster, "-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q", "-J").splitlines()
    ]
    assert (told[0]["key"], told[0]["payload"], told[0]["headers"]) == ("gone", None, ["a", "1", "b", "2"])
    assert told[1]["payload"].encode() == large


def test_metadata_lists_both_workers_and_the_partitions(cluster: Cluster, topic: str) -> None:
    kcat(cluster, "-P", "-t", topic, stdin=b"v\n")
    told = json.loads(kcat(cluster, "-L", "-J", "-t", topic))
    assert {broker["name"] for broker in told["brokers"]} == {f"127.0.0.1:{port}" for port in cluster.ports}
    [described] = told["topics"]
    assert len(described["partitions"]) == 4
    assert {part["leader"] for part in described["partitions"]} <= {broker["id"] for broker in told["brokers"]}


def test_reading_starts_at_a_number_an_end_or_a_time(cluster: Cluster, topic: str) -> None:
    kcat(cluster, "-P", "-t", topic, "-p", "0", stdin=b"".join(b"%d\n" % number for number in range(10)))
    read = ("-C", "-t", topic, "-p", "0", "-e", "-q")
    assert kcat(cluster, *read, "-o", "7") == b"7\n8\n9\n"
    assert kcat(cluster, *read, "-o", "-2") == b"8\n9\n"
    assert kcat(cluster, *read, "-o", "s@1000") == b"".join(b"%d\n" % number for number in range(10))
    assert json.loads(kcat(cluster, "-Q", "-J", "-t", f"{topic}:0:1000"))[topic]["0"]["offset"] == 0


def test_an_idempotent_kcat_is_served(cluster: Cluster, topic: str) -> None:
    kcat(cluster, "-P", "-t", topic, "-X", "enable.idempotence=true", stdin=b"a\nb\n")
    assert sorted(kcat(cluster, "-C", "-t", topic, "-o", "beginning", "-e", "-q").split()) == [b"a", b"b"]
