"""A server.toml, and what is said of rewards on the command line beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from heliostat_engines.settings.places import field_at, places
from heliostat_engines.settings.reading import parse_overrides, split_tables
from heliostat_server.server_toml import load_settings, settings_toml
from heliostat_server.settings import ServeSettings
from tests.bad_inputs import definitions, odd, settings
from tests.bad_inputs.outcome import ACCEPTED, Outcome, Verdict, raised

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bad_inputs.sandbox import Sandbox

PLACES = places(ServeSettings)
SECRETS = {
    "redis": f'"redis://:{definitions.SECRET}@{definitions.CLOSED}/0"',
    "api_key": f'"{definitions.SECRET}"',
}
NESTED = (f'["{definitions.SECRET}"]', f'{{ a = "{definitions.SECRET}" }}')
"""Secrets where there should be none."""


@dataclass(frozen=True)
class ServerSettings:
    """A TOML's bytes, and what follows it on the command line."""

    toml: bytes
    arguments: tuple[str, ...] = ()


def fitting(place: str) -> st.SearchStrategy[str]:
    """Literals of a type that the setting may have; of secrets, secrets."""
    if place in SECRETS:
        return odd.mostly(st.just(SECRETS[place]), st.sampled_from(NESTED))
    field = field_at(ServeSettings, place.split("."))
    assert field is not None
    return settings.fitting_types([field.annotation])


@st.composite
def server_settings(draw: Callable[..., Any]) -> ServerSettings:
    sections: dict[str, Any] = {"limits": {"max_steps": "50"}}
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        section, _, key = place.rpartition(".")
        table = sections.setdefault(section, {}) if section else sections
        table[key] = draw(odd.mostly(fitting(place), settings.literals, times=5))
    if draw(st.integers(0, 7)) == 0:
        sections[draw(odd.words)] = draw(settings.literals)
    if draw(st.integers(0, 15)) == 0:
        sections["rewards"] = draw(settings.literals)
    toml = settings.toml_of(sections)
    if draw(st.integers(0, 4)) == 0:
        toml += b"\n" + draw(definitions.definitions())
    elif draw(st.integers(0, 2)) == 0:
        judge = {"url": '"http://127.0.0.1:1"', "model": '"m"', "api_key": draw(fitting("api_key"))}
        toml += b"\n" + settings.toml_of({"rewards.vlm_judge": judge})
    if draw(st.integers(0, 14)) == 0:
        toml = draw(odd.damages).applied(toml) or b""
    return ServerSettings(toml, draw(odd.mostly(st.just(()), arguments)))


@st.composite
def argument(draw: Callable[..., Any]) -> tuple[str, ...]:
    name = draw(definitions.names)
    key = draw(odd.mostly(st.sampled_from(definitions.KEYS), odd.words))
    value = draw(odd.mostly(definitions.literals, odd.texts))
    if draw(st.integers(0, 9)) == 0:
        return (f"--rewards.{name}.{key}",)
    return (f"--rewards.{name}.{key}", value)


arguments = st.lists(argument(), max_size=2).map(
    lambda pairs: tuple(odd.argument(word) for pair in pairs for word in pair)
)


def run(given: ServerSettings, sandbox: Sandbox) -> Verdict:
    """Read them; what is accepted has to be printed without a secret, and is then read as it was."""
    path = sandbox.work / "server.toml"
    sandbox.write({path.name: given.toml})
    try:
        words, _ = split_tables(ServeSettings, given.arguments)
        loaded = load_settings(path, parse_overrides(ServeSettings, words))
        printed = settings_toml(loaded)
        verdict = ACCEPTED
        path.write_text(printed)
        if not printed.startswith("#") and settings_toml(load_settings(path)) != printed:
            verdict = Verdict(Outcome.UNUSABLE, "printed, it is another", "printed")
    except Exception as error:
        verdict, printed = raised(error), str(error)
    if definitions.SECRET in printed:
        verdict = Verdict(Outcome.LEAKED, printed[-300:], "server.toml")
    return sandbox.tidied(verdict)
