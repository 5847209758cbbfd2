"""Who asks a rollout server, and its two endpoints as one thread reaches them: with which token, how patiently."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from heliostat_proto import control_pb2, control_pb2_grpc
from heliostat_trainer.errors import AskAgainError, ConfigError, TokenRefusedError
from heliostat_trainer.rollouts.failures import control_error
from heliostat_trainer.rollouts.tokens import GivenTokens
from heliostat_trainer.rollouts.wire import Access
from heliostat_trainer.settings.server import TLS_SCHEME, server_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritonclient.grpc import InferenceServerClient

    from heliostat_trainer.rollouts.patience import Waiting
    from heliostat_trainer.rollouts.tokens import Tokens
    from heliostat_trainer.types import ServerInfo


SHORTEST_SILENCE_S = 60.0


@dataclass(frozen=True)
class Caller:
    """The same for all servers that a run asks."""

    experiment: str = ""
    """Opened by the first call; empty: that of nobody, who only looks."""
    tokens: Tokens = field(default_factory=GivenTokens)
    authority_file: Path | None = None
    """PEM certificates that the servers' must be signed by; None: the system's."""
    patience_s: float = 10.0
    """For how long what fails is tried again; of several servers, while none is there."""
    groups_in_flight: int = 4
    """Queued at each server."""
    say: Callable[[str], None] = lambda _: None

    @property
    def silence_s(self) -> float:
        """How long a server may say nothing while it draws or scores, before it counts as gone."""
        return max(self.patience_s, SHORTEST_SILENCE_S)


T = TypeVar("T")

CONTROL_TIMEOUT_S = 10.0


class Connection:
    """Channels that are opened when they are needed, with the first of the caller's tokens that is taken.

    What goes through `patiently` is asked again over fresh channels if it fails for now. Threads share
    none: each has one of its own (`anew`).
    """

    def __init__(self, url: str, caller: Caller, waiting: Waiting, transport: Access) -> None:
        """transport: TLS or not; the token is found by the first call."""
        self.url = url
        self.address = server_address(url)
        self.caller = caller
        self.waiting = waiting
        self.info: ServerInfo | None = None
        """What the server said of itself last; forgotten with the channels, for its ports may change."""
        self._transport = transport
        self._access: Access | None = None
        self._channel: grpc.Channel | None = None
        self._triton: InferenceServerClient | None = None
        self._triton_address = ""

    @classmethod
    def to(cls, url: str, caller: Caller, waiting: Waiting) -> Self:
        """One to the server at a URL. Raises ConfigError."""
        return cls(url, caller, waiting, _transport(url, caller.authority_file))

    def anew(self) -> Connection:
        """Another one to the same server, for another thread."""
        other = Connection(self.url, self.caller, self.waiting.anew(), self._transport)
        other._access = self._access
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels; the next call opens new ones."""
        if self._channel is not None:
            self._channel.close()
        if self._triton is not None:
            self._triton.close()
        self._channel = self._triton = self.info = None

    def patiently(self, action: Callable[[], T]) -> T:
        """Ask again what fails for now, over fresh channels. Raises what `Waiting.call` does."""

        def attempt() -> T:
            try:
                return action()
            except AskAgainError:
                self.close()
                raise
            except TokenRefusedError:
                if self._access is None:
                    raise
                # Its state may be new, or the token revoked: there may be another one.
                self.close()
                self._access = None
                return action()

        return self.waiting.call(attempt)

    def ask(self, method: str, request: object, timeout_s: float = CONTROL_TIMEOUT_S) -> Any:
        """Call the control plane. Raises AskAgainError, ServerRefusedError, TokenRefusedError."""
        return self._ask(method, request, self.opened(), timeout_s)

    def triton(self, address: str) -> InferenceServerClient:
        """A client of the KServe endpoint at host:port, which is closed with the connection."""
        access = self.opened()
        if self._triton is not None and self._triton_address != address:
            self._triton.close()
            self._triton = None
        if self._triton is None:
            self._triton, self._triton_address = access.triton(address), address
        return self._triton

    def opened(self) -> Access:
        """What the server is opened with: the first of our tokens that it takes."""
        if self._access is None:
            self._access = self._open()
        return self._access

    def _open(self) -> Access:
        refusal = TokenRefusedError(
            f"no token for the rollout server at {self.url}: give one in HELIOSTAT_TOKEN or "
            "server.token_file, or run `heliostat login` once"
        )
        for token in self.caller.tokens.candidates():
            access = replace(self._transport, token=token)
            try:
                return self._open_with(access)
            except TokenRefusedError as error:
                refusal = error
        raise refusal

    def _open_with(self, access: Access) -> Access:
        experiment = self.caller.experiment
        if not experiment:
            self._ask("Info", control_pb2.InfoRequest(), access, CONTROL_TIMEOUT_S)
            return access
        request = control_pb2.OpenRequest(experiment=experiment)
        own = self._ask("Open", request, access, CONTROL_TIMEOUT_S).token
        if not own:
            return access
        self.caller.tokens.keep(own)
        return replace(access, token=own)

    def _ask(self, method: str, request: object, access: Access, timeout_s: float) -> Any:
        if self._channel is None:
            self._channel = access.channel(self.address)
        stub = control_pb2_grpc.ControlStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            return getattr(stub, method)(request, timeout=timeout_s, metadata=access.metadata)
        except grpc.RpcError as error:
            raise control_error(error, self.url) from error


def _transport(url: str, authority_file: Path | None) -> Access:
    """TLS or not, as a URL says. Raises ConfigError."""
    if not url.startswith(f"{TLS_SCHEME}://"):
        return Access()
    if authority_file is None:
        return Access(tls=True)
    try:
        return Access(tls=True, authorities=authority_file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"server.authority_file = {str(authority_file)!r}: {error.strerror}"
        ) from error
