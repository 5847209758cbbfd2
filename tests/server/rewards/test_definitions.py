from __future__ import annotations

from pathlib import Path

import pytest

from heliostat_server.errors import RewardSettingsError
from heliostat_server.rewards.definitions import (
    HttpScorer,
    PretrainedReward,
    VlmJudgeSettings,
    WeightedSum,
    load_definitions,
)
from heliostat_server.settings import ServeSettings


def write(folder: Path, text: str) -> Path:
    path = folder / "rewards.toml"
    path.write_text(text)
    return path


def test_every_kind_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "token").touch()
    path = write(
        tmp_path,
        """
        [rewards.pickscore]
        checkpoint = "weights"
        [rewards.pickscore_hub]
        kind = "pickscore"
        checkpoint = "somebody/PickScore"
        dtype = "bfloat16"
        [rewards.mix]
        kind = "weighted_sum"
        weights = { pickscore = 1.0, aesthetic = 0.2 }
        [rewards.mine]
        kind = "http"
        url = "http://127.0.0.1:9000/score"
        token_file = "token"
        [rewards.vlm_judge]
        url = "http://127.0.0.1:8000"
        model = "qwen"
        [rewards.sharp]
        kind = "plugin"
        plugin = "sharpness"
        options = { radius = 2 }
        """,
    )
    definitions = load_definitions(path)
    local = definitions["pickscore"]
    assert isinstance(local, PretrainedReward)
    assert local.checkpoint == str(tmp_path / "weights")
    hub = definitions["pickscore_hub"]
    assert isinstance(hub, PretrainedReward)
    assert hub.checkpoint == "somebody/PickScore"
    mix, mine = definitions["mix"], definitions["mine"]
    assert isinstance(mix, WeightedSum)
    assert mix.weights == {"pickscore": 1.0, "aesthetic": 0.2}
    assert isinstance(mine, HttpScorer)
    assert mine.token_file == tmp_path / "token"
    assert isinstance(definitions["vlm_judge"], VlmJudgeSettings)
    settings = ServeSettings(rewards=definitions)
    assert ServeSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[reward.a]", r"no table \[rewards\.NAME\]"),
        ("not toml", "cannot be read"),
        ("[rewards.Fancy-Name]\nkind = 'http'", "small letters"),
        ("[rewards]\na = 1", "a reward is a table"),
        (
            "[rewards.a]\nkind = 'htpp'",
            r"\[rewards\.a\] has the kind htpp, but kinds are .*'http'",
        ),
        ("[rewards.pick]\ncheckpoint = 'x'", "has the kind pick,"),
        ("[rewards.a]\nkind = 'http'", r"\[rewards\.a\], url: Field required"),
        ("[rewards.a]\nkind = 'http'\nurl = 'ftp://x'", r"\[rewards\.a\], url: .*pattern"),
        ("[rewards.pickscore]\nchekpoint = 'x'", r"\[rewards\.pickscore\], chekpoint: Extra"),
        (
            "[rewards.hpsv2]\ncheckpoint = './gone'",
            r"\[rewards\.hpsv2\], checkpoint: .*gone is not there",
        ),
        ("[rewards.a]\nkind = 'http'\ntoken_file = 'gone'", r"token_file: .*gone is not there"),
        ("[rewards.a]\nkind = 'weighted_sum'\nweights = {}", r"weights: .*at least 1"),
        ("[rewards.a]\nkind = 'weighted_sum'\nweights = {b = nan}", r"weights\.b: .*finite"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(RewardSettingsError, match=sentence) as error:
        load_definitions(write(tmp_path, text))
    assert str(tmp_path / "rewards.toml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RewardSettingsError, match="cannot be read"):
        load_definitions(tmp_path / "none.toml")
