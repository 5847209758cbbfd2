"""Pods of the manifests under a container engine, run as a kubelet runs them.

Their own commands, mounts, users and limits; probes say who is ready; what exits or does not answer is started
again; a pod that is deleted is replaced; a service's name leads to its ready pods. A field that nothing here obeys
is an error: what ran would be another pod.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from tests.docker.engine import GATEWAY
from tests.docker.names import DOMAIN, resolver, serve_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from tests.docker.engine import Engine

Resource = dict[str, Any]
SANDBOX = "debian-root:test"
"""Holds a pod's address while its container comes and goes."""
BACK_OFF_S = 10.0
PAUSE_S = 0.5
SERVING = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse."""
OF_THE_SCHEDULER = {"topologySpreadConstraints", "tolerations"}
"""Where a pod runs: here is one node."""
SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def size(text: str) -> int:
    """Bytes, of a quantity."""
    return int(text[:-2]) * SIZES[text[-2:]]


def expand(text: str, variables: dict[str, str]) -> str:
    """$(NAME) of what is known; $(anything else) stays."""
    return re.sub(r"\$\(([^)]*)\)", lambda match: variables.get(match[1], match[0]), text)


def take(fields: dict[str, Any], *known: str) -> list[Any]:
    """Their values; nothing else may be set."""
    unknown = fields.keys() - set(known)
    assert not unknown, f"nothing here obeys {sorted(unknown)}"
    return [fields.get(name) for name in known]


class Probe:
    """Of a container, and how often in a row it failed."""

    def __init__(self, spec: dict[str, Any]) -> None:
        how = dict(spec)
        self._period_s, self._timeout_s, self._threshold = (
            how.pop(name) for name in ("periodSeconds", "timeoutSeconds", "failureThreshold")
        )
        ((self._kind, self._how),) = how.items()
        self._failures = 0
        self._due = 0.0
        self.passed = False

    def ask(self, pod: Pod) -> None:
        """Ask once, if it is time."""
        if time.monotonic() < self._due:
            return
        answered = getattr(pod, f"probe_{self._kind.lower()}")(self._how, self._timeout_s)
        self._due = time.monotonic() + self._period_s
        self._failures = 0 if answered else self._failures + 1
        # One failure does not take what is ready out of service.
        self.passed = answered or (self.passed and not self.failed)

    @property
    def failed(self) -> bool:
        """Too often in a row."""
        return self._failures >= self._threshold


@dataclass
class Pod:
    """One, with its address and its volumes; its container is replaced, these stay."""

    docker: Engine
    name: str
    owner: Resource
    template: Resource
    folder: Path
    namespace: str
    links: dict[str, str]
    """Environment variables of the services that there are."""
    secrets: dict[str, dict[str, bytes]]
    claims: Path
    address: str = ""
    restarts: int = -1
    deleted: bool = False
    probes: dict[str, Probe] = field(default_factory=dict)
    due: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"]["labels"])

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.template["spec"])

    @property
    def container(self) -> dict[str, Any]:
        (only,) = self.spec["containers"]
        return dict(only)

    @property
    def ports(self) -> dict[str, int]:
        return {each["name"]: each["containerPort"] for each in self.container["ports"]}

    @property
    def ready(self) -> bool:
        return not self.deleted and {"startupProbe", "readinessProbe"} <= {
            name for name, probe in self.probes.items() if probe.passed
        }

    def begin(self) -> None:
        """Its address, and its volumes; the container comes with the first `sync`."""
        dns = [part for line in resolver(self.namespace, GATEWAY) for part in _dns_options(line)]
        self.docker.docker(
            *("run", "--detach", "--name", f"{self.name}-sandbox", "--hostname", self.name),
            *(*dns, SANDBOX, "sleep", "infinity"),
        )
        place = "{{.NetworkSettings.IPAddress}}"
        asked = self.docker.docker("inspect", f"{self.name}-sandbox", "--format", place)
        self.address = asked.stdout.decode().strip()
        self.mounts = self._make_mounts()

    def sync(self) -> None:
        """Start what is not running, ask what is due, and end what has not answered for too long."""
        with self.lock:
            if self.deleted:
                return
            if not self._is_running():
                if time.monotonic() >= self.due:
                    self._start()
                return
            startup = self.probes["startupProbe"]
            asked = ("readinessProbe", "livenessProbe") if startup.passed else ("startupProbe",)
            for name in asked:
                self.probes[name].ask(self)
            if any(self.probes[each].failed for each in ("startupProbe", "livenessProbe")):
                self._stop()

    def delete(self) -> None:
        """End it; its folder goes with it."""
        with self.lock:
            self.deleted = True
            self._stop()
            self.docker.docker("rm", "--force", self.name, f"{self.name}-sandbox")
            shutil.rmtree(self.folder)

    def log(self) -> str:
        printed = self.docker.docker("logs", self.name, check=False)
        return (printed.stdout + printed.stderr).decode(errors="replace")

    def run(self, *command: str) -> str:
        """As `kubectl exec`."""
        return self.docker.docker("exec", self.name, *command).stdout.decode().strip()

    def kill(self) -> None:
        """As the kernel does."""
        self.docker.docker("kill", "--signal", "KILL", self.name)

    def probe_exec(self, how: dict[str, Any], timeout_s: float) -> bool:
        (command,) = take(how, "command")
        run = ("exec", self.name, "timeout", str(timeout_s), *command)
        return self.docker.docker(*run, check=False).returncode == 0

    def probe_httpget(self, how: dict[str, Any], timeout_s: float) -> bool:
        path, port = take(how, "path", "port")
        url = f"http://{self.address}:{self.ports[port]}{path}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=timeout_s) as answer:
                return bool(answer.status < 400)
        except (OSError, urllib.error.HTTPError):
            return False

    def probe_grpc(self, how: dict[str, Any], timeout_s: float) -> bool:
        (port,) = take(how, "port")
        with grpc.insecure_channel(f"{self.address}:{port}") as channel:
            try:
                answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=timeout_s)
            except grpc.RpcError:
                return False
        return bool(answer == SERVING)

    def _is_running(self) -> bool:
        state = ("inspect", self.name, "--format", "{{.State.Running}}")
        return self.docker.docker(*state, check=False).stdout.strip() == b"true"

    def _start(self) -> None:
        self.restarts += 1
        self.due = time.monotonic() + BACK_OFF_S * 2 ** max(0, self.restarts)
        self.docker.docker("rm", "--force", self.name, check=False)
        self.docker.docker("run", "--detach", "--name", self.name, *self._options())
        self.probes = {
            name: Probe(self.container[name])
            for name in ("startupProbe", "readinessProbe", "livenessProbe")
        }

    def _stop(self) -> None:
        grace = str(self.spec["terminationGracePeriodSeconds"])
        self.docker.docker("stop", "--time", grace, self.name, check=False)

    def _options(self) -> list[str]:
        """Of `docker run`: all that the container and its pod say."""
        *_, image, command, arguments, env, _, limits, context, _ = take(
            self.container,
            *("startupProbe", "readinessProbe", "livenessProbe", "name"),
            *("image", "command", "args", "env", "ports", "resources", "securityContext"),
            "volumeMounts",
        )
        environment = self.links | self._environment(env or ())
        started = [expand(each, environment) for each in (*(command or ()), *arguments)]
        entry = ["--entrypoint", started.pop(0)] if command else []
        variables = [part for key in environment for part in ("--env", f"{key}={environment[key]}")]
        return [
            *("--network", f"container:{self.name}-sandbox"),
            *self._identity(),
            *_closed(context),
            *("--memory", str(size(limits["limits"]["memory"]))),
            *self.mounts,
            *variables,
            *entry,
            image,
            *started,
        ]

    def _environment(self, given: Sequence[dict[str, Any]]) -> dict[str, str]:
        known = {"metadata.namespace": self.namespace, "metadata.name": self.name}
        return {
            each["name"]: each["value"]
            if "value" in each
            else known[each["valueFrom"]["fieldRef"]["fieldPath"]]
            for each in given
        }

    def _identity(self) -> list[str]:
        _, token, *_ = take(
            {key: self.spec[key] for key in self.spec.keys() - OF_THE_SCHEDULER},
            *("containers", "automountServiceAccountToken", "terminationGracePeriodSeconds"),
            *("securityContext", "volumes"),
        )
        assert token is False
        not_root, user, group, more, seccomp = take(
            self.spec["securityContext"],
            *("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile"),
        )
        assert not_root
        assert user > 0
        assert seccomp == {"type": "RuntimeDefault"}  # As the engine's own default.
        return ["--user", f"{user}:{group}", "--group-add", str(more)]

    def _make_mounts(self) -> list[str]:
        volumes = {each["name"]: each for each in self.spec.get("volumes", ())}
        for claim in self.owner["spec"].get("volumeClaimTemplates", ()):
            volumes[claim["metadata"]["name"]] = {
                "claim": f"{claim['metadata']['name']}-{self.name}"
            }
        options = []
        for mount in self.container["volumeMounts"]:
            name, place, closed = take(mount, "name", "mountPath", "readOnly")
            options += self._mount(name, dict(volumes[name]), place, bool(closed))
        return options

    def _mount(self, name: str, volume: dict[str, Any], place: str, closed: bool) -> list[str]:
        volume.pop("name", None)
        ((kind, how),) = volume.items()
        if kind == "emptyDir" and how.get("medium") == "Memory":
            options = f"tmpfs-size={size(how['sizeLimit'])},tmpfs-mode=1777"
            return ["--mount", f"type=tmpfs,destination={place},{options}"]
        if kind == "claim":
            source = self.claims / how
        else:
            source = self.folder / name
            if kind != "emptyDir":
                self._write_secrets(source, kind, how)
        source.mkdir(parents=True, exist_ok=True)
        _hand_over(
            source, self.spec["securityContext"]["fsGroup"], written=kind in {"emptyDir", "claim"}
        )
        return ["--volume", f"{source}:{place}{':ro' if closed else ''}"]

    def _write_secrets(self, folder: Path, kind: str, how: dict[str, Any]) -> None:
        """Files behind links, as the kubelet writes them so that it can change all at once."""
        mode = how["defaultMode"]
        sources = (
            how["sources"] if kind == "projected" else [{"secret": {"name": how["secretName"]}}]
        )
        (folder / "..now").mkdir(parents=True)
        (folder / "..data").symlink_to("..now")
        for source in sources:
            for key, value in self.secrets[source["secret"]["name"]].items():
                (folder / "..now" / key).write_bytes(value)
                (folder / "..now" / key).chmod(mode)
                (folder / key).symlink_to(f"..data/{key}")


class Cluster:
    """One node, and what the manifests ask of it."""

    def __init__(self, docker: Engine, folder: Path, resources: Sequence[Resource]) -> None:
        self._docker, self._folder = docker, folder
        self._services = [each for each in resources if each["kind"] == "Service"]
        self._secrets = {
            each["metadata"]["name"]: {
                key: base64.b64decode(value) for key, value in each["data"].items()
            }
            for each in resources
            if each["kind"] == "Secret"
        }
        self._workloads = [
            each for each in resources if each["kind"] in {"Deployment", "StatefulSet"}
        ]
        (self.namespace,) = (
            each["metadata"]["name"] for each in resources if each["kind"] == "Namespace"
        )
        self.pods: list[Pod] = []
        self._made = 0
        self._supervision: Future[None]
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """All pods, begun at once, for the block."""
        with serve_names(GATEWAY, self._addresses):
            for workload in self._workloads:
                for _ in range(workload["spec"]["replicas"]):
                    self._add(workload)
            with ThreadPoolExecutor() as pool:
                self._supervision = pool.submit(self._supervise)
                try:
                    yield
                finally:
                    self._ended.set()
                    self._supervision.result()
                    list(pool.map(Pod.delete, self.pods))

    def of(self, component: str) -> list[Pod]:
        """A component's pods."""
        return [each for each in self.pods if each.owner["metadata"]["name"] == component]

    def delete(self, pod: Pod) -> None:
        """As `kubectl delete pod`: its owner has another made."""
        pod.delete()
        self.pods.remove(pod)
        self._add(pod.owner)

    def settled(self) -> bool:
        """Is every pod ready?"""
        assert not self._supervision.done(), self._supervision.result()
        return all(pod.ready for pod in self.pods)

    @property
    def resolver(self) -> str:
        """The resolv.conf of a pod."""
        return "\n".join(resolver(self.namespace, GATEWAY)) + "\n"

    def _add(self, owner: Resource) -> None:
        name = owner["metadata"]["name"]
        self._made += 1
        kept = (
            owner["kind"] == "StatefulSet"
        )  # Its pods have the same name again, and the same claim.
        pod_name = f"{name}-0" if kept else f"{name}-{self._made}"
        folder = self._folder / f"pod-{self._made}"
        folder.mkdir(parents=True)
        pod = Pod(
            docker=self._docker,
            name=pod_name,
            owner=owner,
            template=owner["spec"]["template"],
            folder=folder,
            namespace=self.namespace,
            links=self._links(),
            secrets=self._secrets,
            claims=self._folder / "claims",
        )
        pod.begin()
        self.pods.append(pod)

    def _links(self) -> dict[str, str]:
        """What every container is told of services with an address of their own."""
        links = {}
        for service in self._services:
            if service["spec"].get("clusterIP") == "None":
                continue
            name = service["metadata"]["name"].upper().replace("-", "_")
            port = service["spec"]["ports"][0]["port"]
            links |= {f"{name}_SERVICE_HOST": GATEWAY, f"{name}_SERVICE_PORT": str(port)}
            links |= {f"{name}_PORT": f"tcp://{GATEWAY}:{port}"}
        return links

    def _addresses(self, name: str) -> list[str] | None:
        for service in self._services:
            if name != f"{service['metadata']['name']}.{self.namespace}.{DOMAIN}":
                continue
            selector = service["spec"]["selector"].items()
            return [
                pod.address for pod in self.pods if selector <= pod.labels.items() and pod.ready
            ]
        return None

    def _supervise(self) -> None:
        while not self._ended.wait(PAUSE_S):
            for pod in tuple(self.pods):
                pod.sync()


def _dns_options(line: str) -> list[str]:
    kind, *values = line.split()
    option = {"nameserver": "--dns", "search": "--dns-search", "options": "--dns-option"}[kind]
    return [part for value in values for part in (option, value)]


def _closed(context: dict[str, Any]) -> list[str]:
    raised, closed, capabilities = take(
        context, "allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"
    )
    options = ["--cap-drop", *capabilities["drop"]]
    options += [] if raised else ["--security-opt", "no-new-privileges"]
    return [*options, *(["--read-only"] if closed else [])]


def _hand_over(folder: Path, group: int, *, written: bool) -> None:
    """To the pod's group: what is in it has that group from then on."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            os.chown(path, -1, group)
    folder.chmod(0o2777 if written else 0o2755)
    if not written:
        (folder / "..now").chmod(0o755)
