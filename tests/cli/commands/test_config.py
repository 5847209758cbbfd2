"""`heliostat config`: of a run and of a server."""

from __future__ import annotations

from typer.testing import CliRunner

from heliostat.cli import app


def test_both_meanings_of_server_are_told_apart() -> None:
    """The section of a run stays what it was; behind server, a key is the server's."""
    runner = CliRunner()
    run = runner.invoke(app, ["config", "server.url"]).stdout
    both = runner.invoke(app, ["config", "server"]).stdout
    assert "grpc://127.0.0.1:8600" in run
    assert "max_rank" not in run
    assert "grpc://127.0.0.1:8600" in both
    assert "max_rank" in both
    assert "grpc://" not in runner.invoke(app, ["config", "server", "limits"]).stdout
    refused = runner.invoke(app, ["config", "recipe", "limits.batch"])
    assert refused.exit_code == 2
    assert "'limits.batch' follows 'recipe'" in refused.output
