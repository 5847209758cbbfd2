"""`heliostat init`: a run's TOML and prompts to begin with, for whoever has no checkout.

Values are those of the example of the family's model, but for the recipe, which is our own; what each
setting means is said by the settings themselves.
"""

from __future__ import annotations

import textwrap
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heliostat.examples import example, examples
from heliostat_engines.errors import FilesError, HeliostatError
from heliostat_engines.families import get_family
from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.settings.reference import reference
from heliostat_engines.settings.writing import literal
from heliostat_server.rewards.built_in import BUILT_IN
from heliostat_server.rewards.registry import Offer, check_rewards, offered_rewards
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.recipe import RecipeName, RecipeSection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from heliostat_engines.families.family import Family
    from heliostat_engines.settings.reference import SectionReference

Settings = dict[str, dict[str, Any]]

WIDTH = 100
PROMPTS = "prompts"
QUOTED = "ocr"
"""The reward that reads the text which a prompt quotes: its prompts have to quote some."""
SIGNS = ("prompts/signs_train.txt", "prompts/signs_heldout.txt")
WATCHED = {"groups": 2, "min_rho": 0.7, "min_tau_b": 0.5}
EXPLORE_SHARE = 2
"""A distilled model explores with its own number of steps over this."""


class FileThereError(HeliostatError, FileExistsError):
    """A file that would be written is there already."""


@dataclass(frozen=True)
class FirstRun:
    """What is written, by path."""

    toml: Path
    files: Mapping[Path, str]
    family: str


def plan_first_run(family_name: str, reward: str | None, out: Path) -> FirstRun:
    """The files of a run of a family on a reward, by default its example's.

    Raises:
        UnknownFamilyError: there is no such family; names the nearest.
        RequestError: there is no such reward for it; names the nearest.
    """
    family = get_family(family_name)
    settings = _example_of(family)
    sources = (settings["prompts"]["train"], settings["prompts"]["heldout"])
    if reward is not None:
        check_rewards([reward], _rewards(family.name))
        others = [name for name in settings["reward"]["heldout"] if name != reward]
        settings["reward"] = {"name": reward, "heldout": others}
        if reward == QUOTED:
            sources = SIGNS
    train, heldout = (example(source).read_text("utf-8") for source in sources)
    _fit(settings, family, len(train.splitlines()), len(heldout.splitlines()))
    folder = out.parent / PROMPTS / out.stem
    names = {"train": train, "heldout": heldout}
    settings["prompts"] |= {name: f"{PROMPTS}/{out.stem}/{name}.txt" for name in names}
    prompts = {folder / f"{name}.txt": text for name, text in names.items()}
    return FirstRun(out, {**prompts, out: _toml(settings, family, out)}, family.name)


def write_first_run(run: FirstRun) -> None:
    """Write the files, none of which may be there.

    Raises:
        FileThereError: one is, and nothing is written.
        FilesError: one cannot be written, and none is left.
    """
    for path in run.files:
        if path.exists():
            raise FileThereError(f"{path} is there already: name another file with --out")
    written: list[Path] = []
    try:
        for path, text in run.files.items():
            atomic_text(path, text)
            written.append(path)
    except FilesError:
        for path in written:
            path.unlink()
        raise


def _rewards(family: str) -> tuple[str, ...]:
    return tuple(
        entry.name
        for entry in offered_rewards(Offer(family))
        # What only lacks a package is named all the same: the server may be another machine.
        if entry.family in {None, family} and (entry in BUILT_IN or entry.is_available(family))
    )


def _example_of(family: Family) -> Settings:
    """The example of that family, or else of one that the same pipeline draws."""
    found = {name: tomllib.loads(path.read_text("utf-8")) for name, path in examples().items()}
    by_family = {one["model"]["family"]: one for _, one in sorted(found.items(), reverse=True)}
    if family.name in by_family:
        return by_family[family.name]
    return next(
        one for name, one in by_family.items() if get_family(name).pipeline == family.pipeline
    )


def _fit(settings: Settings, family: Family, train: int, heldout: int) -> None:
    """Make an example's settings this family's, and no larger than the prompts allow."""
    settings["run"]["name"] = family.name
    settings["run"].pop("device", None)
    model = settings["model"]
    model["family"] = family.name
    model["resolution_px"] = model.get("resolution_px", family.default_resolution_px)
    model.pop("checkpoint", None)
    settings["prompts"]["per_step"] = min(settings["prompts"]["per_step"], train)
    settings["prompts"].pop("min_spread", None)  # the recipe's own
    evaluation = settings["evaluation"]
    evaluation["prompts"] = min(evaluation["prompts"], heldout)
    if family.distilled_steps is not None:
        settings["recipe"]["steps"] = evaluation["steps"] = family.distilled_steps
        settings["recipe"]["explore_steps"] = max(1, family.distilled_steps // EXPLORE_SHARE)
    settings["recipe"] |= _own_budget(settings["recipe"]["explore_steps"])
    # Of groups as small as the recipe's, single ones say little.
    settings["watch"] = WATCHED | settings.get("watch", {})


def _own_budget(explore_steps: int) -> Settings:
    """What the recipe of our own changes of a published one."""
    own = RecipeSection(name=RecipeName.HELIOSTAT, explore_steps=explore_steps)
    return own.model_dump(mode="json", exclude={"explore_steps", "tune"}, exclude_defaults=True)


def _toml(settings: Settings, family: Family, out: Path) -> str:
    lines = [
        f"# A run on the model family {family.name}. Two commands, in a terminal each:",
        f"#   heliostat serve --family {family.name}",
        f"#   heliostat train {out.name}",
        f"# What it will take:  heliostat train {out.name} --dry-run",
        "# Paths are relative to this file. Any key can be given on the command line, as in",
        f"#   heliostat train {out.name} --run.name other --run.steps 50",
        "# Settings that are not here have their defaults: heliostat config --explain lists them all.",
    ]
    for section in reference(TrainConfig):
        chosen = settings.get(section.name)
        if chosen is None or section.variant not in {None, _objective(settings)}:
            continue
        lines += ["", *_comment(section.meaning), f"[{section.name}]", *_keys(section, chosen)]
    return "\n".join(lines) + "\n"


def _objective(settings: Settings) -> str:
    name: str = settings.get("objective", {}).get("name", "diffusion_nft")
    return name


def _keys(section: SectionReference, chosen: Mapping[str, Any]) -> Iterator[str]:
    for setting in section.settings:
        if setting.key in chosen:
            yield from _comment(setting.meaning)
            yield f"{setting.key} = {literal(chosen[setting.key])}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
