"""A bucket of an object storage, or a folder that machines share, through fsspec."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec

from heliostat_engines.errors import first_line
from heliostat_server.errors import ServerStartError, UnavailableError
from heliostat_server.urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

SETTING = "--adapters-url"
PROBE = "heliostat-probe-"
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    # Of its own it waits a minute for a connection, five times, and all of that five times.
    "s3": {
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}
    },
}
"""By protocol, for fsspec; its own settings go before them (FSSPEC_S3_..., ~/.config/fsspec)."""


class Bucket:
    """Objects under a URL, by name. Safe to share between threads.

    Credentials are those that fsspec's package for the protocol finds in the environment.
    """

    def __init__(self, url: str) -> None:
        """Raises ServerStartError: nothing here can read such a URL."""
        self.place = without_secrets(url)
        protocol = url.partition("://")[0]
        options = {**_OPTIONS.get(protocol, {}), **fsspec.config.conf.get(protocol, {})}
        try:
            self._files, root = fsspec.url_to_fs(url, **options)
        except ImportError as error:
            package = "pip install 'heliostat[s3]'" if protocol == "s3" else first_line(error)
            raise ServerStartError(
                f"{SETTING} {self.place}: the package for {protocol}:// is missing: {package}"
            ) from error
        except ValueError as error:
            raise ServerStartError(
                f"{SETTING} {self.place}: {first_line(error)}: give a URL as s3://bucket/prefix or "
                "file:///shared/folder"
            ) from error
        self._root = root.rstrip("/")

    def write(self, name: str, data: bytes) -> None:
        """Write an object. Raises UnavailableError."""
        self._answered(lambda: self._files.pipe_file(self._path(name), data))

    def read(self, name: str) -> bytes | None:
        """An object; None if it is not there. Raises UnavailableError."""
        try:
            data: bytes = self._answered(lambda: self._files.cat_file(self._path(name)))
        except _MissingError:
            return None
        return data

    def remove(self, name: str) -> None:
        """Remove an object, if it is there. Raises UnavailableError."""
        try:
            self._answered(lambda: self._files.rm_file(self._path(name)))
        except _MissingError:
            return

    def problem(self, *, writes: bool) -> str | None:
        """Why it cannot be used yet.

        writes: whether it has to be written to, which is tried with an object that is removed again.

        Raises:
            ServerStartError: waiting will not mend it.
        """
        name = PROBE + secrets.token_hex(8)
        try:
            if writes:
                self.write(name, b"heliostat")
            self.read(name)
            if writes:
                self.remove(name)
        except (_MissingError, _RefusedError) as error:
            raise ServerStartError(f"{SETTING} {error}") from error
        except UnavailableError as error:
            return str(error)
        return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _answered(self, action: Callable[[], T]) -> T:
        """What it answers. Its packages raise errors of many kinds: all that is not known is said as it is."""
        try:
            return action()
        except FileNotFoundError as error:
            raise _MissingError(
                f"{self.place} is no bucket or folder that is there: make it, or correct {SETTING}"
            ) from error
        except Exception as error:
            if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
                raise _RefusedError(
                    f"{self.place} refuses what the environment has as credentials "
                    f"({first_line(error)}): set them for this process, as AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY for s3://, or allow it to read, write and list there"
                ) from error
            raise UnavailableError(
                f"the adapters' storage at {self.place} does not answer ({first_line(error)})"
            ) from error


class _MissingError(UnavailableError):
    """There is no such object, or nothing to put it into."""


class _RefusedError(UnavailableError):
    """The credentials are missing, wrong, or not for this."""
