"""A server.toml: what goes before what, where its paths lead, what is said of a mistake, and what is printed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from heliostat_engines.errors import ConfigError, HeliostatError
from heliostat_server.errors import RewardSettingsError
from heliostat_server.rewards.definitions import (
    HttpScorer,
    PluginReward,
    PretrainedReward,
    Success,
    VlmJudgeSettings,
    WeightedSum,
)
from heliostat_server.server_toml import load_settings, settings_toml
from heliostat_server.settings import AskedLimits, ServeSettings

SECRET = "s3cr3t"


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "server.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold_and_changes_go_before_them() -> None:
    assert load_settings(None) == ServeSettings()
    changed = load_settings(None, [("", "slots", 3), ("limits", "batch", 2), ("", "slots", 4)])
    assert changed == ServeSettings(slots=4, limits=AskedLimits(batch=2))


def test_changes_go_before_the_file_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, "slots = 5\nmax_rank = 8\n[limits]\nbatch = 4\nmax_steps = 7\n")
    settings = load_settings(path, [("limits", "batch", 2), ("", "slots", 3)])
    assert settings == ServeSettings(slots=3, max_rank=8, limits=AskedLimits(batch=2, max_steps=7))


def test_paths_of_the_file_are_beside_it_and_of_changes_where_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of-mine")
    (tmp_path / "conf" / "weights").mkdir(parents=True)
    (tmp_path / "token").write_text("of-the-directory")
    (tmp_path / "conf" / "token").write_text("of-the-file")
    path = written(
        tmp_path / "conf",
        'checkpoint = "weights"\nstate = "~/state"\nadmin_token_file = "token"\nengine = "/abs"\n'
        '[rewards.a]\nkind = "http"\nurl = "http://x"\ntoken_file = "token"\n',
    )
    relative = path.relative_to(tmp_path)
    for given in (path, relative):
        settings = load_settings(given, [("", "engine", "here")])
        assert settings.checkpoint == str(tmp_path / "conf" / "weights")
        assert str(settings.state) == "/home/of-mine/state"
        assert settings.admin_token_file == tmp_path / "conf" / "token"
        assert str(settings.engine) == "here"
        scorer = settings.rewards["a"]
        assert isinstance(scorer, HttpScorer)
        assert scorer.token_file == tmp_path / "conf" / "token"
    changed = load_settings(path, [("rewards.a", "token_file", "token")]).rewards["a"]
    assert isinstance(changed, HttpScorer)
    assert changed.token_file == tmp_path / "token"
    hub = load_settings(written(tmp_path, 'checkpoint = "owner/name"'))
    assert hub.checkpoint == "owner/name"


def test_rewards_are_of_the_file_of_elsewhere_and_of_changes(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[rewards.mix]\nkind = "weighted_sum"\nweights = { ocr = 1.0 }\n'
        '[rewards.pickscore]\ndtype = "bfloat16"\n[rewards.mine]\nkind = "plugin"\nplugin = "a"\n',
    )
    elsewhere = {"mine": PluginReward(kind="plugin", plugin="b", options={"x": 1})}
    changes = [
        ("rewards.mix", "weights", {"ocr": 2}),
        ("rewards.mine", "plugin", "c"),
        ("rewards.new", "kind", "success"),
        ("rewards.new", "reward", "mix"),
        ("rewards.new", "at_least", 1.5),
    ]
    assert load_settings(path, changes, elsewhere).rewards == {
        "mix": WeightedSum(kind="weighted_sum", weights={"ocr": 2.0}),
        "pickscore": PretrainedReward(kind="pickscore", dtype="bfloat16"),
        "mine": PluginReward(kind="plugin", plugin="c", options={"x": 1}),
        "new": Success(kind="success", reward="mix", at_least=1.5),
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_rnk = 8", "unknown setting max_rnk: did you mean max_rank?"),
        ("max-rank = 8", "unknown setting max-rank: did you mean max_rank?"),
        ("batch = 8", "unknown setting batch: the nearest is limits.batch"),
        ("wait = 8", "unknown setting wait: did you mean wait_s?"),
        ("[limits]\nbach = 8", "unknown setting limits.bach: did you mean limits.batch?"),
        ("[limit]\nbatch = 8", "unknown setting limit: did you mean limits?"),
        ("limits = 8", "limits = 8 is no section: write [limits], and its settings below it"),
        ("rewards = 8", "rewards is no section: write [rewards.NAME], and its settings below it"),
        ("[[rewards]]\napi_key = 's3cr3t'", "rewards is no section: write [rewards.NAME], and"),
        ("[rewards]\nmix = 8", "[rewards.mix] is no reward: a reward is a table"),
        ("[rewards.mix]\nkind = 'htpp'", "[rewards.mix] has the kind htpp: did you mean 'http'?"),
        ("[rewards.pickscore]\nchekpoint = 'x'", "[rewards.pickscore]: unknown setting chekpoint"),
        ("[limits]\nbatch = 0", "limits.batch = 0: input should be greater than or equal to 1"),
        ("slots = 1", "slots = 1: input should be greater than or equal to 2"),
        ("device = 'tpu'", "device = 'tpu': input should be 'auto', 'cpu' or 'gpu'"),
        ("port = '8600x'", "port = '8600x': input should be a valid integer"),
        ("wait_s = nan", "wait_s = nan: input should be a finite number"),
        ("[family]\nname = 'sana'", "family = {'name': 'sana'}: input should be a valid string"),
        ("redis = ['redis://:s3cr3t@x']", "redis: input should be a valid string"),
        ("triton_url = 'a:1'", "--triton-url needs --redis"),
        ("tls_key = 'k'", "give --tls-certificate and --tls-key together"),
        ("tls_key = 'k'\ntls_certificate = 'c'", "there is no "),
        ("[rewards.vlm_judge]\napi_key = ['s3cr3t']", "[rewards.vlm_judge], url: Field required"),
        ("[rewards.s3]\napi_key = 's3cr3t'", "[rewards.s3] has the kind s3: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_that_names_file_and_key(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(HeliostatError) as error:
        load_settings(path)
    assert str(error.value).startswith(f"{path}: {sentence}")
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)


def test_the_file_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    (toml,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    settings = load_settings(written(tmp_path, toml))
    assert (settings.family, settings.limits.batch, list(settings.rewards)) == ("flux", 24, ["mix"])


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"server\.toml is not TOML: .*line 2"):
        load_settings(written(tmp_path, "slots = 3\nport 4\n"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("rewards.mix", "nosuch", 1), r"^\[rewards\.mix\]: unknown setting nosuch"),
        (("rewards.new", "kind", "htpp"), r"^\[rewards\.new\] has the kind htpp"),
        (("rewards.A", "kind", "http"), r"^\[rewards\.A\] is no reward"),
    ],
)
def test_a_reward_that_is_changed_wrongly_is_named(
    tmp_path: Path, change: tuple[str, str, object], sentence: str
) -> None:
    path = written(tmp_path, '[rewards.mix]\nkind = "weighted_sum"\nweights = { ocr = 1.0 }\n')
    with pytest.raises(RewardSettingsError, match=sentence):
        load_settings(path, [change])


def test_what_is_printed_is_read_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    settings = load_settings(
        written(
            tmp_path,
            'family = "sana"\nstate = "st"\nwait_s = 1.5\ncontrol = false\nprecision = "bf16"\n'
            'redis = "redis://store:1/2"\n[limits]\nbatch = 4\n'
            '[rewards.mix]\nkind = "weighted_sum"\nweights = { ocr = 1.0, "a b" = -2 }\n'
            '[rewards.mine]\nkind = "http"\nurl = "http://x:1/score"\ntoken_file = "token"\n',
        )
    )
    printed = settings_toml(settings)
    assert load_settings(written(tmp_path / "elsewhere", printed)) == settings
    assert "#" not in printed


def test_paths_are_printed_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    printed = tomllib.loads(settings_toml(ServeSettings(checkpoint="weights")))
    assert printed["checkpoint"] == str(tmp_path / "weights")
    assert printed["state"] == str(tmp_path / ".heliostat/server")


def test_no_secret_is_printed_and_each_is_named() -> None:
    settings = ServeSettings.model_validate(
        {
            "redis": f"redis://u:{SECRET}@h:1/0",
            "rewards": {
                "a": HttpScorer(kind="http", url=f"https://u:{SECRET}@x/score?key={SECRET}"),
                "b": VlmJudgeSettings(url="http://x", model="m", api_key=SECRET),
                "c": PluginReward(kind="plugin", plugin="p", options={"key": SECRET}),
                "d": PluginReward(kind="plugin", plugin="p"),
            },
        }
    )
    printed = settings_toml(settings)
    assert SECRET not in printed
    (note,) = (line for line in printed.splitlines() if line.startswith("#"))
    hidden = "rewards.a.url, rewards.b.api_key, rewards.c.options, redis"
    assert note == f"# Not printed, or not in full: {hidden}"
    read: dict[str, Any] = tomllib.loads(printed)
    assert read["redis"] == "redis://h:1/0"
    assert read["rewards"]["a"]["url"] == "https://x/score"
    assert "api_key" not in read["rewards"]["b"]


@pytest.mark.parametrize("url", ["redis://:s3cr3t@[::1", "//u:s3cr3t@[x", "u:s3cr3t@[::1:1"])
def test_a_url_that_is_none_is_not_printed_with_its_password(url: str) -> None:
    printed = settings_toml(ServeSettings(redis=url))
    assert SECRET not in printed
