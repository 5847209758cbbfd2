"""`heliostat serve`: its options are the server's settings, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_engines.settings.marks import Flag, marks
from heliostat_engines.settings.places import field_at, places, table_kinds
from heliostat_engines.settings.writing import toml_text
from heliostat_server.errors import RewardSettingsError
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


@dataclass(frozen=True)
class Place:
    """A setting, and a value that it does not have by default."""

    place: str

    @property
    def field(self) -> Any:
        field = field_at(ServeSettings, self.place.split("."))
        assert field is not None
        return field

    @property
    def value(self) -> Any:
        """Of the field's first type: whatever it is, it must be settable."""
        kind, *others = _types(self.field.annotation)
        default = self.field.default
        if isinstance(default, tuple):
            return (4, 5)
        if not isinstance(kind, type):
            return next(one for one in (kind, *others) if one != default)
        if issubclass(kind, Enum):
            return next(one.value for one in kind if one != default)
        if kind is bool:
            return not default
        if kind is int:
            return (default or 3) + 1
        return NOT_ANY_WORDS.get(self.place, {float: 7.5, str: "words", Path: str(FILE)}[kind])

    @property
    def flag(self) -> str:
        return f"--{self.place}" if "." in self.place else f"--{self.place.replace('_', '-')}"

    def given(self, value: Any) -> dict[str, Any]:
        """What a file says, with what it cannot be without."""
        section, _, key = self.place.rpartition(".")
        return COMPANIONS.get(self.place, {}) | (
            {section: {key: value}} if section else {key: value}
        )

    def words(self, flag: str, value: Any) -> list[str]:
        if isinstance(value, tuple):
            return [word for each in value for word in (flag, str(each))]
        if isinstance(value, bool):
            return [flag if value else f"--no-{flag[2:]}"]
        return [flag, str(value)]

    def of(self, settings: ServeSettings) -> Any:
        found: Any = settings
        for part in self.place.split("."):
            found = getattr(found, part)
        return found


FILE = Path("some.file")
NOT_ANY_WORDS = {"adapters_url": "s3://bucket/prefix"}
"""Texts that have to be of a kind."""
COMPANIONS = {
    "triton_url": {"redis": "redis://h"},
    "redis_password_file": {"redis": "redis://h"},
    "tls_certificate": {"tls_key": str(FILE)},
    "tls_key": {"tls_certificate": str(FILE)},
}
"""What a setting cannot be without."""
SETTINGS = [Place(place) for place in places(ServeSettings)]
EVERY = pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: each.place)
OF_VARIABLES = [
    (each, mark.variable)
    for each in SETTINGS
    for mark in marks(each.field, Flag)
    if mark.variable is not None
]


def _types(annotation: Any) -> list[Any]:
    """The types that a value may have, and of literals the values themselves."""
    inner = [one for one in get_args(annotation) if one is not type(None)]
    return [each for one in inner for each in _types(one)] if inner else [annotation]


@cache
def explained() -> str:
    result = CliRunner().invoke(app, ["config", "server", "--explain"])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a server.toml, with a file beside it; the working directory is another."""
    monkeypatch.delenv("HELIOSTAT_DEVICE", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / FILE).touch()
    return tmp_path


def server_toml(folder: Path, sections: dict[str, Any]) -> str:
    path = folder / "server.toml"
    path.write_text(toml_text(sections))
    return str(path)


@EVERY
def test_every_setting_can_be_set_by_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, setting: Place
) -> None:
    path = server_toml(folder, setting.given(setting.value))
    value = setting.of(settings_of(monkeypatch, path))
    assert value == (folder / FILE if isinstance(value, Path) else setting.value)
    assert value != setting.field.default


@EVERY
def test_every_setting_can_be_set_by_each_of_its_flags_and_they_go_before_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, setting: Place
) -> None:
    others = [mark.flag for mark in marks(setting.field, Flag) if mark.flag]
    path = server_toml(folder, COMPANIONS.get(setting.place, {}))
    expected = folder / FILE if setting.value == str(FILE) else setting.value
    for flag in (setting.flag, *others):
        settings = settings_of(monkeypatch, path, *setting.words(flag, expected))
        assert setting.of(settings) == expected
    default = setting.field.default
    if default not in {None, ()}:  # of a list the command line only says what is in it
        path = server_toml(folder, setting.given(setting.value))
        words = setting.words(setting.flag, getattr(default, "value", default))
        assert setting.of(settings_of(monkeypatch, path, *words)) == default


@pytest.mark.parametrize(("setting", "variable"), OF_VARIABLES)
def test_a_setting_that_has_a_variable_is_set_by_it_before_the_file_and_after_flags(
    folder: Path, monkeypatch: pytest.MonkeyPatch, setting: Place, variable: str
) -> None:
    default = str(getattr(setting.field.default, "value", setting.field.default))
    path = server_toml(folder, setting.given(default))
    monkeypatch.setenv(variable, str(setting.value))
    assert setting.of(settings_of(monkeypatch, path)) == setting.value
    flagged = settings_of(monkeypatch, path, *setting.words(setting.flag, default))
    assert setting.of(flagged) == setting.field.default


@EVERY
def test_every_setting_is_explained(setting: Place) -> None:
    meaning = setting.field.description
    assert meaning, f"{setting.place} has no documentation"
    assert " ".join(meaning.split()) in explained()
    result = CliRunner().invoke(app, ["config", "server", setting.place])
    assert f"{setting.place.rpartition('.')[2]} " in result.stdout


def test_every_kind_of_reward_is_explained() -> None:
    for kind in table_kinds(ServeSettings, "rewards"):
        for key, field in kind.model_fields.items():
            assert key == "kind" or " ".join(str(field.description).split()) in explained()


def test_rewards_are_set_by_the_file_by_another_and_by_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = ({"kind": "plugin", "plugin": name} for name in ("one", "two"))
    path = server_toml(folder, {"rewards": {"a": one, "b": one, "c": one}})
    (folder / "rewards.toml").write_text(toml_text({"rewards": {"b": two}}))
    words = ("--rewards", str(folder / "rewards.toml"), "--rewards.c.plugin", "three")
    rewards: Any = settings_of(monkeypatch, path, *words).rewards
    assert {name: each.plugin for name, each in rewards.items()} == {
        "a": "one", "b": "two", "c": "three",
    }  # fmt: skip
    new = ("--rewards.ocr_fails.kind=success", "--rewards.ocr_fails.reward", "ocr")
    refused = CliRunner().invoke(app, ["serve", *new])
    assert isinstance(refused.exception, RewardSettingsError)
    assert str(refused.exception) == "[rewards.ocr_fails], at_least: Field required"


def test_the_judges_options_replace_its_table_whose_other_keys_are_set_as_any_tables(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = server_toml(
        folder, {"rewards": {"vlm_judge": {"url": "http://a", "model": "a", "attempts": 2}}}
    )
    words = ("--vlm-judge-url", "http://b", "--vlm-judge-model", "b")
    rewards: Any = settings_of(monkeypatch, path, *words).rewards
    judge = rewards["vlm_judge"]
    assert (judge.url, judge.model, judge.attempts) == ("http://b", "b", 5)
    words = (*words, "--rewards.vlm_judge.concurrency", "4")
    changed: Any = settings_of(monkeypatch, path, *words).rewards
    assert changed["vlm_judge"] == judge.model_copy(update={"concurrency": 4})


def test_a_key_may_be_written_as_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--max_rank", "8", "--tls_name=x_y", "--keep_versions=2")
    settings = settings_of(monkeypatch, *words)
    assert (settings.max_rank, settings.tls_name, settings.keep_versions) == (8, "x_y", 2)


def test_the_settings_that_hold_are_printed_and_nothing_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliostat_server.serve.serve", pytest.fail)
    monkeypatch.setenv("HELIOSTAT_DEVICE", "cpu")
    secret = ("--vlm-judge-url", "http://x", "--vlm-judge-model", "m", "--vlm-judge-key", "s3cr3t")
    path = server_toml(folder, {"state": "st", "limits": {"batch": 8}})
    result = CliRunner().invoke(app, ["serve", path, "--print-settings", "--slots", "2", *secret])
    assert result.exit_code == 0, result.output
    assert "s3cr3t" not in result.output
    (folder / "printed.toml").write_text(result.stdout)
    monkeypatch.undo()
    monkeypatch.delenv("HELIOSTAT_DEVICE", raising=False)
    again = settings_of(monkeypatch, str(folder / "printed.toml"))
    assert (again.device, again.state, again.slots, again.limits.batch) == (
        "cpu", folder / "st", 2, 8,
    )  # fmt: skip


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
        ("--resolution-px 832x1216", {"resolution_px": (832, 1216)}),
        ("--resolution-px 512 --resolutions-px 832x1216 --resolutions-px 64", {"resolution_px": 512, "limits": {"resolutions_px": [(832, 1216), 64]}}),
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
