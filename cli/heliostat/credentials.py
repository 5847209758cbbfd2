"""Tokens of the servers that this user has started or logged in to, for commands that need one."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from platformdirs import user_config_path

from heliostat_engines.errors import FileError, FilesError, HeliostatError, SecretError
from heliostat_engines.files.atomic import SECRET_MODE, atomic_text
from heliostat_engines.files.ownership import explained
from heliostat_engines.files.secret import sendable
from heliostat_engines.files.text import read_json
from heliostat_trainer.rollouts.tokens import ENVIRONMENT, environment_token
from heliostat_trainer.settings.server import server_address

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH_ENVIRONMENT = "HELIOSTAT_CREDENTIALS"


class CredentialsError(HeliostatError):
    """The file of tokens cannot be read or written."""


def credentials_path() -> Path:
    """The file: HELIOSTAT_CREDENTIALS, or the one in the user's settings folder; links followed."""
    given = os.environ.get(PATH_ENVIRONMENT)
    return Path(given or user_config_path("heliostat") / "credentials.json").resolve()


def known_token(url: str) -> str | None:
    """The token kept for the server at a URL. Raises CredentialsError."""
    path = credentials_path()
    token = _read(path).get(_key(url))
    try:
        return None if token is None else sendable(token, f"{path}: the token of {_key(url)}")
    except SecretError as error:
        raise CredentialsError(f"{error}, with `heliostat login --server {url}`") from error


def token_for(url: str) -> str:
    """HELIOSTAT_TOKEN, or the token kept for a server.

    Raises:
        HeliostatError: there is neither, or one that cannot be sent.
    """
    token = environment_token() or known_token(url)
    if not token:
        raise CredentialsError(
            f"no token for the rollout server at {url}: run `heliostat login --server {url}`, or "
            f"set {ENVIRONMENT}; one that you start here with `heliostat serve` needs neither"
        )
    return token


def keep_token(url: str, token: str) -> Path:
    """Keep a token for a server; answers the file. Raises CredentialsError."""
    path = credentials_path()
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(path):
                tokens = _read(path) | {_key(url): token}
                atomic_text(path, json.dumps(tokens, indent=1), SECRET_MODE)
    except FilesError as error:
        raise CredentialsError(f"{error}; set {PATH_ENVIRONMENT} to another file") from error
    return path


def remember(url: str, token: str) -> None:
    """Keep the token of a server that this user starts; one that cannot be kept is only said."""
    try:
        keep_token(url, token)
    except CredentialsError as error:
        typer.echo(f"heliostat: {error}", err=True)


def _read(path: Path) -> dict[str, str]:
    try:
        tokens = read_json(path)
    except FileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise CredentialsError(f"{error}; mend or delete it") from error
    if isinstance(tokens, dict) and all(isinstance(token, str) for token in tokens.values()):
        return tokens
    raise CredentialsError(f"{path} is no table of tokens by host:port: mend or delete it")


def _key(url: str) -> str:
    host, _, port = server_address(url).rpartition(":")
    return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
