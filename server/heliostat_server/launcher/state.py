"""The state folder: what outlives the server's process, and who runs on it now."""

from __future__ import annotations

import fcntl
import hashlib
from contextlib import contextmanager
from datetime import datetime  # noqa: TC003 (pydantic reads it)
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from heliostat_engines.secret import read_token
from heliostat_server.errors import ServerRunningError
from heliostat_server.launcher.processes import ProcessId  # noqa: TC001 (pydantic reads it)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder. Raises ServerRunningError if another server does."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ServerRunningError(self._who_runs()) from error
            yield

    def read_record(self) -> ServerRecord | None:
        """The last server's record; None if there is none that can be read."""
        try:
            return ServerRecord.model_validate_json(self._record_path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_record(self, record: ServerRecord) -> None:
        """Replace the record, atomically."""
        draft = self._record_path.with_suffix(".json.new")
        draft.write_text(record.model_dump_json(indent=2))
        draft.replace(self._record_path)

    @property
    def _record_path(self) -> Path:
        return self.path / "server.json"

    def _who_runs(self) -> str:
        record = self.read_record()
        if record is None:
            return (
                f"a rollout server is just starting on the state folder {self.path}: wait for it, "
                "or give another folder with --state"
            )
        where = f"at {record.control}" if record.control else "and is still starting"
        return (
            f"a rollout server already runs on the state folder {self.path}: process "
            f"{record.launcher.pid} {where}; use that one, stop it, or give another folder with "
            "--state"
        )
