"""What the containers are made of and what they run: the files by their schemas, the commands as processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from examples.clients import create_topic, leaders
from redbroker.config import ENV_PREFIX, Settings
from tests.support.clusters import Cluster
from tests.support.servers import Server, free_port, started, wait_until

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
COMPOSE = ("docker-compose.yml", "deploy/localhost.yml")


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_is_one(name: str) -> None:
    whole = read(name)  # with its merge keys resolved, which the schema does not know
    whole["services"] = {key: each for key, each in whole["services"].items() if {"image", "build"} & set(each)}
    PyCompose.from_yaml(yaml.safe_dump({key: each for key, each in whole.items() if not key.startswith("x-")}))


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_mounts_what_exists_and_waits_for_who_exists(name: str) -> None:
    services = read("docker-compose.yml")["services"] | read(name)["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source
        assert set(service.get("depends_on", ())) <= set(services)


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_sets_only_settings_there_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for service in read(name)["services"].values():
        ours = {key: value for key, value in service.get("environment", {}).items() if key.startswith(ENV_PREFIX)}
        with monkeypatch.context() as patch:
            for key, value in ours.items():
                patch.setenv(key, value)
            Settings.load()


def test_the_dockerfile_is_without_reproach() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, ROOT / "workers" / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_image_is_given_all_that_the_package_is_built_of() -> None:
    lines = (ROOT / "workers" / "Dockerfile").read_text().splitlines()
    copied = {
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "redbroker"} <= copied


def test_kubernetes_takes_every_resource() -> None:
    for resource in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="no redis-cli on this machine")
def test_the_cluster_is_made_once_and_serves_the_worker_of_the_compose_file() -> None:
    options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "3000")
    nodes = [Server(*options) for _ in range(6)]
    with started(nodes):
        places = [f"127.0.0.1:{node.port}" for node in nodes]
        env = os.environ | {"NODES": " ".join(places), "CLI": "redis-cli", "PATIENCE_S": "60"}
        for words in ("the cluster is ready", "the cluster is there already"):
            done = subprocess.run(
                ["sh", ROOT / "deploy" / "cluster-init.sh"], env=env, capture_output=True, text=True, timeout=100
            )
            assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"cluster-init: {words}"), done.stderr
        wait_until(Cluster(nodes, 3).healthy, what="replicas connect")
        the_worker_serves(places)


def the_worker_serves(places: list[str]) -> None:
    """Run the entry point with the compose file's environment, the hosts being these."""
    service = read("docker-compose.yml")["services"]["worker"]["environment"]
    url = f"redis://{','.join(places[:3])}"
    port = free_port()
    env = os.environ | service | {"REDBROKER_STORAGE_URL": url, "REDBROKER_PORT": str(port)}
    worker = subprocess.Popen([sys.executable, "-m", "workers.broker"], cwd=ROOT, env=env, stdout=subprocess.PIPE)
    try:
        assert worker.stdout and worker.stdout.readline().startswith(b"ready  kafka 127.0.0.1")
        create_topic(f"127.0.0.1:{port}", "orders", 3)
        assert set(leaders(f"127.0.0.1:{port}", "orders").values()) == {f"127.0.0.1:{port}"}
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
