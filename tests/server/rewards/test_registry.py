"""Which rewards a server has: built-in ones, plug-ins, and those that its settings define."""

from __future__ import annotations

import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest
import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import CheckpointError
from heliostat_server.errors import RequestError, RewardSettingsError, code_of
from heliostat_server.rewards import entry as entry_module
from heliostat_server.rewards.computed.success import Success as IsSuccess
from heliostat_server.rewards.definitions import (
    PluginReward,
    PretrainedReward,
    RewardDefinitions,
    Success,
    WeightedSum,
)
from heliostat_server.rewards.registry import Offer, RewardBook, offered_rewards
from heliostat_server.rewards.weights import CONFIG, TENSORS, converted_folder
from heliostat_wire.errors import Code
from tests.server.rewards.caches import empty_caches
from tests.server.rewards.offers import book_of
from tests.server.rewards.tiny_models import write_clip

NO_TEXT = Conditioning(torch.zeros(0, 1, 1), torch.zeros(0, 1))
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PLUGIN = """
class Redness:
    def __init__(self, context, weight=1.0):
        assert context.device == "cpu"
        self.weight = weight

    def score(self, images, prompts, conditioning):
        return self.weight * images[:, 0].mean(dim=(1, 2))


def broken(context):
    raise FileNotFoundError("no weights")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with two rewards."""
    (tmp_path / "redness_package.py").write_text(PLUGIN)
    info = tmp_path / "redness-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: redness\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[heliostat.rewards]\nredness = redness_package:Redness\nbroken = redness_package:broken\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    yield info
    sys.modules.pop("redness_package", None)


def sum_of(**weights: float) -> WeightedSum:
    return WeightedSum(kind="weighted_sum", weights=weights)


def success(reward: str, at_least: float = 0.5) -> Success:
    return Success(kind="success", reward=reward, at_least=at_least)


def test_an_installed_packages_reward_appears_by_its_name(package: Path) -> None:
    book = book_of({})
    assert "redness" in book.names
    assert "redness_package" not in sys.modules  # Named, and not yet imported.
    rewards = book.get("redness").score(IMAGES, [""] * 3, NO_TEXT)
    torch.testing.assert_close(rewards, IMAGES[:, 0].mean(dim=(1, 2)))
    (entry,) = [entry for entry in offered_rewards(Offer("sana")) if entry.name == "redness"]
    assert entry.card.rates == "plug-in of redness 1.2"


def test_a_plugin_takes_options_and_can_be_in_a_sum(package: Path) -> None:
    book = book_of(
        {
            "redder": PluginReward(kind="plugin", plugin="redness", options={"weight": 3.0}),
            "mix": sum_of(redder=1.0, redness=-1.0, colourfulness=0.5),
        }
    )
    red = IMAGES[:, 0].mean(dim=(1, 2))
    torch.testing.assert_close(book.get("redder").score(IMAGES, [""] * 3, NO_TEXT), 3 * red)
    mixed = book.get("mix").score(IMAGES, [""] * 3, NO_TEXT)
    colourfulness = book.get("colourfulness").score(IMAGES, [""] * 3, NO_TEXT)
    torch.testing.assert_close(mixed, 2 * red + 0.5 * colourfulness)


def test_a_plugin_that_fails_is_named(package: Path) -> None:
    with pytest.raises(RewardSettingsError, match=r"broken.*FileNotFoundError: no weights"):
        book_of({}).get("broken")


def test_a_plugin_cannot_take_a_built_in_name(package: Path) -> None:
    (package / "entry_points.txt").write_text(
        "[heliostat.rewards]\nocr = redness_package:Redness\n"
    )
    with pytest.raises(
        RewardSettingsError, match=r"ocr is built in, and a plug-in of redness 1\.2"
    ):
        offered_rewards(Offer("sana"))


def test_an_unknown_plugin_is_answered_with_the_known_ones(package: Path) -> None:
    with pytest.raises(RewardSettingsError, match=r"no installed package.*broken, redness"):
        book_of({"a": PluginReward(kind="plugin", plugin="zzz")})


@pytest.mark.parametrize(
    ("definitions", "sentence"),
    [
        (
            {"mix": sum_of(picscore=1.0)},
            r"\[rewards\.mix\]: no reward 'picscore': did you mean 'pick",
        ),
        ({"mix": sum_of(demo_judge=1.0)}, "rates images of the family demo only"),
        ({"mix": sum_of(mix=1.0)}, r"\[rewards\.mix\] is made of itself"),
        ({"a": sum_of(b=1.0), "b": sum_of(a=1.0)}, "is made of itself"),
        ({"yes": success("ocrr")}, r"\[rewards\.yes\]: no reward 'ocrr': did you mean 'ocr"),
        ({"yes": success("demo_judge")}, "rates images of the family demo only"),
        ({"yes": success("yes")}, r"\[rewards\.yes\] is made of itself"),
        ({"a": sum_of(b=1.0), "b": success("a")}, "is made of itself"),
    ],
)
def test_what_cannot_be_made_of_others_is_refused(
    definitions: RewardDefinitions, sentence: str
) -> None:
    with pytest.raises(RewardSettingsError, match=sentence):
        offered_rewards(Offer("sana", dict(definitions)))


def test_sums_may_be_summed() -> None:
    book = book_of({"a": sum_of(colourfulness=2.0), "b": sum_of(a=3.0, colourfulness=1.0)})
    colourfulness = book.get("colourfulness").score(IMAGES, [""] * 3, NO_TEXT)
    torch.testing.assert_close(book.get("b").score(IMAGES, [""] * 3, NO_TEXT), 7 * colourfulness)


def test_a_success_is_where_another_reward_is_at_least_the_threshold() -> None:
    plain = book_of({}).get("colourfulness").score(IMAGES, [""] * 3, NO_TEXT)
    lowest, middle, _ = sorted(plain.tolist())
    book = book_of(
        {
            "from_middle": success("colourfulness", middle),
            "twice": sum_of(colourfulness=2.0),
            "of_a_sum": success("twice", 2 * lowest + 1e-6),
            "of_successes": sum_of(from_middle=1.0, of_a_sum=10.0),
            "of_a_success": success("from_middle"),
        }
    )
    expected = (plain >= middle).float()
    assert expected.sum() == 2
    for name in ("from_middle", "of_a_sum", "of_a_success"):
        rewards = book.get(name).score(IMAGES, [""] * 3, NO_TEXT)
        assert torch.equal(rewards, expected), name
    assert torch.equal(book.get("of_successes").score(IMAGES, [""] * 3, NO_TEXT), 11 * expected)


def test_a_threshold_is_met_by_the_float32_that_it_is() -> None:
    class Constant:
        def score(self, *_: object) -> torch.Tensor:
            return torch.tensor([0.9, 0.8999999, 0.7])

    rewards = IsSuccess(Constant(), 0.9).score(IMAGES, [""] * 3, NO_TEXT)
    assert rewards.tolist() == [1.0, 0.0, 0.0]


def test_the_list_says_what_a_success_is() -> None:
    (entry,) = [
        entry
        for entry in offered_rewards(Offer("sana", {"reads": success("ocr", 1.0)}))
        if entry.name == "reads"
    ]
    assert (entry.card.rates, entry.card.scale) == ("whether ocr is at least 1", "0 or 1")


def test_parts_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat_server.rewards.computed.colourfulness import Colourfulness

    calls: list[int] = []
    score = Colourfulness.score

    def counted(reward: Colourfulness, images: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(len(images))
        return score(reward, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Colourfulness, "score", counted)
    book = book_of(
        {
            "a": sum_of(colourfulness=2.0),
            "b": sum_of(colourfulness=3.0),
            "c": success("colourfulness"),
        }
    )
    for name in ("a", "b", "c", "colourfulness"):
        book.get(name).score(IMAGES, [""] * 3, NO_TEXT)
    assert calls == [3]
    book.get("a").score(IMAGES.clone(), [""] * 3, NO_TEXT)
    assert calls == [3, 3]


def test_a_reward_whose_package_is_missing_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_module, "find_spec", lambda _: None)
    book = book_of({})
    assert "ocr" not in book.names
    assert "pickscore" in book.names
    with pytest.raises(
        RequestError, match=r"no reward 'ocr' here: .*pip install 'heliostat.rewards.'"
    ):
        book.get("ocr")


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_caches(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("reward", "command"),
    [
        ("pickscore", "hf download yuvalkirstain/PickScore_v1 config.json model.safetensors"),
        ("clipscore", "hf download openai/clip-vit-large-patch14 config.json"),
        ("hpsv2", "heliostat rewards convert hpsv2"),
        ("image_reward", "heliostat rewards convert image_reward"),
        ("aesthetic", "hf download ttj/sac-logos-ava1-l14-linearMSE model.safetensors"),
    ],
)
def test_missing_weights_are_one_sentence_that_says_what_to_run(
    no_weights: Path, reward: str, command: str
) -> None:
    book = RewardBook("sana")
    with pytest.raises(
        CheckpointError, match=f"the reward {reward} needs.*run `{command}"
    ) as error:
        book.get(reward)
    assert "\n" not in str(error.value)
    assert code_of(error.value) is Code.INVALID_ARGUMENT


def hub_snapshot(caches: Path, repository: str) -> Path:
    """Where the Hugging Face cache has a repository's files."""
    folder = caches / "hub" / repository
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    return folder / "snapshots" / ("a" * 40)


def test_weights_in_the_hub_cache_are_used(no_weights: Path) -> None:
    write_clip(hub_snapshot(no_weights, "models--yuvalkirstain--PickScore_v1"))
    rewards = RewardBook("sana").get("pickscore").score(IMAGES, ["a fox"] * 3, NO_TEXT)
    assert rewards.isfinite().all()


def test_converted_weights_are_used_with_clips_tokenizer(no_weights: Path) -> None:
    folder = write_clip(converted_folder("hpsv2"))
    own = RewardBook("sana").get("hpsv2").score(IMAGES, ["a fox"] * 3, NO_TEXT)
    tokenizer = (folder / "tokenizer.json").read_bytes()
    for file in folder.iterdir():
        if file.name not in {CONFIG, TENSORS}:
            file.unlink()
    with pytest.raises(CheckpointError, match=r"hf download openai/.* tokenizer\.json`"):
        RewardBook("sana").get("hpsv2")
    cached = hub_snapshot(no_weights, "models--openai--clip-vit-large-patch14")
    cached.mkdir(parents=True)
    (cached / "tokenizer.json").write_bytes(tokenizer)
    fetched = RewardBook("sana").get("hpsv2").score(IMAGES, ["a fox"] * 3, NO_TEXT)
    torch.testing.assert_close(fetched, own)


def test_a_local_folder_has_to_be_whole(tmp_path: Path) -> None:
    (tmp_path / CONFIG).touch()
    book = book_of({"pickscore": PretrainedReward(kind="pickscore", checkpoint=str(tmp_path))})
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors, tokenizer\.json"):
        book.get("pickscore")
    gone = PretrainedReward(kind="pickscore", checkpoint=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match="there is no folder"):
        book_of({"pickscore": gone}).get("pickscore")
