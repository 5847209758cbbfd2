"""The control plane's operations as the commands call them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc

from heliostat.credentials import token_for
from heliostat_proto import control_pb2, control_pb2_grpc
from heliostat_trainer.errors import ServerUnableError
from heliostat_trainer.rollouts.failures import control_error
from heliostat_trainer.rollouts.handshake import check_wire
from heliostat_trainer.rollouts.wire import Access
from heliostat_trainer.settings.server import server_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

TIMEOUT_S = 30.0
EVENTS = 10


class Administration:
    """One server's control plane, with the user's token. Raises HeliostatError.

    The first call finds out whether the server is understood.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        """token: None for the one of the environment or kept by `heliostat login`."""
        self._url = url
        self._access = Access(token=token or token_for(url), tls=url.startswith("grpcs://"))
        self._channel = self._access.channel(server_address(url))
        self._stub: Any = control_pb2_grpc.ControlStub(self._channel)  # type: ignore[no-untyped-call]
        self._understood = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def check(self) -> None:
        """Whether the server takes the token."""
        self._call("ListExperiments", control_pb2.ListExperimentsRequest())

    def experiments(self) -> Sequence[control_pb2.Experiment]:
        """Those that the token may see."""
        answer = self._call("ListExperiments", control_pb2.ListExperimentsRequest())
        experiments: Sequence[control_pb2.Experiment] = answer.experiments
        return experiments

    def experiment(self, name: str) -> control_pb2.Experiment:
        """One experiment."""
        return self._experiment("GetExperiment", control_pb2.ExperimentRequest(experiment=name))

    def events(self, name: str) -> Sequence[control_pb2.Event]:
        """Its latest events, newest first."""
        request = control_pb2.ListEventsRequest(experiment=name, count=EVENTS)
        events: Sequence[control_pb2.Event] = self._call("ListEvents", request).events
        return events

    def create(self, name: str, **terms: Any) -> str:
        """Make an experiment; answers a token."""
        request = control_pb2.CreateExperimentRequest(
            experiment=name, share=control_pb2.ShareChange(**terms)
        )
        return str(self._call("CreateExperiment", request).token)

    def change(self, name: str, **terms: Any) -> None:
        """Change its terms; None leaves one as it is."""
        request = control_pb2.ChangeExperimentRequest(
            experiment=name, share=control_pb2.ShareChange(**terms)
        )
        self._call("ChangeExperiment", request)

    def delete(self, name: str) -> None:
        """Forget it."""
        self._call("DeleteExperiment", control_pb2.ExperimentRequest(experiment=name))

    def issue_token(self, name: str) -> str:
        """One more token."""
        request = control_pb2.ExperimentRequest(experiment=name)
        return str(self._call("IssueToken", request).token)

    def revoke_tokens(self, name: str) -> int:
        """Make its tokens void; answers how many."""
        request = control_pb2.ExperimentRequest(experiment=name)
        return int(self._call("RevokeTokens", request).revoked)

    def roll_back(self, name: str, version: int) -> int:
        """Publish a kept version again; answers the new one."""
        request = control_pb2.VersionRequest(experiment=name, version=version)
        return int(self._call("RollBack", request).version)

    def pin(self, name: str, version: int) -> control_pb2.Experiment:
        """Keep a version."""
        request = control_pb2.VersionRequest(experiment=name, version=version)
        return self._experiment("Pin", request)

    def unpin(self, name: str, version: int) -> control_pb2.Experiment:
        """Let a version go."""
        request = control_pb2.VersionRequest(experiment=name, version=version)
        return self._experiment("Unpin", request)

    def _experiment(self, method: str, request: object) -> control_pb2.Experiment:
        answer: control_pb2.Experiment = self._call(method, request)
        return answer

    def _call(self, method: str, request: object) -> Any:
        if not self._understood:
            self._check_wire()
        return self._ask(method, request)

    def _check_wire(self) -> None:
        # A server that has no engine yet cannot say what it is, and can be administered all the same.
        with suppress(ServerUnableError):
            check_wire(self._ask("Info", control_pb2.InfoRequest()), self._url)
        self._understood = True

    def _ask(self, method: str, request: object) -> Any:
        try:
            return getattr(self._stub, method)(
                request, timeout=TIMEOUT_S, metadata=self._access.metadata
            )
        except grpc.RpcError as error:
            raise control_error(error, self._url) from error
