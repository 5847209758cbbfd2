"""Every pod of the CPU overlay in a real engine: its exact command, mounts, user and limits, as a kubelet runs it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.docker.deployment import build_kubernetes
from tests.docker.kubelet import Cluster, size
from tests.docker.project import documented, draw, train, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docker.kubelet import Pod
    from tests.docker.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SECCOMP_FILTER = "2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(project: Project, folder: Path) -> Iterator[Cluster]:
    """All that `kubectl apply -k` asks for, begun at once: a cluster knows of no order."""
    project.build()
    cluster = Cluster(project.docker, folder, build_kubernetes("overlays/cpu", folder))
    with cluster.running():
        until(cluster.settled)
        yield cluster


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> str:
    *_, create = documented("Kubernetes")[0]
    before, command = create.split(" -- ")
    (control,) = cluster.of("control")
    assert before == "kubectl -n heliostat exec deploy/control"
    return control.run(*shlex.split(command))


def test_pods_wait_for_each_other(cluster: Cluster) -> None:
    assert {pod.owner["metadata"]["name"]: pod.restarts for pod in cluster.pods} == {
        "control": 0,
        "redis": 0,
        "triton": 0,
    }
    assert len(cluster.of("triton")) == 2


def test_containers_are_closed(cluster: Cluster) -> None:
    for pod in cluster.pods:
        status = pod.run("cat", "/proc/1/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        context = pod.spec["securityContext"]
        assert set(facts["Uid"].split()) == {str(context["runAsUser"])}
        assert str(context["fsGroup"]) in facts["Groups"].split()
        assert {int(facts[name], 16) for name in ("CapEff", "CapBnd")} == {0}
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == SECCOMP_FILTER
        for mount in [{"mountPath": "/usr", "readOnly": True}, *pod.container["volumeMounts"]]:
            probe = f"touch {mount['mountPath']}/x 2>/dev/null && rm {mount['mountPath']}/x && echo written || true"
            written = pod.run("sh", "-c", probe) == "written"
            assert written != mount.get("readOnly", False), (pod.name, mount)


def test_a_trainer_of_the_cluster_trains_while_pods_go(
    cluster: Cluster, token: str, tmp_path: Path
) -> None:
    """It knows the control plane by the name that docs/docker.md has, and is told Triton's."""
    (tmp_path / "resolv.conf").write_text(cluster.resolver)
    inside = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"']
    server = "grpc://control.heliostat.svc:8600"
    training = train(tmp_path, "my-run", token, server, [*inside, str(tmp_path / "resolv.conf")])
    training.at_step(1)
    cluster.delete(cluster.of("triton")[0])
    (control,) = cluster.of("control")
    control.kill()
    training.finish()
    assert [line["step"] for line in training.steps] == [1, 2, 3]
    until(cluster.settled)
    assert control.restarts == 1


def test_every_replica_draws_the_same_and_shows_its_metrics(
    cluster: Cluster, project: Project, token: str
) -> None:
    drawn = [rewards(project, cluster, pod, token) for pod in cluster.of("triton")]
    np.testing.assert_array_equal(*drawn)
    for pod in cluster.of("triton"):
        assert pod.probe_httpget({"path": "/metrics", "port": "metrics"}, 5)


def test_the_claim_keeps_all_when_redis_goes(
    cluster: Cluster, project: Project, token: str
) -> None:
    (triton, _), (redis,) = cluster.of("triton"), cluster.of("redis")
    before = rewards(project, cluster, triton, token)
    cluster.delete(redis)
    until(cluster.settled)
    np.testing.assert_array_equal(rewards(project, cluster, triton, token), before)


def test_no_volume_outgrows_its_limit(cluster: Cluster) -> None:
    for pod in cluster.pods:
        places = {each["name"]: each["mountPath"] for each in pod.container["volumeMounts"]}
        for volume in pod.spec["volumes"]:
            if limit := volume.get("emptyDir", {}).get("sizeLimit"):
                used, _ = pod.run("du", "-sk", places[volume["name"]]).split()
                assert int(used) * 1024 < size(limit), volume


def rewards(project: Project, cluster: Cluster, triton: Pod, token: str) -> np.ndarray:
    """Of the run's latest adapter, by this replica."""
    (control,) = cluster.of("control")
    addresses = (f"{triton.address}:8001", f"{control.address}:8600")
    return draw(project, token, *addresses, experiment="my-run")
