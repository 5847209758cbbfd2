"""Triton's entry to heliostat_server.triton.explore."""

from heliostat_server.triton.explore import TritonReply, request_timeout_s, start_explore
from heliostat_server.triton.settings import start_model
from heliostat_server.triton.tensors import read_seeds, read_spec


class TritonPythonModel:
    """Queues requests; they are answered as their batches finish."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once, at load."""
        self._service = start_explore(start_model(args))

    def execute(self, requests: list) -> None:
        """Called with requests; answers come later."""
        for request in requests:
            self._service.submit(
                read_spec(request),
                read_seeds(request) or [],
                TritonReply(request),
                request_timeout_s(request),
            )

    def finalize(self) -> None:
        """Called once, at unload."""
        self._service.close()
