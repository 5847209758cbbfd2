"""`heliostat init`: a TOML that is a valid run of its family, commented by the settings themselves."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_engines.errors import HeliostatError, UnknownFamilyError
from heliostat_engines.families import FAMILIES
from heliostat_engines.settings.reference import reference
from heliostat_server.errors import RequestError
from heliostat_trainer.forecast.work import plan_run
from heliostat_trainer.prompts.sets import prompt_notes, read_prompt_sets
from heliostat_trainer.settings.config import EQUAL_REWARDS, TrainConfig
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.settings.objectives import Levels
from heliostat_trainer.settings.recipe import RecipeName

EVERY = pytest.mark.parametrize("family", [family.name for family in FAMILIES])


def init(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def written(tmp_path: Path, *arguments: str) -> TrainConfig:
    out = tmp_path / "run.toml"
    init(*arguments, "--out", str(out))
    return load_config(out)


@EVERY
def test_it_is_a_run_of_the_family_that_can_be_planned(family: str, tmp_path: Path) -> None:
    config = written(tmp_path, family)
    assert (config.model.family, config.run.device) == (family, "auto")
    assert plan_run(config).prompts == config.prompts.per_step
    assert config.recipe.name is RecipeName.HELIOSTAT
    assert config.prompts.min_spread == EQUAL_REWARDS
    assert config.objective.levels is Levels.HIGH
    prompts = read_prompt_sets(config)
    assert prompt_notes(config, prompts) == ()
    assert len(prompts.heldout) >= config.evaluation.prompts
    assert all(str(path).startswith(str(tmp_path)) for path in tmp_path.rglob("*.txt"))


@EVERY
def test_the_baseline_is_one_setting_apart(family: str, tmp_path: Path) -> None:
    init(family, "--out", str(tmp_path / "run.toml"))
    config = load_config(tmp_path / "run.toml", ["--recipe.name", "diffusionnft"])
    assert config.recipe.pool == 2


def test_what_a_setting_means_is_what_config_explain_says(tmp_path: Path) -> None:
    written(tmp_path, "flux")
    text = (tmp_path / "run.toml").read_text()
    comments = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    settings = tomllib.loads(text)
    said = [
        setting.meaning
        for section in reference(TrainConfig)
        if section.variant in {None, "diffusion_nft"}
        for setting in section.settings
        if setting.key in settings.get(section.name, {})
    ]
    assert len(said) == sum(map(len, settings.values())) > 40
    assert all(meaning in comments for meaning in said)


def test_schnell_is_drawn_in_its_few_steps(tmp_path: Path) -> None:
    config = written(tmp_path, "flux-schnell")
    assert (config.recipe.steps, config.recipe.explore_steps, config.evaluation.steps) == (4, 2, 4)


def test_a_reward_takes_the_examples_place(tmp_path: Path) -> None:
    config = written(tmp_path, "sana", "--reward", "aesthetic")
    assert (config.reward.name, config.reward.heldout) == ("aesthetic", ("clipscore",))


def test_prompts_of_the_reward_that_reads_quote_something(tmp_path: Path) -> None:
    prompts = read_prompt_sets(written(tmp_path, "flux", "--reward", "ocr"))
    assert len(prompts.train) > 48
    assert all(prompt.count('"') == 2 for prompt in (*prompts.train, *prompts.heldout))
    assert not set(prompts.train) & set(prompts.heldout)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    kept = tmp_path / "prompts" / "run" / "heldout.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine\n")
    with pytest.raises(
        HeliostatError, match=f"{kept} is there already: name another file with --out"
    ):
        init("demo", "--out", str(tmp_path / "run.toml"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["heldout.txt"]
    assert kept.read_text() == "mine\n"
    init("demo", "--out", str(tmp_path / "other.toml"))
    with pytest.raises(HeliostatError, match="is there already"):
        init("demo", "--out", str(tmp_path / "other.toml"))


def test_where_nothing_can_be_written_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HeliostatError, match="cannot write"):
        init("demo", "--out", str(tmp_path / "file" / "run.toml"))
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_what_is_not_known_names_the_nearest(tmp_path: Path) -> None:
    out = str(tmp_path / "run.toml")
    with pytest.raises(UnknownFamilyError, match="did you mean 'sana'"):
        init("sanna", "--out", out)
    with pytest.raises(RequestError, match="did you mean 'pickscore'"):
        init("flux", "--reward", "pikscore", "--out", out)
    with pytest.raises(RequestError, match="no reward 'demo_judge'"):
        init("flux", "--reward", "demo_judge", "--out", out)
    assert not list(tmp_path.iterdir())


def test_the_demos_can_be_planned_on_the_command_line(tmp_path: Path) -> None:
    out = str(tmp_path / "run.toml")
    assert f"Wrote {out}" in init("demo", "--out", out)
    result = CliRunner().invoke(app, ["train", out, "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "heliostat, diffusion_nft" in result.stdout
