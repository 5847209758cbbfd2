"""Publishing: an adapter becomes a version only after the engine has taken it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Protocol

from heliostat_engines.adapters import check_adapter
from heliostat_server.errors import UnavailableError

if TYPE_CHECKING:
    from heliostat_engines.adapters import AdapterFiles
    from heliostat_proto.rollout_pb2 import LoadReport
    from heliostat_server.store.adapters import AdapterStore

LOAD_TIMEOUT_S = 120.0
AT_ONCE = 2
"""Adapters in work: the engine tries one after the other, and each takes its size in memory."""


class AdapterLoader(Protocol):
    """Where staged adapters are tried: the engine, by way of Triton."""

    def load_adapter(self, sha256: str, timeout_s: float) -> LoadReport:
        """Make it resident. Raises the reason if it is refused."""


@dataclass(frozen=True)
class Published:
    """The version that an adapter became, and how it met the model."""

    version: int
    sha256: str
    bound_modules: int
    target_modules: int
    refit_s: float
    """Until the engine had taken it."""


class Publisher:
    """Stages, tries and commits adapters."""

    def __init__(self, store: AdapterStore, loader: AdapterLoader) -> None:
        self._store = store
        self._loader = loader
        self._places = BoundedSemaphore(AT_ONCE)

    def publish(self, experiment: str, files: AdapterFiles) -> Published:
        """Make an adapter the experiment's next version, or raise and leave all as it was.

        Raises:
            AdapterError: it cannot be read.
            RequestError: the engine refuses it.
            UnavailableError: engine or store cannot be reached.
        """
        with self._places:
            check_adapter(files)
            return self._try(experiment, files)

    def roll_back(self, experiment: str, version: int) -> Published:
        """Make a kept version the experiment's next one, or raise and leave all as it was.

        Raises:
            NotFoundError: the version is not kept.
            UnavailableError: engine or store cannot be reached.
        """
        report, refit_s = self._load(self._store.resolve(experiment, version))
        next_version, sha256 = self._store.roll_back(experiment, version)
        return Published(next_version, sha256, report.bound_modules, report.target_modules, refit_s)

    def _try(self, experiment: str, files: AdapterFiles) -> Published:
        sha256 = self._store.stage(files)
        try:
            report, refit_s = self._load(sha256)
        except Exception:
            with suppress(UnavailableError):  # It goes by itself, and the reason is the other one.
                self._store.discard(sha256)
            raise
        version = self._store.commit(experiment, sha256)
        return Published(version, sha256, report.bound_modules, report.target_modules, refit_s)

    def _load(self, sha256: str) -> tuple[LoadReport, float]:
        """What the engine says of an adapter, and the seconds until it had taken it."""
        started = time.monotonic()
        report = self._loader.load_adapter(sha256, LOAD_TIMEOUT_S)
        return report, time.monotonic() - started
