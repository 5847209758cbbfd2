"""The manifests, as kustomize builds them."""

from __future__ import annotations

import base64
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from heliostat_server.sampling.metrics import ExploreMetrics
from tests.docker.deployment import (
    ROOT,
    build_kubernetes,
    check_options,
    containers,
    find_tool,
    kubernetes_commands,
    read_compose,
)

if TYPE_CHECKING:
    from pathlib import Path

Resource = dict[str, Any]
VERSIONS = ("1.31", "1.37")
"""Of Kubernetes: the oldest and the newest that is checked."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kubernetes")


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def resources(request: pytest.FixtureRequest, folder: Path) -> list[Resource]:
    return build_kubernetes(f"overlays/{request.param}", folder)


def pick(resources: list[Resource], kind: str) -> dict[str, Resource]:
    return {each["metadata"]["name"]: each for each in resources if each["kind"] == kind}


def pods(resources: list[Resource]) -> dict[str, Resource]:
    workloads = pick(resources, "Deployment") | pick(resources, "StatefulSet")
    return {name: workload["spec"]["template"] for name, workload in workloads.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_they_follow_kubernetes_schema(
    resources: list[Resource], version: str, tmp_path: Path
) -> None:
    check_schema(resources, version, tmp_path)


def check_schema(resources: list[Resource], version: str, tmp_path: Path) -> None:
    built = tmp_path / "built.yaml"
    built.write_text(yaml.safe_dump_all(resources))
    run = subprocess.run(
        [find_tool("kubernetes-validate"), "--strict", "-k", version, str(built)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (run.stdout + run.stderr).count(" passed ") == len(resources)


def test_every_pod_is_restricted(resources: list[Resource]) -> None:
    for name, pod in pods(resources).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name
            assert container["resources"]["limits"]["memory"], name


def test_selectors_find_their_pods_and_no_others(resources: list[Resource]) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(resources).items()}
    selectors = {
        (kind, name): each["spec"]["selector"].get("matchLabels", each["spec"]["selector"])
        for kind in ("Service", "PodDisruptionBudget", "Deployment", "StatefulSet")
        for name, each in pick(resources, kind).items()
    }
    assert len(selectors) >= 7
    for (kind, name), selector in selectors.items():
        found = {pod for pod, its in labels.items() if selector.items() <= its.items()}
        assert found == {name}, (kind, name)


def test_services_lead_to_ports_that_are_listened_to(resources: list[Resource]) -> None:
    for name, service in pick(resources, "Service").items():
        listened = {
            port["name"]: port["containerPort"] for port in containers(resources)[name]["ports"]
        }
        for port in service["spec"]["ports"]:
            assert listened[port["targetPort"]] == port["port"], name
    assert pick(resources, "Service")["triton"]["spec"]["clusterIP"] == "None"


def test_commands_are_ones_that_the_program_takes(resources: list[Resource]) -> None:
    commands = kubernetes_commands(resources)
    triton, control = (check_options(commands[name].arguments) for name in ("triton", "control"))
    ports = {
        name: {port["containerPort"] for port in containers(resources)[name]["ports"]}
        for name in ("triton", "control")
    }
    assert ports["triton"] == {triton["rollout_port"], triton["metrics_port"]}
    assert ports["control"] == {control["port"], control["http_port"]}
    assert control["triton_url"] == f"triton:{triton['rollout_port']}"
    assert control["redis"] == triton["redis"] == "redis://redis:6379/0"


def test_nobody_reaches_redis_but_triton_and_the_control_plane(resources: list[Resource]) -> None:
    policies = pick(resources, "NetworkPolicy")
    assert policies["deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (rule,) = policies["redis"]["spec"]["ingress"]
    (peer,) = rule["from"]
    (expression,) = peer["podSelector"]["matchExpressions"]
    assert set(expression["values"]) == {"triton", "control"}
    labels = {pod["metadata"]["labels"][expression["key"]] for pod in pods(resources).values()}
    assert set(expression["values"]) < labels


def test_policies_name_ports_that_there_are(resources: list[Resource]) -> None:
    for name, policy in pick(resources, "NetworkPolicy").items():
        for rule in policy["spec"].get("ingress", ()):
            ports = {port["name"] for port in containers(resources)[name]["ports"]}
            assert {port["port"] for port in rule["ports"]} <= ports


def test_secrets_are_files_under_the_names_that_commands_have(resources: list[Resource]) -> None:
    secrets = pick(resources, "Secret")
    keys = {key for secret in secrets.values() for key in secret["data"]}
    assert keys == {"admin_token", "redis_password"}
    assert all(
        base64.b64decode(value) for each in secrets.values() for value in each["data"].values()
    )
    for name, pod in pods(resources).items():
        (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "secrets")
        sources = volume.get("projected", {}).get("sources", [volume])
        names = {each["secret"].get("name", each["secret"].get("secretName")) for each in sources}
        assert names <= secrets.keys(), name
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/docker/kubernetes/base/secrets/" in ignored


def test_what_is_mounted_is_a_volume(resources: list[Resource]) -> None:
    claims = {"redis": {"data"}}
    for name, pod in pods(resources).items():
        volumes = {each["name"] for each in pod["spec"].get("volumes", ())} | claims.get(
            name, set()
        )
        mounted = {each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
        assert mounted == volumes, name


def test_the_gpu_overlay_asks_for_gpus_and_serves_an_engine(folder: Path) -> None:
    triton = containers(build_kubernetes("overlays/gpu", folder))["triton"]
    assert triton["image"] == "heliostat:gpu"
    assert triton["resources"]["limits"]["nvidia.com/gpu"] == "1"
    engine = check_options(["heliostat", *triton["args"]])["engine"]
    assert str(engine).startswith("/engines/")
    assert "/engines" in {mount["mountPath"] for mount in triton["volumeMounts"]}


def test_compose_and_kubernetes_run_the_same_redis(resources: list[Resource]) -> None:
    service = read_compose()["services"]["redis"]
    container = containers(resources)["redis"]
    assert container["image"] == service["image"]
    assert container["args"] == service["command"]


def test_the_monitor_finds_the_metrics_port(folder: Path) -> None:
    (monitor,) = yaml.safe_load_all(
        (folder / "kubernetes/components/service-monitor/service-monitor.yaml").read_text()
    )
    service = pick(build_kubernetes("overlays/cpu", folder), "Service")["triton"]
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.fixture(scope="module")
def autoscaled(folder: Path) -> list[Resource]:
    return build_kubernetes("overlays/autoscaled", folder)


def test_the_autoscaler_follows_kubernetes_schema(
    autoscaled: list[Resource], tmp_path: Path
) -> None:
    own = [each for each in autoscaled if each["kind"] != "ServiceMonitor"]  # another's schema
    for version in VERSIONS:
        check_schema(own, version, tmp_path)


def test_the_autoscaler_scales_triton_by_a_metric_that_the_server_has(
    autoscaled: list[Resource],
) -> None:
    (scaler,) = pick(autoscaled, "HorizontalPodAutoscaler").values()
    triton = pick(autoscaled, "Deployment")["triton"]
    target = scaler["spec"]["scaleTargetRef"]
    assert target == {key: triton[key] for key in ("apiVersion", "kind")} | {"name": "triton"}
    assert "replicas" not in triton["spec"]
    (metric,) = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert ExploreMetrics().registry.get_sample_value(name) == 0


def test_the_adapters_rule_gives_the_autoscaler_its_metric(
    autoscaled: list[Resource], folder: Path
) -> None:
    (scaler,) = pick(autoscaled, "HorizontalPodAutoscaler").values()
    (metric,) = scaler["spec"]["metrics"]
    path = folder / "kubernetes/components/autoscaling/prometheus-adapter.yaml"
    (rule,) = yaml.safe_load(path.read_text())["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert re.fullmatch(rule["name"]["matches"], name)
    assert rule["seriesQuery"].startswith(name + "{")
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
