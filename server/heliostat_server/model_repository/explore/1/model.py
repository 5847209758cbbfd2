"""Triton's entry to heliostat_server.models.explore."""

from heliostat_server.models.explore import ExploreModel
from heliostat_server.models.process import start_model


class TritonPythonModel:
    """Queues requests; they are answered as their batches finish."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once, at load."""
        self._model = ExploreModel(start_model(args))

    def execute(self, requests: list) -> None:
        """Called with requests; answers come later."""
        self._model.execute(requests)

    def finalize(self) -> None:
        """Called once, at unload."""
        self._model.close()
