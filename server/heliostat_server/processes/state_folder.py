"""The state folder: what outlives the server's process, and who runs on it now."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from datetime import datetime  # noqa: TC003 (pydantic reads it)
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from heliostat_engines.errors import FolderBusyError
from heliostat_engines.files.atomic import atomic_text, claim_folder
from heliostat_engines.files.locks import locked
from heliostat_engines.files.ownership import Layout
from heliostat_engines.files.secret import read_token
from heliostat_server.errors import ServerRunningError
from heliostat_server.processes.processes import ProcessId  # noqa: TC001 (pydantic reads it)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


LOCK = "lock"
RECORD = "server.json"
LAYOUT = Layout(
    kind="the state of a server",
    advice="give another folder with --state",
    required=frozenset({LOCK, RECORD}),
    patterns=(
        "admin.token",
        "backends/*",
        "models/*",
        "models.json",
        "redis/*",
        "redis.log",
        "redis.sock=",
        "serve.log",
        "triton.log",
        "triton.log.1",
        f"{RECORD}.new",
        "admin.new",
    ),
)


class TritonPorts(BaseModel):
    """Where Triton listens."""

    model_config = ConfigDict(frozen=True)

    grpc: int
    metrics: int | None = None
    """None: there is no such page."""


class ServerRecord(BaseModel):
    """Who runs on a state folder, and where; kept after the end for its ports."""

    model_config = ConfigDict(frozen=True)

    launcher: ProcessId
    started: datetime
    control: str | None = None
    """host:port of the control plane: what a trainer is pointed at."""
    http: str | None = None
    """URL of the dashboard and the HTTP API."""
    rollout: str | None = None
    """host:port of Triton's gRPC endpoint."""
    ports: TritonPorts | None = None
    triton: ProcessId | None = None
    valkey: ProcessId | None = None
    ready: bool = False
    doing: str = ""
    """What it is at while it starts."""


class StateFolder:
    """Paths and the record of one server's state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def digest(self) -> str:
        """A short name of this folder, for things that live outside it."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:16]

    @property
    def models(self) -> Path:
        """Triton's model repository, as staged for this server."""
        return self.path / "models"

    @property
    def model_settings(self) -> Path:
        """The JSON file that the models read."""
        return self.path / "models.json"

    @property
    def backends(self) -> Path:
        """Triton's backend directory, if assembled by us."""
        return self.path / "backends"

    @property
    def admin_token(self) -> Path:
        """The administrator's token, unless it is given."""
        return self.path / "admin.token"

    def read_admin_token(self) -> str:
        """The administrator's token. Raises SecretError: no server has run here."""
        return read_token(self.admin_token, "the administrator's token")

    @property
    def redis(self) -> Path:
        """The embedded store's files."""
        return self.path / "redis"

    @property
    def triton_log(self) -> Path:
        """What tritonserver and the models say."""
        return self.path / "triton.log"

    @property
    def redis_log(self) -> Path:
        """What the embedded store says."""
        return self.path / "redis.log"

    def claim(self) -> None:
        """Make the folder, unless it is there. Raises FilesError: it is none of a server's."""
        claim_folder(self.path, LAYOUT, mode=0o700)

    @contextmanager
    def locked(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Own the folder. warn: is told if the file system has no locks.

        Raises:
            ServerRunningError: another server owns it.
            FilesError: it is none of a server's.
        """
        self.claim()
        advice = f"{self._where()}use that one, stop it, or give another folder with --state"
        try:
            with locked(self.path / LOCK, "heliostat serve", advice, warn):
                yield
        except FolderBusyError as error:
            raise ServerRunningError(f"the state folder {error}") from error

    def read_record(self) -> ServerRecord | None:
        """The last server's record; None if there is none that can be read."""
        try:
            return ServerRecord.model_validate_json(self._record_path.read_text())
        except (OSError, ValueError):
            return None

    def write_record(self, record: ServerRecord) -> None:
        """Replace the record, atomically."""
        atomic_text(self._record_path, record.model_dump_json(indent=2))

    @property
    def _record_path(self) -> Path:
        return self.path / RECORD

    def _where(self) -> str:
        """Where the server answers that runs on the folder, if one does and has said so."""
        record = self.read_record()
        return f"it answers at {record.control}; " if record and record.control else ""
