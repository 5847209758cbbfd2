"""`heliostat serve`: its options are the server's settings, each declared once."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_server.settings import LimitSettings, ServeSettings


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ServeSettings:
    """What the server would be started with; it is not."""
    started: list[ServeSettings] = []
    monkeypatch.setattr(
        "heliostat_server.serve.serve", lambda settings, _remember: started.append(settings)
    )
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 0, result.output
    (settings,) = started
    return settings


def flags() -> set[str]:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {flag for option in command.get_params(typer.Context(command)) for flag in option.opts}


def test_every_setting_has_an_option() -> None:
    keys = {key for key in ServeSettings.model_fields if key != "limits"}
    assert {f"--{key.replace('_', '-')}" for key in keys} <= flags()
    assert {f"--limits.{key}" for key in LimitSettings.model_fields} <= flags()


def test_without_options_the_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELIOSTAT_DEVICE", raising=False)
    assert settings_of(monkeypatch) == ServeSettings()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--batch 48", {"limits": {"batch": 48}}),
        ("--limits.batch 48", {"limits": {"batch": 48}}),
        ("--limits.max_steps 7 --max-prompt-chars 9", {"limits": {"max_steps": 7, "max_prompt_chars": 9}}),
        ("--wait 3", {"wait_s": 3.0}),
        ("--precision nvfp4-w4a16 --precision-map wide", {"precision": "nvfp4-w4a16", "precision_map": "wide"}),
        ("--no-control --port 0", {"control": False, "port": 0}),
        ("--print-triton-log", {"print_triton_log": True}),
        ("--state 123 --tls-name 456", {"state": Path("123"), "tls_name": "456"}),
        ("--slots 3 --max-restarts 0 --score-threads 2", {"slots": 3, "max_restarts": 0, "score_threads": 2}),
        ("--keep-versions 2 --max-rank 8", {"keep_versions": 2, "max_rank": 8}),
    ],
)  # fmt: skip
def test_what_is_given_is_what_the_server_gets(
    monkeypatch: pytest.MonkeyPatch, arguments: str, expected: dict[str, object]
) -> None:
    monkeypatch.delenv("HELIOSTAT_DEVICE", raising=False)
    asked = ServeSettings.model_validate(expected)
    assert settings_of(monkeypatch, *arguments.split()) == asked


def test_the_device_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_DEVICE", "cpu")
    assert settings_of(monkeypatch).device == "cpu"
    assert settings_of(monkeypatch, "--device", "gpu").device == "gpu"
