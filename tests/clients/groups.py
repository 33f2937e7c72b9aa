"""The scene that every client's group tests play: a topic under steady load, and members that come and go.

No record may be missed, and one may be processed twice only if the member that had it crashed before its commit, or
its commit was refused. In the end the group has committed every partition's end.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from examples.clients import QUIET
from redbroker.config import Settings
from redbroker.engine import Engine
from tests.clients.conftest import Cluster
from tests.support.group_members import Member

PARTITIONS = 6
SESSION_MS = 2_000
HEARTBEAT_MS = 300
SETTLE_S = 20.0


class Load:
    """A producer of numbered records over all partitions, about 200 a second, until it is stopped."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.sent = 0
        self.failed: list[str] = []
        self._stopping = threading.Event()
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True}, logger=QUIET)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            for _ in range(2):
                self._producer.produce(
                    self._topic, b"%d" % self.sent, partition=self.sent % PARTITIONS, on_delivery=self._told
                )
                self.sent += 1
            self._producer.poll(0)

    def _told(self, error: Any, _message: Any) -> None:
        if error is not None:
            self.failed.append(str(error))

    def stop(self) -> None:
        """Wait until everything is acknowledged."""
        self._stopping.set()
        self._thread.join()
        assert self._producer.flush(30) == 0
        assert not self.failed


class Scene:
    """One topic, one group, its members so far."""

    def __init__(self, cluster: Cluster, client: str, topic: str, **config: Any) -> None:
        self.cluster, self.client, self.topic, self.config = cluster, client, topic, config
        self.group = f"group of {topic}"
        self.members: list[Member] = []
        self.load: Load | None = None

    def join(self, **config: Any) -> Member:
        """One more member."""
        given = {
            "bootstrap": self.cluster.bootstrap, "group": self.group, "topic": self.topic,
            "storage": self.cluster.storage_url,
            "session_timeout_ms": SESSION_MS, "heartbeat_ms": HEARTBEAT_MS, **self.config, **config,
        }  # fmt: skip
        client = given.pop("client", self.client)
        self.members.append(Member(client, **given))
        return self.members[-1]

    def settled(self, *members: Member, within_s: float = SETTLE_S) -> float:
        """Wait until exactly these hold all partitions, each one somebody's; gives the seconds it took."""

        def shared_out() -> bool:
            held = sorted(partition for each in members for partition in each.assigned)
            return held == list(range(PARTITIONS)) and all(each.assigned for each in members)

        return self.wait(shared_out, "the partitions are shared out", within_s)

    def wait(self, condition: Callable[[], bool], what: str, within_s: float = SETTLE_S) -> float:
        """Seconds until a condition holds."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}: {self.members}"
            time.sleep(0.02)
        return time.monotonic() - began

    def processed(self) -> Counter[int]:
        """How often each number was processed."""
        return Counter(number for each in self.members for _, _, number in each.records)

    def committed(self) -> list[int]:
        """What the group has committed, per partition."""
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap}, logger=QUIET)
        [answer] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.group)]).values()
        offsets = {each.partition: each.offset for each in answer.result(20).topic_partitions}
        return [offsets.get(partition, -1) for partition in range(PARTITIONS)]

    def epochs(self) -> tuple[int, dict[str, int]]:
        """The group's generation or epoch, and its members' (-1 in classic groups), as Redis has them."""

        async def read() -> tuple[int, dict[str, int]]:
            async with Engine.open(Settings(storage_url=self.cluster.storage_url)) as engine:
                group = await engine.groups.get(self.group)
                assert group is not None
                return group.epoch, {member_id: each.epoch for member_id, each in group.sessions().items()}

        return asyncio.run(read())

    def ends(self) -> list[int]:
        """The end of each partition."""
        consumer = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": "nobody"}, logger=QUIET)
        try:
            partitions = [TopicPartition(self.topic, partition) for partition in range(PARTITIONS)]
            return [consumer.get_watermark_offsets(each, 20)[1] for each in partitions]
        finally:
            consumer.close()

    def finish(self, *members: Member) -> None:
        """Stop the load, let these members read everything, let them leave, and look at what is left behind."""
        assert self.load
        self.load.stop()
        sent = self.load.sent
        self.wait(lambda: len(self.processed()) == sent, "everything is processed")
        for each in members:
            each.leave()
        times = self.processed()
        assert set(times) == set(range(sent))
        doubtful = {number for each in self.members for number in each.doubtful}
        assert {number for number, count in times.items() if count > 1} <= doubtful
        assert self.ends() == [len(range(partition, sent, PARTITIONS)) for partition in range(PARTITIONS)]
        assert self.committed() == self.ends()


@contextmanager
def a_scene(cluster: Cluster, client: str, topic: str, **config: Any) -> Iterator[Scene]:
    """A scene with its load running; members and load end with it."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap}, logger=QUIET)
    admin.create_topics([NewTopic(topic, PARTITIONS, -1)])[topic].result(20)
    scene = Scene(cluster, client, topic, **config)
    scene.load = Load(cluster, topic)
    try:
        yield scene
    finally:
        if not scene.load.failed:
            scene.load._stopping.set()
        for each in scene.members:
            each.close()


def members_come_and_go(cluster: Cluster, client: str, topic: str, **config: Any) -> None:
    """Three members join, one leaves, one crashes, and both come back, while records keep coming."""
    with a_scene(cluster, client, topic, **config) as scene:
        first = scene.join()
        scene.settled(first)
        second, third = scene.join(), scene.join()
        scene.settled(first, second, third)
        third.leave()
        scene.settled(first, second)
        second.kill()
        scene.settled(first)
        fourth, fifth = scene.join(), scene.join()
        scene.settled(first, fourth, fifth)
        scene.finish(first, fourth, fifth)


def node_modules() -> Path | str:
    """A folder with kafkajs in it, or why there is none."""
    if not (shutil.which("npm") and shutil.which("node")):
        return "no npm on this machine"
    folder = Path(tempfile.gettempdir()) / f"redbroker-kafkajs-{KAFKAJS}"
    if not (folder / "node_modules" / "kafkajs" / "package.json").exists():
        folder.mkdir(exist_ok=True)
        words = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
        try:
            done = subprocess.run(
                [*words, f"kafkajs@{KAFKAJS}"], capture_output=True, text=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired:
            return "the npm registry does not answer"
        if done.returncode:
            return f"kafkajs cannot be installed: {done.stderr.strip()[-200:]}"
    return folder / "node_modules"


KAFKAJS = "2.2.4"
