"""`heliostat login`, `experiment` and `info` against a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.credentials import keep_token, known_token
from heliostat_engines.errors import HeliostatError
from tests.server.checkpoints import random_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import ServerHarness


@pytest.fixture(autouse=True)
def own_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings" / "credentials.json"
    monkeypatch.setenv("HELIOSTAT_CREDENTIALS", str(path))
    monkeypatch.delenv("HELIOSTAT_TOKEN", raising=False)
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_an_experiments_life(server: ServerHarness) -> None:
    at = ("--server", server.url)
    with pytest.raises(HeliostatError, match="run `heliostat login"):
        run("experiment", "list", *at)
    assert "Kept in" in run("login", *at, "--token", server.admin_token)
    token = run("experiment", "create", "alice", "--weight", "2", *at).strip()
    client = server.client(token)
    files = random_adapter(client.targets())
    assert client.publish(files, "alice").version == 1
    assert client.publish(random_adapter(client.targets(), seed=1), "alice").version == 2
    client.close()
    assert "2" in next(
        line for line in run("experiment", "list", *at).splitlines() if "alice" in line
    )
    assert run("experiment", "pin", "alice", "1", *at) == "alice keeps versions 1 (pinned), 2\n"
    assert run("experiment", "rollback", "alice", "1", *at) == "version 3 is version 1 again\n"
    assert run("experiment", "unpin", "alice", "1", *at) == "alice keeps versions 1, 2, 3\n"
    run("experiment", "set", "alice", "--priority", "3", *at)
    run("experiment", "pause", "alice", *at)
    shown = run("experiment", "show", "alice", *at)
    for word in ("paused", "rolled back", "priority = 3", files.sha256[:12], "16,384 images"):
        assert word in shown
    run("experiment", "resume", "alice", *at)
    assert run("experiment", "token", "alice", *at).startswith("heliostat-")
    assert run("experiment", "revoke", "alice", *at) == "2 tokens of alice are void\n"
    run("experiment", "delete", "alice", "--yes", *at)
    assert "alice" not in run("experiment", "list", *at)
    with pytest.raises(HeliostatError, match="there is no experiment 'alice'"):
        run("experiment", "show", "alice", *at)
    assert "colourfulness" in run("info", server.url)


def test_a_token_that_the_server_refuses_is_not_kept(server: ServerHarness) -> None:
    with pytest.raises(HeliostatError, match="not valid here"):
        run("login", "--server", server.url, "--token", "guess")
    assert known_token(server.url) is None


def test_tokens_are_kept_by_server_and_for_their_owner_alone(own_credentials: Path) -> None:
    keep_token("grpc://localhost:8600", "a")
    keep_token("grpcs://elsewhere:8600", "b")
    assert (known_token("127.0.0.1:8600"), known_token("elsewhere:8600")) == ("a", "b")
    assert own_credentials.stat().st_mode & 0o777 == 0o600
    own_credentials.write_text("{")
    with pytest.raises(HeliostatError, match="mend or delete it"):
        known_token("127.0.0.1:8600")
