"""A rollout server's control plane: what it serves, which adapters it has of ours, and new ones.

Threads share what was published (`PublishedAdapters`); each has a control plane of its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from heliostat_engines.errors import HeliostatError
from heliostat_engines.machine.given_back import GivenBack
from heliostat_proto import control_pb2
from heliostat_trainer.errors import ServerRefusedError
from heliostat_trainer.rollouts.handshake import check_wire
from heliostat_trainer.rollouts.service import NOTHING_TOLD
from heliostat_trainer.types import PublishedAdapter, ServerInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_trainer.rollouts.connection import Connection
    from heliostat_trainer.rollouts.service import Told


KEPT = 3
"""As many versions as a server keeps of an experiment."""


class PublishedAdapters:
    """The adapters last published, to publish again if the server has lost its state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, AdapterFiles] = {}
        self._versions: dict[str, int] = {}
        self.told = NOTHING_TOLD
        """What goes with each of them: the latest."""

    def keep(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> None:
        """Remember an adapter that is about to be published; the oldest beyond three is dropped."""
        sha256 = files.sha256
        with self._lock:
            self.told = told
            self._files.pop(sha256, None)
            self._files[sha256] = files
            for old in list(self._files)[:-KEPT]:
                del self._files[old]
                self._versions.pop(old, None)

    def published(self, adapter: PublishedAdapter) -> None:
        """Note the version that it was given; one not above all others means a new state."""
        with self._lock:
            others = [v for sha256, v in self._versions.items() if sha256 != adapter.sha256]
            if adapter.version <= max(others, default=0):
                self._versions.clear()
            self._versions[adapter.sha256] = adapter.version

    def seen(self, latest: int) -> None:
        """Forget all versions if the server's latest is older than ours: it has a new state."""
        with self._lock:
            if latest < max(self._versions.values(), default=0):
                self._versions.clear()

    def version(self, sha256: str) -> int | None:
        """The version under which the server has it; None if it has to be published again."""
        with self._lock:
            return self._versions.get(sha256)

    def files(self, sha256: str) -> AdapterFiles:
        """What to publish again."""
        with self._lock:
            return self._files[sha256]


CHUNK_BYTES = 1 << 20
PUBLISH_TIMEOUT_S = 120.0
"""Of an adapter that has arrived: the server tries it before it is a version."""
REST_TIMEOUT_S = 330.0
"""Models move all their weights, once they have answered what they are at."""
SLOWEST_UPLOAD = 2**20
"""Bytes a second: a larger adapter has more time to arrive."""


class ControlPlane:
    """Asks once: who is to wait for the server goes through `Connection.patiently`."""

    def __init__(
        self,
        connection: Connection,
        published: PublishedAdapters,
        *,
        check: Callable[[ServerInfo], None] = lambda _: None,
        has_replicas: bool = False,
    ) -> None:
        """check: refuses a server that says of itself what does not fit.

        has_replicas: others may have given it our adapters, so it is asked which it has.
        """
        self.connection = connection
        self.published = published
        self._check = check
        self._has_replicas = has_replicas

    def anew(self) -> ControlPlane:
        """The same one over another connection, for another thread."""
        return ControlPlane(
            self.connection.anew(),
            self.published,
            check=self._check,
            has_replicas=self._has_replicas,
        )

    @property
    def experiment(self) -> str:
        """Whose adapters they are."""
        return self.connection.caller.experiment

    def info(self) -> ServerInfo:
        """Model, limits and rewards, asked anew."""
        answer = self.connection.ask("Info", control_pb2.InfoRequest(experiment=self.experiment))
        check_wire(answer, self.connection.url)
        info = ServerInfo.read(answer, self.connection.address)
        self._check(info)
        self.connection.info = info
        return info

    def known_info(self) -> ServerInfo | None:
        """As it was said last; None if it has to be asked anew, as more may be asked of it by now."""
        info = self.connection.info
        if info is None:
            return None
        try:
            self._check(info)
        except HeliostatError:
            return None
        return info

    def publish(self, files: AdapterFiles) -> PublishedAdapter:
        """Make an adapter the experiment's next version."""
        messages = _publish_requests(self.experiment, files, self.published.told)
        timeout_s = PUBLISH_TIMEOUT_S + len(files.tensors) / SLOWEST_UPLOAD
        answer = self.connection.ask("Publish", messages, timeout_s)
        if answer.sha256 != files.sha256:
            raise ServerRefusedError(
                f"published adapter {files.sha256[:12]}, the server holds {answer.sha256[:12]}"
            )
        adapter = PublishedAdapter(
            self.experiment,
            answer.version,
            answer.sha256,
            answer.bound_modules,
            answer.target_modules,
        )
        self.published.published(adapter)
        return adapter

    def rest(self) -> GivenBack:
        """Have all models give their memory back, until the next request."""
        request = control_pb2.ExperimentRequest(experiment=self.experiment)
        answer = self.connection.ask("Rest", request, REST_TIMEOUT_S)
        return GivenBack(answer.memory_bytes, answer.seconds)

    def version(self, adapter: PublishedAdapter, info: ServerInfo) -> int | None:
        """The version under which the server has an adapter; None if it has to be published again.

        info: what it has just said.
        """
        if self._has_replicas:
            return self._version_held(adapter)
        self.published.seen(info.latest_version)
        return self.published.version(adapter.sha256)

    def _version_held(self, adapter: PublishedAdapter) -> int | None:
        request = control_pb2.ExperimentRequest(experiment=self.experiment)
        answer = self.connection.ask("GetExperiment", request)
        held = [each.version for each in answer.versions if each.sha256 == adapter.sha256]
        return max(held, default=None)


def _publish_requests(
    experiment: str, files: AdapterFiles, told: Told
) -> Iterator[control_pb2.PublishRequest]:
    yield control_pb2.PublishRequest(
        header=control_pb2.AdapterHeader(
            experiment=experiment,
            sha256=files.sha256,
            config=files.config,
            tensor_bytes=len(files.tensors),
            tuned=told.tuned,
            step=None if told.step is None else told.step.message(),
        )
    )
    for start in range(0, len(files.tensors), CHUNK_BYTES):
        yield control_pb2.PublishRequest(chunk=bytes(files.tensors[start : start + CHUNK_BYTES]))
