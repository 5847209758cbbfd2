from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.settings.objectives import OBJECTIVES, DiffusionNftSettings


def test_reading_settings_imports_no_torch() -> None:
    code = "import sys, heliostat_trainer.settings.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_objective_on_the_command_line_takes_the_files_place(
    toml: Path,
) -> None:
    toml.write_text(toml.read_text() + "\n[objective]\nbeta = 0.1\nkl_weight = 0.0\n")
    same = load_config(toml, ["--objective.name", "diffusion_nft"])
    assert same.objective == DiffusionNftSettings(beta=0.1, kl_weight=0.0)
    other = load_config(toml, ["--objective.power", "0.5", "--objective.name", "awm"])
    assert other.objective == OBJECTIVES["awm"](power=0.5)


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


def test_files_are_read_as_people_have_them(toml: Path) -> None:
    plain = load_config(toml)
    toml.write_bytes(b"\xef\xbb\xbf" + toml.read_bytes().replace(b"\n", b"\r\n"))
    capitals = toml.rename(toml.with_name("RUN.TOML"))
    assert load_config(capitals) == plain
    capitals.write_bytes(b"[run]\nname = 'caf\xe9'\n")
    with pytest.raises(ConfigError, match=r"RUN.TOML, line 2: this is not UTF-8 text: save it as"):
        load_config(capitals)


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
