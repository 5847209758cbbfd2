"""Triton's entry to heliostat_server.models.text_encoder."""

from heliostat_server.models.process import start_model
from heliostat_server.models.text_encoder import TextEncoderModel


class TritonPythonModel:
    """Answers requests in turn."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once, at load."""
        self._model = TextEncoderModel(start_model(args))

    def execute(self, requests: list) -> list:
        """Called with requests."""
        return self._model.execute(requests)
