from __future__ import annotations

from pathlib import Path

import pytest

from heliostat_server.errors import RewardSettingsError
from heliostat_server.rewards.definitions import (
    HttpScorer,
    PretrainedReward,
    Success,
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
    (tmp_path / "token").write_text("abc\n")
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
        [rewards.yes]
        kind = "success"
        reward = "mix"
        at_least = 0.9
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
    assert definitions["yes"] == Success(kind="success", reward="mix", at_least=0.9)
    assert isinstance(mine, HttpScorer)
    assert mine.token_file == tmp_path / "token"
    assert isinstance(definitions["vlm_judge"], VlmJudgeSettings)
    settings = ServeSettings(rewards=definitions)
    assert ServeSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[reward.a]", r"no table \[rewards\.NAME\]"),
        ("not toml", "is not TOML"),
        ("[rewards.Fancy-Name]\nkind = 'http'", "small letters"),
        ("[rewards]\na = 1", "a reward is a table"),
        (
            "[rewards.a]\nkind = 'htpp'",
            r"\[rewards\.a\] has the kind htpp: did you mean 'http'\? kinds are .*'http'",
        ),
        ("[rewards.pick]\ncheckpoint = 'x'", "has the kind pick: "),
        ("[rewards.a]\nkind = 'http'", r"\[rewards\.a\], url: Field required"),
        ("[rewards.a]\nkind = 'http'\nurl = 'ftp://x'", r"\[rewards\.a\], url: .*pattern"),
        (
            "[rewards.pickscore]\nchekpoint = 'x'",
            r"\[rewards\.pickscore\]: unknown setting chekpoint: did you mean checkpoint\?",
        ),
        (
            "[rewards.hpsv2]\ncheckpoint = './gone'",
            r"\[rewards\.hpsv2\], checkpoint: .*gone is not there",
        ),
        ("[rewards.a]\nkind = 'http'\ntoken_file = 'gone'", r"token_file: .*gone is not there"),
        ("[rewards.a]\nkind = 'weighted_sum'\nweights = {}", r"weights: .*at least 1"),
        ("[rewards.a]\nkind = 'weighted_sum'\nweights = {b = nan}", r"weights\.b: .*finite"),
        ("[rewards.a]\nkind = 'weighted_sum'\nweights = {b = 1e300}", r"weights\.b: float32 takes"),
        ("[rewards.a]\nkind = 'success'\nat_least = 1", r"\[rewards\.a\], reward: Field required"),
        ("[rewards.a]\nkind = 'success'\nreward = 'b'", r"at_least: Field required"),
        ("[rewards.success]\nreward = 'b'\nat_least = nan", r"at_least: .*finite"),
        (
            "[rewards.vlm_judge]\nurl = 'http://x'\nmodel = 'y'\ntimeout_s = inf",
            r"timeout_s: .*finite",
        ),
        (
            "[rewards.a]\nkind = 'http'\nurl = 'http://x'\ntoken_file = 'empty'",
            r"token_file: .*empty is empty",
        ),
        (
            "[rewards.vlm_judge]\nurl = 'http://x'\nmodel = 'y'\napi_key = 'secrét'",
            r"api_key: api_key is no token",
        ),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(RewardSettingsError, match=sentence) as error:
        load_definitions(write(tmp_path, text))
    assert str(tmp_path / "rewards.toml") in str(error.value)
    assert "\n" not in str(error.value)
    assert "secr" not in str(error.value)


def test_a_byte_order_mark_and_either_line_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "REWARDS.TOML"
    path.write_bytes(b"\xef\xbb\xbf[rewards.pickscore]\r\ndtype = 'bfloat16'\r\n")
    assert load_definitions(path)["pickscore"].dtype == "bfloat16"  # type: ignore[union-attr]
    path.write_bytes(b"# caf\xe9\n")
    with pytest.raises(RewardSettingsError, match=r"REWARDS.TOML, line 1: this is not UTF-8 text"):
        load_definitions(path)


def test_options_of_plug_ins_may_be_infinite(tmp_path: Path) -> None:
    path = write(tmp_path, "[rewards.a]\nkind = 'plugin'\nplugin = 'b'\noptions = {limit = inf}")
    settings = ServeSettings(rewards=load_definitions(path))
    assert ServeSettings.model_validate_json(settings.model_dump_json()) == settings


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RewardSettingsError, match=r"cannot read .*none\.toml: No such file"):
        load_definitions(tmp_path / "none.toml")
