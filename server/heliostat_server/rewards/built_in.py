"""The rewards that every server has, if it can. Imports no torch: each is loaded when asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from heliostat_server.rewards.definitions import AestheticReward, PretrainedReward
from heliostat_server.rewards.demo import demo_judge
from heliostat_server.rewards.entry import RewardCard, RewardEntry
from heliostat_server.rewards.published.entries import pretrained

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_server.rewards.reward import Reward, RewardContext


def _jpeg_compressibility(_: RewardContext) -> Reward:
    from heliostat_server.rewards.computed.jpeg_compressibility import JpegCompressibility

    return JpegCompressibility()


def _colourfulness(_: RewardContext) -> Reward:
    from heliostat_server.rewards.computed.colourfulness import Colourfulness

    return Colourfulness()


def _ocr(_: RewardContext) -> Reward:
    from heliostat_server.rewards.computed.ocr import Ocr

    return Ocr()


def _demo_judge(weights: Path, context: RewardContext) -> Reward:
    return demo_judge.DemoJudge(weights, context.device)


def _demo_entry(name: str, weights: Path) -> RewardEntry:
    return RewardEntry(
        name,
        partial(_demo_judge, weights),
        RewardCard("how well an emoji scene shows its prompt", "0..1", "Apache-2.0"),
        family="demo",
        weights=weights,
    )


BUILT_IN: tuple[RewardEntry, ...] = (
    RewardEntry(
        "jpeg_compressibility",
        _jpeg_compressibility,
        RewardCard("how small the image is as a JPEG", "minus kilobytes", "", "arXiv 2305.13301"),
    ),
    RewardEntry(
        "colourfulness",
        _colourfulness,
        RewardCard("how colourful the image is", "0..1.5", "", "Hasler and Süsstrunk 2003"),
    ),
    _demo_entry("demo_judge", demo_judge.TRAINING),
    _demo_entry("demo_judge_heldout", demo_judge.HELDOUT),
    pretrained("pickscore", PretrainedReward(kind="pickscore")),
    pretrained("clipscore", PretrainedReward(kind="clipscore")),
    pretrained("hpsv2", PretrainedReward(kind="hpsv2")),
    pretrained("image_reward", PretrainedReward(kind="image_reward")),
    pretrained("aesthetic", AestheticReward(kind="aesthetic")),
    RewardEntry(
        "ocr",
        _ocr,
        RewardCard(
            "whether the text that the prompt quotes is there",
            "0..1",
            "Apache-2.0",
            "arXiv 2505.05470",
        ),
        packages=("rapidocr", "onnxruntime", "rapidfuzz"),
    ),
)
