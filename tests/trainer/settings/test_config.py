from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.settings import Settings
from heliostat_engines.settings.places import section_kinds
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.config import (
    RecipeName,
    RecipeSection,
    TrainConfig,
    load_config,
    server_address,
)
from heliostat_trainer.settings.objectives import OBJECTIVES, DiffusionNftSettings, Levels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel


def test_reading_settings_imports_no_torch() -> None:
    code = "import sys, heliostat_trainer.settings.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_setting_says_what_it_means() -> None:
    sections = [
        field.annotation
        for field in TrainConfig.model_fields.values()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    ]
    undocumented = [
        f"{section.__name__}.{key}"
        for section in (*sections, *OBJECTIVES.values())
        for key, field in section.model_fields.items()
        if not field.description
    ]
    assert len(sections) > 8
    assert not undocumented


def test_the_learning_rate_stays_or_falls_to_zero_as_half_a_cosine(
    configure: Callable[..., TrainConfig],
) -> None:
    constant = configure("--optimiser.lr", "0.5").optimiser
    assert {constant.lr_at(step, 4) for step in (1, 2, 3, 4)} == {0.5}
    cosine = configure("--optimiser.lr", "0.5", "--optimiser.lr_schedule", "cosine").optimiser
    rates = [cosine.lr_at(step, 4) for step in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.5, 0.5 * 0.8535534, 0.25, 0.5 * 0.1464466])


def test_a_run_is_watched_every_so_many_steps_from_the_first_on(
    configure: Callable[..., TrainConfig],
) -> None:
    watch = configure("--watch.every", "3").watch
    assert [step for step in range(1, 9) if watch.due(step)] == [1, 4, 7]
    never = configure("--watch.every", "0").watch
    assert not any(never.due(step) for step in range(1, 9))
    assert configure().watch.max_explore_steps is None


def test_the_objective_is_the_one_named_and_diffusion_nft_without_a_name(
    configure: Callable[..., TrainConfig],
) -> None:
    assert configure().objective == DiffusionNftSettings()
    assert configure("--objective.beta", "0.1").objective == DiffusionNftSettings(beta=0.1)
    for name, kind in OBJECTIVES.items():
        config = configure("--objective.name", name, "--recipe.keep_pairs", "4")
        assert config.objective == kind()
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_another_objective_on_the_command_line_takes_the_files_place(
    toml: Path,
) -> None:
    toml.write_text(toml.read_text() + "\n[objective]\nbeta = 0.1\nkl_weight = 0.0\n")
    same = load_config(toml, ["--objective.name", "diffusion_nft"])
    assert same.objective == DiffusionNftSettings(beta=0.1, kl_weight=0.0)
    other = load_config(toml, ["--objective.power", "0.5", "--objective.name", "awm"])
    assert other.objective == OBJECTIVES["awm"](power=0.5)


def test_grpo_is_on_policy_unless_told_otherwise(configure: Callable[..., TrainConfig]) -> None:
    assert configure().old_policy.decay_max == 0.5
    grpo = ("--objective.name", "flow_grpo")
    assert configure(*grpo).old_policy.decay_max == 0.0
    assert configure(*grpo, "--old_policy.decay_slope", "0.1").old_policy.decay(9) == 0.0
    assert configure(*grpo, "--old_policy.decay_max", "0.3").old_policy.decay_max == 0.3


def test_every_objective_can_be_trained_on_redrawn_samples(
    configure: Callable[..., TrainConfig],
) -> None:
    needs = frozenset().union(*(kind.needs for kind in OBJECTIVES.values()))
    assert needs <= configure().recipe.gives


def test_defaults_are_the_published_recipe(configure: Callable[..., TrainConfig]) -> None:
    recipe = TrainConfig.model_fields["recipe"].default
    assert (recipe.candidates, recipe.kept, recipe.explore_steps, recipe.steps) == (96, 24, 6, 10)
    assert recipe.name is RecipeName.SOL_RL
    assert configure("--recipe.name", "diffusionnft").recipe.pool == 4


def test_our_own_recipe_has_its_own_budget(configure: Callable[..., TrainConfig]) -> None:
    own = RecipeSection(name=RecipeName.HELIOSTAT)
    assert (own.candidates, own.kept, own.pool_evaluations, own.explore_steps) == (24, 2, 4, 6)
    assert own.tune
    assert own.explores
    assert own.redraws
    chosen = RecipeSection(name=RecipeName.HELIOSTAT, candidates=8, explore_steps=2, tune=False)
    assert (chosen.candidates, chosen.kept, chosen.pool_evaluations) == (8, 2, 2)
    assert not chosen.tune
    assert configure("--recipe.name", "heliostat").recipe.candidates == 8  # as the file says


def test_our_own_recipe_skips_groups_of_equal_rewards(
    configure: Callable[..., TrainConfig],
) -> None:
    for name in RecipeName:
        expected = 1e-6 if name is RecipeName.HELIOSTAT else 0.0
        assert configure("--recipe.name", name).prompts.min_spread == expected
    chosen = configure("--recipe.name", "heliostat", "--prompts.min_spread", "0")
    assert chosen.prompts.min_spread == 0.0


def test_our_own_recipe_trains_at_high_levels(configure: Callable[..., TrainConfig]) -> None:
    assert configure().objective.levels is Levels.ALL
    own = ("--recipe.name", "heliostat")
    assert configure(*own).objective.levels is Levels.HIGH
    assert configure(*own, "--objective.name", "awm").objective.levels is Levels.HIGH
    assert configure(*own, "--objective.levels", "all").objective.levels is Levels.ALL
    on_trajectories = configure(*own, "--objective.name", "flow_grpo", "--recipe.tune", "false")
    assert on_trajectories.objective.levels is Levels.ALL


def test_scoring_early_is_for_recipes_that_redraw(configure: Callable[..., TrainConfig]) -> None:
    assert configure().recipe.pool_evaluations == 2
    early = ("--recipe.score_after", "1")
    assert configure(*early).recipe.pool_evaluations == 1
    assert configure("--recipe.name", "naive_quant", *early).recipe.pool_evaluations == 4


def test_paths_are_relative_to_the_toml(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load_config(toml).prompts.train == toml.parent / "train.txt"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["--recipe.candidate", "3"], "unknown setting recipe.candidate: did you mean recipe.candidates?"),
        (["--recipee.name", "x"], "unknown setting recipee: did you mean recipe?"),
        (["--optimiser.learning_rate", "1"], "the nearest is optimiser.lr"),
        (["--recipe.keep_pairs", "5"], "keep_pairs = 5 keeps 10 of candidates = 8: lower recipe.keep_pairs"),
        (["--recipe.name", "sol"], "'bf16_explore', 'naive_scaling' or 'naive_quant'"),
        (["--run.steps", "many"], "run.steps = 'many'"),
        (["--run.steps", "0"], "run.steps = 0"),
        (["--run.name", "a/b"], "run.name = 'a/b'"),
        (["--server.url", "http://localhost:8000"], "grpc://host:port, not 'http://localhost:8000'"),
        (["--server.url", "localhost"], "is no address: write grpc://host:port"),
        (["--server.url", '["a:1", "b"]'], "server.url 'b' is no address"),
        (["--server.url", '["a:1", "grpc://a:1"]'], "server.url names a:1 twice"),
        (["--server.url", "[]"], "server.url"),
        (["--prompts.train", "missing.txt"], "prompts.train: cannot read missing.txt: No such file"),
        (["--prompts.per_step", "7"], "prompts.per_step = 7, but"),
        (["--evaluation.prompts", "4"], "evaluation.prompts = 4, but"),
        (["--evaluation.guidances", "[]"], "at least one guidance scale"),
        (["--objective.name", "amw"], "objective.name = 'amw': choose from diffusion_nft, awm,"),
        (["--objective.power", "1"], "objective.power is a setting of awm, not of diffusion_nft: leave it out"),
        (["--objective.name", "awm", "--objective.pwer", "1"], "did you mean objective.power?"),
        (["--objective.levels", "low"], "objective.levels = 'low': input should be 'all', 'high' or 'stratified'"),
        (["--objective.name", "flow_grpo", "--objective.share_noise", "true"], "objective.share_noise is a setting of diffusion_nft and awm and diffusion_dpo and dgpo, not of flow_grpo"),
        (["--prompts.by_spread", "1"], "prompts.by_spread = 1: input should be less than 1"),
        (["--objective.temperature", "1"], "objective.temperature of diffusion_nft: it has name, levels,"),
        (["--objective.beta", "-1"], "objective.beta = -1: input should be greater than 0"),
        (["--objective.name", "flow_grpo", "--recipe.name", "naive_quant"],
         "objective.name = 'flow_grpo' needs log-probabilities and trajectories, which recipe.name = 'naive_quant' "
         "cannot give, since the server draws its samples: set recipe.name to sol_rl, diffusionnft, heliostat, bf16_explore, naive_scaling"),
        (["--objective.name", "flow_grpo_fast", "--recipe.steps", "3"], "recipe.steps = 3, but objective.name = "
         "'flow_grpo_fast' needs 3 stochastic and a last one: raise recipe.steps or lower objective.window"),
        (["--objective.name", "flow_grpo", "--recipe.steps", "1"], "needs 1 stochastic and a last one: raise"),
        (["--objective.name", "flow_grpo_fast", "--objective.noise_level", "1.5"], "cps adds at most all of"),
        (["--objective.name", "dance_grpo"], "objective.subset_pairs = 4, but recipe.keep_pairs = 2: lower"),
        (["--objective.name", "dance_grpo", "--objective.noise", "cps"], "objective.noise is a setting of flow_grpo"),
        (["--watch.groups", "3"], "watch.groups = 3, but a step has prompts.per_step = 2 groups: lower the one"),
        (["--watch.max_explore_steps", "1"], "is not between recipe.explore_steps = 2 and recipe.steps = 4: set it so"),
        (["--watch.max_explore_steps", "5"], "watch.max_explore_steps = 5 is not between"),
        (["--recipe.score_after", "3"], "recipe.score_after = 3 is more than recipe.explore_steps = 2: lower it"),
        (["--recipe.solver", "heun"], "recipe.solver = 'heun': input should be 'euler' or 'dpm2m'"),
        (["--recipe.solver", "dpm2m", "--objective.name", "flow_grpo"], "recipe.solver = 'dpm2m', but objective.name = "
         "'flow_grpo' trains on the steps of a stochastic sampler, which are Euler's with noise: set recipe.solver to euler"),
        (["--recipe.score_after", "0"], "recipe.score_after = 0"),
        (["--watch.min_rho", "1.5"], "watch.min_rho = 1.5: input should be less than or equal to 1"),
        (["--reward.weights", "{ contrast = 1 }"], "either reward.name, or reward.weights"),
        (["--guards.edges", "1"], "unknown setting guards.edges: "),
        (["steps=3"], "'steps=3' is no setting: write --section.key value"),
        (["--steps=3"], "'--steps=3' is no setting: did you mean --run.steps?"),
        (["--resum"], "'--resum' is no setting: did you mean --resume?"),
        (["--dryrun"], "did you mean --dry-run?"),
        (["--Run.steps", "3"], "'--Run.steps' is no setting: did you mean --run.steps?"),
        (["--optimiser.lr", "inf"], "optimiser.lr = inf: input should be a finite number"),
        (["--optimiser.lr", "1e40"], "optimiser.lr = 1e+40: input should be less than or equal to 1"),
        (["--optimiser.lr", "1e-50"], "optimiser.lr = 1e-50: float32 takes this number for 0"),
        (["--optimiser.max_grad_norm", "nan"], "optimiser.max_grad_norm = nan: input should be greater"),
        (["--lora.alpha", "1e39"], "lora.alpha = 1e+39: float32 takes this number for infinite"),
        (["--evaluation.guidances", "[1.0, nan]"], "evaluation.guidances.1 = nan: input should be a finite"),
        (["--run.steps", "99999999999999999999"], "run.steps = 99999999999999999999: 64 bits do not hold"),
        (["--evaluation.seed", "99999999999999999999"], "64 bits do not hold"),
        (["--run.steps"], "--run.steps needs a value"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_sentence(toml: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(toml, overrides, ("--resume", "--dry-run"))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[run", "is not TOML"),
        ('[run]\nname = "x"', "prompts is missing: Prompts:"),
        ("run = 3", "run = 3"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=sentence.replace("[", r"\[")):
        load_config(path)
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        load_config(tmp_path / "none.toml")


def floats(section: str, kind: type[BaseModel]) -> Iterator[str]:
    """section.key of every plain number with a fraction."""
    for key, field in kind.model_fields.items():
        if field.annotation in {float, float | None}:
            yield f"{section}.{key}"


def float_settings() -> Iterator[tuple[tuple[str, ...], str]]:
    """What chooses the objective, and the setting."""
    for section in TrainConfig.model_fields:
        for kind in section_kinds(TrainConfig, section):
            chosen = ()
            if section == "objective":
                chosen = ("--objective.name", str(kind.model_fields["name"].default))
            yield from ((chosen, setting) for setting in floats(section, kind))


MAY_BE_INFINITE = {"optimiser.max_grad_norm"}
ROOM = ("--objective.subset_pairs", "2")


@pytest.mark.parametrize("number", ["inf", "nan", "-inf", "1e300"])
def test_every_number_is_finite(toml: Path, number: str) -> None:
    settings = list(float_settings())
    assert len(settings) > 30
    for chosen, setting in settings:
        if setting in MAY_BE_INFINITE and number == "inf":
            load_config(toml, [f"--{setting}", number])
            continue
        room = ROOM if chosen[1:] == ("dance_grpo",) else ()
        with pytest.raises(ConfigError, match=rf"{setting} = (-?inf|nan|1e\+300): "):
            load_config(toml, [*chosen, *room, f"--{setting}", number])


def test_files_are_read_as_people_have_them(toml: Path) -> None:
    plain = load_config(toml)
    toml.write_bytes(b"\xef\xbb\xbf" + toml.read_bytes().replace(b"\n", b"\r\n"))
    capitals = toml.rename(toml.with_name("RUN.TOML"))
    assert load_config(capitals) == plain
    capitals.write_bytes(b"[run]\nname = 'caf\xe9'\n")
    with pytest.raises(ConfigError, match=r"RUN.TOML, line 2: this is not UTF-8 text: save it as"):
        load_config(capitals)


def test_an_empty_prompt_file_is_named(toml: Path) -> None:
    (toml.parent / "train.txt").write_text("# nothing but a comment\n\n")
    with pytest.raises(ConfigError, match=r"prompts.train: .*train.txt holds no prompt"):
        load_config(toml)


def test_prompts_in_both_files_are_warned_of(toml: Path) -> None:
    assert load_config(toml).check_files() == ()
    with (toml.parent / "heldout.txt").open("a") as file:
        file.write("\na red cat")
    (warning,) = load_config(toml).check_files()
    assert "1 of 4 held-out prompts" in warning


def test_addresses() -> None:
    assert server_address("grpc://127.0.0.1:8600") == "127.0.0.1:8600"
    assert server_address("gpu-box.local:8600/") == "gpu-box.local:8600"
    assert server_address("grpc://[::1]:8600") == "[::1]:8600"
    for wrong in ("host:99999", "grpc://", "host:"):
        with pytest.raises(ConfigError):
            server_address(wrong)


@pytest.mark.parametrize(
    ("line", "overrides", "sentence"),
    [
        ("objective = 1", (), r"objective = 1 is no section: write \[objective\]"),
        ('objective = "awm"', (), "objective = 'awm' is no section"),
        ("lr = 1", ("--lr.x", "3"), "unknown setting lr"),
        ("watch = 0", ("--watch.every", "3"), r"watch = 0 is no section: write \[watch\]"),
    ],
)
def test_a_section_that_is_none_is_one_sentence(
    toml: Path, line: str, overrides: tuple[str, ...], sentence: str
) -> None:
    toml.write_text(f"{line}\n{toml.read_text()}")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(toml))}: .*{sentence}") as error:
        load_config(toml, overrides)
    assert "\n" not in str(error.value)
