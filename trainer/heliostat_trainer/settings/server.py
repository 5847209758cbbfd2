"""[server]: the rollout servers, and how their addresses are written."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 (pydantic reads it)
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from heliostat_engines.settings import Count, Seconds, Settings
from heliostat_trainer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_PORT = 8600
TLS_SCHEME = "grpcs"


class ServerSection(Settings):
    """[server]: the rollout server's control plane."""

    url: str | Annotated[tuple[str, ...], Field(min_length=1)] = f"grpc://127.0.0.1:{DEFAULT_PORT}"
    """grpc://host:port, or host:port; grpcs://host:port for a server with TLS. Several, as a list,
    are replicas on one store: groups are drawn by whichever has room, and one may go and come back."""
    token_file: Path | None = None
    """A file with a token, of this experiment or the administrator's, relative to the working
    directory. Before it HELIOSTAT_TOKEN is tried, and after it what `heliostat login` has kept. A
    server on this machine needs none of them."""
    authority_file: Path | None = None
    """With grpcs://: the certificates (PEM) that the server's must be signed by; by default the
    system's."""
    patience_s: Seconds = 120.0
    """How long the trainer waits for a server that is gone or cannot go on, of several for the last, before
    it gives up."""
    groups_in_flight: Count = 4
    """Group requests that are queued at the server at once, at each of several."""

    @field_validator("url")
    @classmethod
    def _is_grpc(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        addresses = [server_address(each) for each in one_or_more(url)]
        for address in addresses:
            if addresses.count(address) > 1:
                raise ConfigError(f"server.url names {address} twice: name each server once")
        return url

    @property
    def urls(self) -> tuple[str, ...]:
        """All of them."""
        return one_or_more(self.url)


def one_or_more(url: str | Sequence[str]) -> tuple[str, ...]:
    """The URLs of one server or several."""
    return (url,) if isinstance(url, str) else tuple(url)


def server_address(url: str) -> str:
    """host:port of `grpc://host:port` or `host:port`.

    Raises:
        ConfigError: it is neither; says what to write.
    """
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme not in {"grpc", TLS_SCHEME}:
        raise ConfigError(
            f"server.url is the control plane's gRPC address, grpc://host:port, not {url!r}: the "
            f"dashboard's {scheme} address does not serve trainers"
        )
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})", rest.rstrip("/"))
    if match is None or not 0 < int(match[2]) < 65536:
        raise ConfigError(
            f"server.url {url!r} is no address: write grpc://host:port, "
            f"e.g. grpc://127.0.0.1:{DEFAULT_PORT}"
        )
    return match[0]
