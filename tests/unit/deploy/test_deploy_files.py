"""The deployment files say what this version understands: variables, commands, probes, broker."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.ports import free_ports
from vector_db.common.adapters.nats_bus import NatsBus
from vector_db.common.adapters.nats_server import find_binary
from vector_db.common.core.messages.reads import ConfirmRequest
from vector_db.common.core.subjects import LogName
from vector_db.common.model.limits import BROKER_PAYLOAD_BYTES_MAX
from vector_db.common.model.urls import split_urls
from vector_db.common.ports import BusTimeout, BusUnavailable
from vector_db.common.service.cli import BUILT_IN, Target
from vector_db.common.service.config import CONFIG_VARIABLE, Config, settings, variable_name

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
STACK = DEPLOY / "swarm" / "stack.yml"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
MANIFESTS = sorted((DEPLOY / "k8s").glob("*.yaml"))
KNOWN = {variable_name(*setting) for setting in settings()} | {CONFIG_VARIABLE}
TARGETS = {target.value for target in Target}


def documents() -> list[dict[str, Any]]:
    """Every Kubernetes object in the manifests."""
    return [d for f in MANIFESTS for d in yaml.safe_load_all(f.read_text()) if d is not None]


def objects(*kinds: str) -> list[dict[str, Any]]:
    """Those of the given kinds."""
    return [d for d in documents() if d["kind"] in kinds]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, pod spec) of every workload."""
    for document in objects("Deployment", "StatefulSet"):
        yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def ours(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Its containers that run `vector-db`."""
    return [c for c in pod["containers"] if c["command"][0] == "vector-db"]


def pod_environment(container: dict[str, Any]) -> dict[str, str]:
    """What the container's process would find, with a stand-in for each secret."""
    maps = {d["metadata"]["name"]: d["data"] for d in objects("ConfigMap")}
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]
    for variable in container.get("env", []):
        value = variable.get("value")
        if value is None:
            value = "4" if "resourceFieldRef" in variable["valueFrom"] else "stand-in"
        value = re.sub(r"\$\((\w+)\)", lambda m: environment[m[1]], value)
        environment[variable["name"]] = value
    return environment


def stack() -> dict[str, Any]:
    """The Swarm stack, its anchors resolved."""
    loaded: dict[str, Any] = yaml.safe_load(STACK.read_text())
    return loaded


def stack_services() -> dict[str, dict[str, Any]]:
    """Those services of the stack that run `vector-db`."""
    return {n: s for n, s in stack()["services"].items() if "entrypoint" not in s}


def is_run_command(words: list[str]) -> bool:
    return len(words) == 2 and words[0] == "run" and "run" in BUILT_IN and words[1] in TARGETS


def test_every_variable_that_a_file_names_is_a_setting() -> None:
    for file in [STACK, DOCKERFILE, DEPLOY / "README.md", *MANIFESTS]:
        named = set(re.findall(r"VECTOR_DB_[A-Z_]+", file.read_text()))
        assert named <= KNOWN, file


def test_every_pod_starts_with_the_configuration_it_is_given(tmp_path: Path) -> None:
    seen = set()
    for name, pod in pods():
        for container in ours(pod):
            config = Config.load(None, pod_environment(container))
            assert config.server.auth_required, name
            assert not config.server.loopback_only, name
            urls = split_urls(config.server.nats_url or "")
            hosts = [urlsplit(url).hostname for url in urls]
            assert hosts == [f"nats-{i}.nats" for i in range(nats_pods())], name
            assert config.server.stream_replicas == len(hosts)
            seen.add(container["command"][2])
    assert seen == TARGETS - {"all"}


def test_every_stack_service_starts_with_the_configuration_it_is_given(tmp_path: Path) -> None:
    secret = tmp_path / "vector-db.yaml"
    secret.write_text("server:\n  api_key: stand-in\n")
    image = dict(re.findall(r"(VECTOR_DB_[A-Z_]+)=(\S+)", DOCKERFILE.read_text()))
    brokers = [n for n, s in stack()["services"].items() if s.get("entrypoint") == ["nats-server"]]
    for name, service in stack_services().items():
        targets = [s["target"] for s in service["secrets"]]
        environment = image | service["environment"]
        assert environment[CONFIG_VARIABLE] == f"/run/secrets/{targets[0]}", name
        environment[CONFIG_VARIABLE] = str(secret)
        config = Config.load(None, environment)
        assert config.server.auth_required, name
        hosts = [urlsplit(url).hostname for url in split_urls(config.server.nats_url or "")]
        assert hosts == brokers
        assert config.server.stream_replicas == len(hosts)


def test_every_command_is_one_of_the_program() -> None:
    for name, pod in pods():
        for container in pod["containers"]:
            if container["command"] != ["nats-server"]:
                assert container["command"][0] == "vector-db", name
                assert is_run_command(container["command"][1:]), name
    for name, service in stack_services().items():
        assert is_run_command(service["command"]), name
    text = DOCKERFILE.read_text()
    assert 'ENTRYPOINT ["vector-db"]' in text and 'CMD ["run", "all"]' in text


def test_probes_ask_live_and_ready_on_a_port_that_the_container_opens() -> None:
    for name, pod in pods():
        assert pod["enableServiceLinks"] is False, name
        for container in ours(pod):
            ports = {p["name"]: p["containerPort"] for p in container["ports"]}
            live, ready = container["livenessProbe"], container["readinessProbe"]
            assert live["httpGet"]["path"] == "/livez", name
            assert ready["httpGet"]["path"] == "/readyz", name
            port = ports[live["httpGet"]["port"]]
            config = Config.load(None, pod_environment(container))
            gateway = container["command"][2] == "gateway"
            assert port == (config.server.http_port if gateway else config.server.admin_port)
            start_s = container["startupProbe"]["periodSeconds"]
            start_s *= container["startupProbe"]["failureThreshold"]
            assert start_s >= config.server.start_timeout_s, name
            assert pod["terminationGracePeriodSeconds"] > config.server.drain_timeout_s, name


def test_shard_data_outlives_a_pod() -> None:
    (shard,) = [d for d in objects("StatefulSet") if d["metadata"]["name"] == "vector-db-shard"]
    (claim,) = shard["spec"]["volumeClaimTemplates"]
    container = shard["spec"]["template"]["spec"]["containers"][0]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == claim["metadata"]["name"]]
    directory = Config.load(None, pod_environment(container)).storage.data_dir
    assert directory.is_relative_to(mount["mountPath"])


def test_selectors_of_services_and_workloads_find_their_pods() -> None:
    workloads = objects("Deployment", "StatefulSet")
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in workloads]
    selectors = [d["spec"]["selector"]["matchLabels"] for d in workloads]
    for selector in selectors + [d["spec"]["selector"] for d in objects("Service")]:
        assert sum(selector.items() <= label.items() for label in labels) == 1


def test_the_kustomization_lists_every_manifest() -> None:
    (listing,) = objects("Kustomization")
    named = set(listing["resources"])
    assert named == {f.name for f in MANIFESTS} - {"kustomization.yaml"}


def nats_pods() -> int:
    """How many brokers there are."""
    (nats,) = [d for d in objects("StatefulSet") if d["metadata"]["name"] == "nats"]
    return int(nats["spec"]["replicas"])


def nats_arguments(platform: str, index: int) -> list[str]:
    """The command line of one broker, without its configuration file."""
    if platform == "swarm":
        command: list[str] = stack()["services"][f"nats-{index + 1}"]["command"]
    else:
        (container,) = dict(pods())["nats"]["containers"]
        named = {"POD_NAME": f"nats-{index}", "NATS_PASSWORD": "stand-in"}
        command = [
            re.sub(r"\$\((\w+)\)", lambda m: named[m[1]], argument)
            for argument in container["args"]
        ]
    assert command[:2] == ["-c", "/etc/nats/nats.conf"]
    return command[2:]


def nats_configuration(platform: str) -> str:
    if platform == "swarm":
        return (DEPLOY / "swarm" / "nats.conf").read_text()
    (found,) = [d for d in objects("ConfigMap") if d["metadata"]["name"] == "vector-db-nats"]
    return str(found["data"]["nats.conf"])


@pytest.mark.parametrize("platform", ["swarm", "k8s"])
def test_the_broker_accepts_its_configuration(tmp_path: Path, platform: str) -> None:
    text = nats_configuration(platform)
    file = tmp_path / "nats.conf"
    file.write_text(text)
    environment = {**os.environ, "NATS_PASSWORD": "stand-in"}
    checked = subprocess.run(
        [str(find_binary()), "-t", "-c", str(file)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert checked.returncode == 0, checked.stderr
    assert f"max_payload: {BROKER_PAYLOAD_BYTES_MAX}\n" in text
    assert "jetstream" in text


@pytest.mark.parametrize("platform", ["swarm", "k8s"])
async def test_the_brokers_find_each_other(tmp_path: Path, platform: str) -> None:
    """Their files and command lines, with addresses of this machine for those of the platform."""
    ports = {
        name: dict(zip(("4222", "6222", "8222"), free_ports(3), strict=True))
        for name in (["nats-1", "nats-2", "nats-3"] if platform == "swarm" else
                     ["nats-0.nats", "nats-1.nats", "nats-2.nats"])
    }  # fmt: skip

    def here(text: str, own: str) -> str:
        for name, taken in ports.items():
            text = text.replace(f"{name}:6222", f"127.0.0.1:{taken['6222']}")
        for port, free in ports[own].items():
            text = text.replace(f"0.0.0.0:{port}", f"127.0.0.1:{free}")
        return text.replace("/var/lib/vector-db", str(tmp_path / own))

    running = []
    try:
        for index, own in enumerate(ports):
            file = tmp_path / f"{own}.conf"
            file.write_text(here(nats_configuration(platform), own))
            arguments = [here(argument, own) for argument in nats_arguments(platform, index)]
            running.append(
                await asyncio.create_subprocess_exec(
                    *(str(find_binary()), "-c", str(file), *arguments),
                    env={**os.environ, "NATS_PASSWORD": "stand-in"},
                    stderr=asyncio.subprocess.DEVNULL,
                )
            )
        user = "" if platform == "swarm" else "vector-db:stand-in@"
        url = ",".join(f"nats://{user}127.0.0.1:{taken['4222']}" for taken in ports.values())
        async with asyncio.timeout(60.0):
            while True:
                try:
                    bus = await NatsBus.connect(url, "test", replicas=3)
                    break
                except (BusUnavailable, BusTimeout):
                    await asyncio.sleep(0.05)
            log = LogName("TEST", "test")
            await bus.create_log(log)
            assert await bus.append_acked(log, ConfirmRequest(term=1), 20.0) == 1
            info = await bus._link.api("STREAM.INFO.TEST", None, 20.0)
            assert info["config"]["num_replicas"] == 3
            await bus.close()
    finally:
        for process in running:
            process.kill()
            await process.wait()


def test_the_image_installs_every_service_as_an_unprivileged_user() -> None:
    text = DOCKERFILE.read_text()
    for folder in ("libs/common", "services/gateway", "services/coordinator", "services/shard"):
        assert f"./{folder}" in text
        assert (DEPLOY.parent / folder / "pyproject.toml").exists()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text and "-c constraints.txt" in text
