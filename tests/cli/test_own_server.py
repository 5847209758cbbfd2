"""A run's own server serves what the run asks for, whatever a server's defaults are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.examples import example
from heliostat.own_server import run_settings
from heliostat_engines.errors import ConfigError
from heliostat_server.errors import ServerStartError
from heliostat_server.settings import DEVICE_VARIABLE, ServeSettings
from heliostat_trainer.prompts.sets import PromptSets, read_prompt_sets
from heliostat_trainer.settings.load import load_config


def settings(*overrides: str, prompts: PromptSets | None = None) -> ServeSettings:
    config = load_config(example("demo.toml"), overrides)
    return run_settings(config, prompts or read_prompt_sets(config))


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)


def test_it_is_the_models_on_the_trainers_device_and_takes_turns() -> None:
    served = settings("--run.device", "cpu", "--run.name", "mine", "--run.threads", "3")
    assert (served.family, served.device, served.sleep, served.threads) == ("demo", "cpu", True, 3)
    assert served.state.is_absolute()
    assert served.state.parts[-2:] == ("mine", "server")
    assert (served.port, served.http_port, served.host) == (0, 0, "127.0.0.1")


def test_it_takes_the_runs_rank_prompts_sizes_steps_and_candidates() -> None:
    config = load_config(example("demo.toml"))
    prompts = replace(
        read_prompt_sets(config), train=("x" * 3000,), sizes={"a": (64, 96), "b": (64, 96)}
    )
    served = settings(
        *("--lora.rank", "128", "--recipe.steps", "150", "--recipe.candidates", "22"),
        prompts=prompts,
    )
    assert (served.max_rank, served.slots) == (128, 2)
    assert served.limits.max_prompt_chars == 3000
    assert served.limits.max_steps == 150
    assert served.limits.resolutions_px == ((64, 96),)
    assert served.limits.batch is not None
    assert 22 % served.limits.batch == 0


def test_a_refusal_names_where_the_value_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerStartError, match=r"^the run's own server: max_rank = "):
        settings("--lora.rank", str(2**40))
    monkeypatch.setenv(DEVICE_VARIABLE, "tpu")
    with pytest.raises(ServerStartError, match=rf"^{DEVICE_VARIABLE}: device = 'tpu'"):
        settings()


def test_it_takes_no_other_card_than_the_first() -> None:
    with pytest.raises(ConfigError, match=r"run.device = 'cuda:1', .*CUDA_VISIBLE_DEVICES"):
        settings("--run.device", "cuda:1")


def test_a_server_is_started_or_named_but_not_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*options: str) -> str:
        result = CliRunner().invoke(app, ["train", str(example("demo.toml")), "--serve", *options])
        assert result.exit_code == 2
        return " ".join(word for word in result.output.split() if word != "│")

    assert "give one of them" in refused("--server", "grpc://127.0.0.1:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "without torchrun" in refused()
