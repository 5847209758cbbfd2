"""What is said of the settings of any model: sections, keys above them, and tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from heliostat_engines.errors import ConfigError
from heliostat_engines.settings import Count, Settings
from heliostat_engines.settings.marks import Flag
from heliostat_engines.settings.reference import SectionReference, look_up, reference


class Limits(Settings):
    """[limits]: what a caller may ask for.

    And more, which is left out.
    """

    batch: Annotated[Count, Flag("--batch", "BATCH")] = 24
    """Images drawn
    at once."""


class Scorer(Settings):
    """Another process."""

    kind: Literal["http", "https"]
    url: str
    """Where it is."""


class Plugin(Settings):
    """An installed package."""

    kind: Literal["plugin"] = "plugin"
    options: dict[str, Any] = Field(default_factory=dict)
    """For it."""


class Program(Settings):
    """Of a program."""

    port: Count | None = None
    """Where it listens."""
    limits: Limits = Limits()
    """Limits."""
    rewards: dict[str, Annotated[Scorer | Plugin, Field(discriminator="kind")]] = Field(
        default_factory=dict
    )
    """Rewards."""


def keys(sections: tuple[SectionReference, ...]) -> list[tuple[str, list[str]]]:
    return [(each.heading, [setting.key for setting in each.settings]) for each in sections]


def test_keys_above_come_first_and_tables_have_a_heading_for_each_kind() -> None:
    assert keys(reference(Program)) == [
        ("", ["port"]),
        ("[limits]", ["batch"]),
        ('[rewards.NAME] kind = "http" | "https"', ["url"]),
        ('[rewards.NAME] kind = "plugin"', ["options"]),
    ]


def test_a_setting_has_values_default_and_meaning_with_what_its_marks_say() -> None:
    ((batch,), (url,), (options,)) = (
        look_up(Program, place)[0].settings
        for place in ("limits", "rewards.url", "rewards.options")
    )
    assert (batch.values, batch.default) == ("integer >= 1", "24")
    assert batch.meaning == "Images drawn at once. Also --batch and BATCH."
    assert (url.values, url.default) == ("text", None)
    assert (options.values, options.default) == ("table", "{}")
    assert look_up(Program, "limits")[0].meaning == "what a caller may ask for."


@pytest.mark.parametrize("place", ["port", "limits.batch", "rewards.options"])
def test_a_key_is_looked_up_alone(place: str) -> None:
    ((_, (key,)),) = keys(look_up(Program, place))
    assert place.endswith(key)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("prt", "unknown setting prt: did you mean port?"),
        ("port.x", "unknown setting port.x: did you mean port?"),
        ("batch", "unknown setting batch: the nearest is limits.batch"),
        ("limit.batch", "unknown setting limit: did you mean limits?"),
        ("rewards.option", "unknown setting rewards.option: did you mean rewards.options?"),
        ("", "unknown setting : the nearest is port"),
    ],
)
def test_what_there_is_not_names_the_nearest(place: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        look_up(Program, place)
    assert str(error.value) == sentence
