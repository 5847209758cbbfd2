from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_server.errors import NonFiniteError, RequestError
from heliostat_server.rewards.computed.success import Success
from heliostat_server.rewards.computed.weighted_sum import WeightedSum
from heliostat_server.rewards.entry import RewardEntry
from heliostat_server.rewards.registry import RewardBook
from heliostat_server.scoring.prompts import PromptCache
from heliostat_server.scoring.scorer import Scorer
from heliostat_server.settings import LimitSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_server.rewards.reward import RewardContext

SHAPES = [(2, 1, 1), (2, 2, 1), (2, 1, 2)]
LATENTS = torch.arange(6.0).reshape(3, 2, 1, 1) / 10


class Decoder:
    def __init__(self, gain: float = 1.0) -> None:
        self._gain = gain

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self._gain * latents[:, :1].repeat(1, 3, 4, 4)


DECODERS = {DecoderName.FULL: Decoder(), DecoderName.TINY: Decoder(0.5)}


class Brightness:
    def score(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> torch.Tensor:
        assert len(images) == len(prompts) == len(conditioning)
        return images.mean((1, 2, 3)) + conditioning.pooled[:, 0]


class Broken:
    def score(self, images: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.full((len(images),), torch.nan)


class Short(Brightness):
    """A reward, as a plug-in may be, that takes short prompts only."""

    def check_prompt(self, prompt: str) -> None:
        if len(prompt) > 5:
            raise ValueError(f"{prompt!r} is longer than 5")


def encode(prompts: Sequence[str]) -> Conditioning:
    return Conditioning(
        torch.zeros(len(prompts), 1, 1), torch.tensor([[float(len(text))] for text in prompts])
    )


def _short_sum(context: RewardContext) -> WeightedSum:
    return WeightedSum([(1.0, context.reward("short")), (2.0, context.reward("bright"))])


def scorer_with(decoders: Mapping[DecoderName, Decoder]) -> Scorer:
    book = RewardBook(
        "demo",
        [
            RewardEntry("bright", lambda _: Brightness()),
            RewardEntry("broken", lambda _: Broken()),
            RewardEntry("short", lambda _: Short()),
            RewardEntry("sum", _short_sum, parts=("short",)),
            RewardEntry("yes", lambda context: Success(context.reward("short"), 3.2)),
            RewardEntry("broken_yes", lambda context: Success(context.reward("broken"), 3.2)),
        ],
    )
    return Scorer(decoders, book, PromptCache(encode), LimitSettings(batch=24), SHAPES)


@pytest.fixture
def scorer() -> Scorer:
    return scorer_with(DECODERS)


def spec(**fields: object) -> bytes:
    return json.dumps({"prompts": ["abc"], "rewards": ["bright"]} | fields).encode()


def test_one_prompt_is_for_all_latents(scorer: Scorer) -> None:
    scored = scorer.score(spec(), LATENTS, None)
    torch.testing.assert_close(scored.rewards, torch.tensor([[3.0], [3.2], [3.4]]))
    assert scored.images is None


def test_latents_have_one_of_the_shapes_of_what_is_drawn(scorer: Scorer) -> None:
    for shape in SHAPES:
        assert scorer.score(spec(), torch.zeros(3, *shape), None).rewards.shape == (3, 1)
    with pytest.raises(
        RequestError, match=r"takes \[B, 2, 1, 1\] or \[B, 2, 2, 1\] or \[B, 2, 1, 2\]"
    ):
        scorer.score(spec(), torch.zeros(3, 2, 2, 2), None)


def test_a_prompt_for_each_latent(scorer: Scorer) -> None:
    scored = scorer.score(spec(prompts=["a", "ab", "a"]), LATENTS, None)
    torch.testing.assert_close(scored.rewards, torch.tensor([[1.0], [2.2], [1.4]]))


def test_the_decoder_asked_for_decodes(scorer: Scorer) -> None:
    full = scorer.score(spec(decoder="full", returnImages=True), LATENTS, None)
    plain = scorer.score(spec(returnImages=True), LATENTS, None)
    tiny = scorer.score(spec(decoder="tiny", returnImages=True), LATENTS, None)
    assert full.images is not None
    assert plain.images is not None
    assert tiny.images is not None
    assert torch.equal(full.rewards, plain.rewards)
    assert torch.equal(full.images, plain.images)
    torch.testing.assert_close(tiny.rewards, torch.tensor([[3.0], [3.1], [3.2]]))
    assert tiny.images.max() == 51


def test_the_only_decoder_decodes_unless_another_is_named() -> None:
    alone = scorer_with({DecoderName.TINY: DECODERS[DecoderName.TINY]})
    torch.testing.assert_close(
        alone.score(spec(), LATENTS, None).rewards, torch.tensor([[3.0], [3.1], [3.2]])
    )
    with pytest.raises(
        RequestError, match="no decoder 'full' here: give tiny, or leave decoder out"
    ):
        alone.score(spec(decoder="full"), LATENTS, None)


def test_images_without_rewards(scorer: Scorer) -> None:
    scored = scorer.score(spec(rewards=[], returnImages=True), LATENTS, None)
    assert scored.rewards.shape == (3, 0)
    assert scored.images is not None
    assert scored.images.shape == (3, 4, 4, 3)


@pytest.mark.parametrize(
    ("fields", "latents", "message"),
    [
        ({"rewards": ["brigth"]}, LATENTS, "did you mean 'bright'"),
        ({"rewards": []}, LATENTS, "no rewards and no images"),
        ({"prompts": []}, LATENTS, "0 prompts for 3 latents"),
        ({"prompts": ["a", "b"]}, LATENTS, "2 prompts for 3 latents"),
        ({"prompts": ["a" * 1001]}, LATENTS, "1001 characters"),
        ({}, LATENTS[:0], r"LATENTS has shape \[0, 2, 1, 1\]"),
        ({}, torch.zeros(1, 3, 1, 1), r"takes \[B, 2, 1, 1\]"),
    ],
)
def test_refuses(
    scorer: Scorer, fields: dict[str, object], latents: torch.Tensor, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        scorer.score(spec(**fields), latents, None)


def test_nan_is_named_by_seed_or_index(scorer: Scorer) -> None:
    bad = LATENTS.clone()
    bad[1] = torch.nan
    with pytest.raises(NonFiniteError, match="latents of candidate 1"):
        scorer.score(spec(), bad, None)
    with pytest.raises(NonFiniteError, match="latents of the candidate of seed 8"):
        scorer.score(spec(), bad, [7, 8, 9])
    with pytest.raises(NonFiniteError, match="reward 'broken' of the candidate of seed 7"):
        scorer.score(spec(rewards=["bright", "broken"]), LATENTS, [7, 8, 9])
    with pytest.raises(NonFiniteError, match="reward 'broken_yes' of the candidate of seed 7"):
        scorer.score(spec(rewards=["broken_yes"]), LATENTS, [7, 8, 9])


@pytest.mark.parametrize("reward", ["short", "sum", "yes"])
def test_prompts_are_checked_without_images(scorer: Scorer, reward: str) -> None:
    prompts = ["a cat", "a red cat", "b" * 1001, "a dog"]
    report = scorer.check(spec(prompts=prompts, rewards=["bright", reward], checkPrompts=True))
    assert report.refused == 2
    assert [(one.prompt, one.reason[:25]) for one in report.refusals] == [
        (1, "'a red cat' is longer tha"),
        (2, "a prompt has 1001 charact"),
    ]
    assert scorer.check(spec(prompts=prompts[:2], checkPrompts=True)).refused == 0


def test_many_refusals_are_counted_and_few_named(scorer: Scorer) -> None:
    prompts = [f"too long {number}" for number in range(150)]
    report = scorer.check(spec(prompts=prompts, rewards=["short"], checkPrompts=True))
    assert (report.refused, len(report.refusals)) == (150, 100)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "LATENTS are missing"),
        ({"checkPrompts": True, "rewards": ["shrt"]}, "did you mean 'short'"),
        ({"checkPrompts": True, "prompts": ["a"] * 4097}, "4097 prompts .* up to 4096: split it"),
    ],
)
def test_a_check_may_be_refused(scorer: Scorer, fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        scorer.check(spec(**fields))


def test_what_a_reward_refuses_is_never_rated(scorer: Scorer) -> None:
    with pytest.raises(RequestError, match="'a red cat' is longer than 5"):
        scorer.score(spec(prompts=["a red cat"], rewards=["short"]), LATENTS, None)
