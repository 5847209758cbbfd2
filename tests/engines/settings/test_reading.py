"""TOML and `--section.key value`, read for any model of settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import pytest
from pydantic import Field

from heliostat_engines.errors import ConfigError
from heliostat_engines.settings import Count, Settings
from heliostat_engines.settings.marks import Secret
from heliostat_engines.settings.places import flat, known_fields, nested, places, section_kinds
from heliostat_engines.settings.reading import (
    folder_beside,
    override,
    parse_overrides,
    path_beside,
    read_toml,
    require_tables,
    resolve_paths,
    split_tables,
    validated,
)
from heliostat_engines.settings.sentences import unknown_setting

if TYPE_CHECKING:
    from pathlib import Path


class Limits(Settings):
    """What a caller may ask for."""

    batch: Count = 24
    """Images drawn at once."""


class Square(Settings):
    """One of two kinds."""

    name: Literal["square"] = "square"
    """square."""
    side: float
    """Of the square."""


class Circle(Settings):
    """The other."""

    name: Literal["circle"] = "circle"
    """circle."""
    radius: float = 1.0
    """Of the circle."""


class Server(Settings):
    """Sections, as a program has them."""

    limits: Limits = Limits()
    """Limits."""
    shape: Square | Circle = Field(Circle(), discriminator="name")
    """A section of two kinds."""


class Program(Settings):
    """Keys above all sections, and tables, besides."""

    store: Annotated[str | None, Secret()] = None
    """Where to."""
    limits: Limits = Limits()
    """Limits."""
    shapes: dict[str, Square] = Field(default_factory=dict)
    """Tables."""


def test_overrides_are_toml_or_text() -> None:
    words = ["--run.steps", "3", "--run.name=x=1", "--reward.heldout", '["a", "b"]', "--a.b", "-1"]
    assert list(parse_overrides(Server, words, example="")) == [
        ("run", "steps", 3),
        ("run", "name", "x=1"),
        ("reward", "heldout", ["a", "b"]),
        ("a", "b", -1),
    ]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("batch=3", "'batch=3' is no setting: write --section.key value, e.g. --limits.batch 3"),
        ("--batch", "did you mean --limits.batch?"),
        ("--hlep", "did you mean --help?"),
        ("--limits.batch", "--limits.batch needs a value"),
    ],
)
def test_words_that_are_no_settings_are_named(word: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        list(parse_overrides(Server, [word], ("--help",), example="--limits.batch 3"))
    assert str(error.value).endswith(sentence)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("limits.batsh", 1, "unknown setting limits.batsh: did you mean limits.batch?"),
        ("limits.drawn_at_once", 1, "unknown setting limits.drawn_at_once: the nearest is limits."),
        ("limit.batch", 1, "unknown setting limit: did you mean limits?"),
        ("limits.batch", 0, "limits.batch = 0: input should be greater than or equal to 1"),
        ("shape.name", "oval", "shape.name = 'oval': choose from square, circle"),
        ("shape.name", "square", "shape.side is missing: Of the square."),
        ("shape.side", 1, "shape.side is a setting of square, not of circle: leave it out, or set"),
        ("shape.radios", 1, "unknown setting shape.radios of circle: did you mean shape.radius?"),
    ],
)
def test_wrong_settings_are_one_sentence(place: str, value: object, sentence: str) -> None:
    settings = {"shape": {"name": "circle"}}
    section, key = place.split(".")
    override(settings, [(section, key, value)])
    with pytest.raises(ConfigError) as error:
        validated(Server, settings, "x.toml: ")
    assert str(error.value).startswith(f"x.toml: {sentence}")
    assert "\n" not in str(error.value)


def test_settings_that_fit_become_their_model() -> None:
    settings = {"limits": {"batch": 2}}
    override(settings, [("shape", "name", "square"), ("shape", "side", 3)])
    assert validated(Server, settings) == Server(limits=Limits(batch=2), shape=Square(side=3))


def test_files_are_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with pytest.raises(ConfigError, match=r"cannot read .*x\.toml: No such file"):
        read_toml(path)
    path.write_text("[limits")
    with pytest.raises(ConfigError, match=r"x\.toml is not TOML: "):
        read_toml(path)
    path.write_text("limits = 3")
    with pytest.raises(ConfigError, match=r"limits = 3 is no section: write \[limits\]"):
        require_tables(Server, read_toml(path), path)


def test_only_the_paths_that_are_named_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    settings = {"a": {"weights": "weights", "other": "weights"}, "b": 3}
    resolved = resolve_paths(
        settings,
        dict.fromkeys(("a.weights", "a.none", "b.c"), lambda it: folder_beside(it, tmp_path)),
    )
    assert resolved == {"a": {"weights": str(tmp_path / "weights"), "other": "weights"}, "b": 3}
    assert settings["a"] == {"weights": "weights", "other": "weights"}
    assert folder_beside("owner/name", tmp_path) == "owner/name"


def test_places_are_those_of_all_kinds_of_a_section() -> None:
    assert section_kinds(Server, "shape") == (Square, Circle)
    assert section_kinds(Limits, "batch") == ()
    assert places(Server) == ["limits.batch", "shape.name", "shape.side", "shape.radius"]
    assert known_fields(Server, ["limits"]) == {"batch": "Images drawn at once."}
    assert unknown_setting(Server, ["lmits"]) == "unknown setting lmits: did you mean limits?"
    dumped = Server().model_dump()
    assert nested(flat(dumped)) == dumped


def test_keys_above_all_sections_and_tables_are_set_too() -> None:
    settings: dict[str, object] = {"store": "here"}
    override(settings, [("", "store", "there"), ("shapes.a", "side", 2), ("store.x", "y", 1)])
    assert settings == {"store": "there", "shapes": {"a": {"side": 2}}}
    assert validated(Program, settings).shapes == {"a": Square(side=2)}
    assert places(Program) == ["store", "limits.batch"]


def test_what_is_said_of_tables_is_taken_from_a_command_line() -> None:
    words = [
        "x",
        "--shapes.a.side",
        "3",
        "--limits.batch",
        "2",
        "--shapes.b1.side=4",
        "--shapes.a",
        "--c.a.b",
    ]
    own, others = split_tables(Program, words)
    assert others == ["x", "--limits.batch", "2", "--shapes.a", "--c.a.b"]
    assert list(parse_overrides(Program, own)) == [
        ("shapes.a", "side", 3),
        ("shapes.b1", "side", 4),
    ]
    assert split_tables(Program, ["--shapes.a.side"]) == (["--shapes.a.side"], [])
    with pytest.raises(ConfigError, match=r"'--limits\.a\.batch' is no setting"):
        list(parse_overrides(Program, ["--limits.a.batch", "2"]))


def test_tables_have_to_be_tables_and_keys_above_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    require_tables(Program, {"store": 3, "shapes": {}}, path)
    with pytest.raises(ConfigError, match=r"x\.toml: shapes is no section: write \[shapes\.NAME\]"):
        require_tables(Program, {"shapes": 3}, path)


def test_a_secret_is_not_printed_where_it_is_wrong() -> None:
    with pytest.raises(ConfigError) as error:
        validated(Program, {"store": ["hidden"]})
    assert str(error.value) == "store: input should be a valid string"


def test_a_path_is_beside_the_file_or_of_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of-mine")
    assert path_beside("a/b", tmp_path) == tmp_path / "a" / "b"
    assert str(path_beside("~/a", tmp_path)) == "/home/of-mine/a"
    assert path_beside("~no-such-user/a", tmp_path) == tmp_path / "~no-such-user" / "a"
