"""What the control plane does, whichever way it is asked: by gRPC, HTTP or the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict

from heliostat_server.experiments.terms import Share
from heliostat_server.store.description import ServerDescription  # noqa: TC001 (pydantic reads it)
from heliostat_server.store.keys import check_experiment
from heliostat_server.store.steps import PublishedStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_server.control.publisher import Published, Publisher
    from heliostat_server.experiments.authority import Caller
    from heliostat_server.experiments.terms import Event, Experiment, ShareChange
    from heliostat_server.store.adapters import AdapterStore
    from heliostat_server.store.experiments import ExperimentStore
    from heliostat_server.store.steps import RedisSteps
    from heliostat_wire.steps import StepReport

REST_TIMEOUT_S = 300.0
"""Of a model that first finishes what it is at, and then moves its weights."""


class RolloutEngine(Protocol):
    """What the control plane asks of the side that runs Triton."""

    @property
    def rollout_address(self) -> str:
        """host:port of Triton's gRPC endpoint, as clients reach it; no host: ours."""

    def describe(self) -> ServerDescription:
        """Engine, limits, rewards. Raises UnavailableError while it is not ready."""


class Models(Protocol):
    """What the control plane asks of all models at once."""

    def rest(self, timeout_s: float) -> GivenBack:
        """Have them give their memory back. Raises UnavailableError while candidates wait."""


class ServerInfo(BaseModel):
    """What this server is, and where rollouts are asked for."""

    model_config = ConfigDict(frozen=True)

    version: str
    rollout_address: str
    description: ServerDescription
    latest_version: int
    max_queued_images: int
    """Images that the experiment may have waiting, and so in one rollout; of none named, what is usual."""


class Operations:
    """Each checks who calls, and raises HeliostatError with one sentence for the caller."""

    def __init__(
        self,
        engine: RolloutEngine,
        experiments: ExperimentStore,
        adapters: AdapterStore,
        steps: RedisSteps,
        publisher: Publisher,
        models: Models,
        version: str,
    ) -> None:
        self._engine = engine
        self._experiments = experiments
        self._adapters = adapters
        self._steps = steps
        self._publisher = publisher
        self._models = models
        self._version = version

    def info(self, caller: Caller, experiment: str = "") -> ServerInfo:
        """What the server is, and the latest version of an experiment if one is named."""
        latest, share = 0, Share()
        if experiment:
            self._check(caller, experiment)
            latest, share = self._adapters.latest(experiment), self._experiments.share(experiment)
        description = self._engine.describe()
        return ServerInfo(
            version=self._version,
            rollout_address=self._engine.rollout_address,
            description=description,
            latest_version=latest,
            max_queued_images=min(share.max_queued_images, description.limits.max_queued_images),
        )

    def open(self, caller: Caller, experiment: str) -> str:
        """A token of an experiment, which is made if the administrator asks; "": the caller's."""
        self._check(caller, experiment)
        if not caller.is_admin:
            return ""
        if not self._experiments.exists(experiment):
            self._experiments.create(experiment)
        return self._experiments.issue_token(experiment)

    def create(self, caller: Caller, experiment: str, share: ShareChange) -> tuple[Experiment, str]:
        """Make an experiment; answers it and a token."""
        caller.check_admin()
        self._experiments.create(experiment)
        if share.changes():
            self._experiments.change(experiment, share.changes())
        return self._experiments.get(experiment), self._experiments.issue_token(experiment)

    def get(self, caller: Caller, experiment: str) -> Experiment:
        """All that is known of an experiment."""
        self._check(caller, experiment)
        return self._experiments.get(experiment)

    def all(self, caller: Caller) -> list[Experiment]:
        """The experiments that the caller may see."""
        if caller.experiment is not None:
            return [self._experiments.get(caller.experiment)]
        return self._experiments.all()

    def names(self, caller: Caller) -> list[str]:
        """Of the experiments that the caller may see, in order."""
        if caller.experiment is not None:
            return [caller.experiment]
        return self._experiments.names()

    def some(self, caller: Caller, experiments: Sequence[str]) -> list[Experiment]:
        """All that is known of some experiments; without those that are no more."""
        for experiment in experiments:
            self._check(caller, experiment)
        return self._experiments.some(experiments)

    def change(self, caller: Caller, experiment: str, share: ShareChange) -> Experiment:
        """Pause or resume an experiment, or, as the administrator, change its terms."""
        self._check(caller, experiment)
        if set(share.changes()) - {"paused"}:
            caller.check_admin()
        if share.changes():
            self._experiments.change(experiment, share.changes())
        return self._experiments.get(experiment)

    def delete(self, caller: Caller, experiment: str) -> None:
        """Forget an experiment, as `ExperimentStore.delete` does."""
        caller.check_admin()
        check_experiment(experiment)
        self._experiments.delete(experiment)

    def issue_token(self, caller: Caller, experiment: str) -> str:
        """One more token of an experiment."""
        caller.check_admin()
        check_experiment(experiment)
        return self._experiments.issue_token(experiment)

    def revoke_tokens(self, caller: Caller, experiment: str) -> int:
        """Make all tokens of an experiment void; answers how many."""
        caller.check_admin()
        check_experiment(experiment)
        return self._experiments.revoke_tokens(experiment)

    def max_adapter_bytes(self) -> int:
        """What an upload may have."""
        return self._engine.describe().limits.max_adapter_bytes

    def publish(
        self,
        caller: Caller,
        experiment: str,
        files: AdapterFiles,
        tuned: str = "",
        report: StepReport | None = None,
    ) -> Published:
        """Make an adapter an experiment's next version.

        tuned: what its run has decided last. report: of the step that the adapter comes from.
        """
        self._check(caller, experiment)
        published = self._publisher.publish(experiment, files)
        self._experiments.note(experiment, "published", f"version {published.version}")
        self._experiments.tuned(experiment, tuned)
        self._steps.add(experiment, PublishedStep(published.version, published.refit_s, report))
        return published

    def rest(self, caller: Caller, experiment: str) -> GivenBack:
        """Give an experiment's trainer the memory of the card that it shares with the server."""
        self._check(caller, experiment)
        self._engine.describe()  # While models load, their memory cannot be had.
        return self._models.rest(REST_TIMEOUT_S)

    def roll_back(self, caller: Caller, experiment: str, version: int) -> Published:
        """Make a kept version an experiment's next one."""
        self._check(caller, experiment)
        published = self._publisher.roll_back(experiment, version)
        detail = f"to version {version}, as version {published.version}"
        self._experiments.note(experiment, "rolled back", detail)
        return published

    def pin(self, caller: Caller, experiment: str, version: int) -> Experiment:
        """Keep a version however many follow."""
        self._check(caller, experiment)
        self._adapters.pin(experiment, version)
        self._experiments.note(experiment, "pinned", f"version {version}")
        return self._experiments.get(experiment)

    def unpin(self, caller: Caller, experiment: str, version: int) -> Experiment:
        """Let a version go as others do."""
        self._check(caller, experiment)
        self._adapters.unpin(experiment, version)
        self._experiments.note(experiment, "unpinned", f"version {version}")
        return self._experiments.get(experiment)

    def events(self, caller: Caller, experiment: str = "", count: int = 100) -> list[Event]:
        """The latest events that the caller may see, newest first."""
        wanted = experiment or caller.experiment
        if wanted is not None:
            self._check(caller, wanted)
        return self._experiments.events(wanted, count)

    @staticmethod
    def _check(caller: Caller, experiment: str) -> None:
        check_experiment(experiment)
        caller.check_owns(experiment)
