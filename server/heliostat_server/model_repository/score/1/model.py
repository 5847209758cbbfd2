"""Triton's entry to heliostat_server.models.score."""

from heliostat_server.models.process import start_model
from heliostat_server.models.score import ScoreModel


class TritonPythonModel:
    """Answers requests in turn."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once, at load."""
        self._model = ScoreModel(start_model(args))

    def execute(self, requests: list) -> list:
        """Called with requests."""
        return self._model.execute(requests)

    def finalize(self) -> None:
        """Called once, at unload."""
        self._model.close()
