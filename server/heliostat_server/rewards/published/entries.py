"""The published preference models: their weights, and how to load them. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from heliostat_server.rewards.definitions import AestheticReward, PretrainedReward
from heliostat_server.rewards.entry import RewardCard, RewardEntry
from heliostat_server.rewards.weights import (
    CONFIG,
    TENSORS,
    ConvertedWeights,
    HubWeights,
    locate,
)

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_server.rewards.published.clip import ClipTower, Framing
    from heliostat_server.rewards.reward import Reward, RewardContext
    from heliostat_server.rewards.weights import Weights

TOKENIZER = "tokenizer.json"
PICKSCORE_UNIT = 26.0
"""What the field's trainers divide PickScore by, which brings it near 1."""

CLIP = HubWeights("openai/clip-vit-large-patch14", (CONFIG, TENSORS, TOKENIZER), 1_710_000_000)
CLIP_TOKENIZER = HubWeights(CLIP.repo, (TOKENIZER,), 2_200_000)
BERT_TOKENIZER = HubWeights("google-bert/bert-base-uncased", (TOKENIZER,), 466_000)
PICKSCORE = HubWeights("yuvalkirstain/PickScore_v1", (CONFIG, TENSORS, TOKENIZER), 3_940_000_000)
AESTHETIC = HubWeights("ttj/sac-logos-ava1-l14-linearMSE", (TENSORS,), 3_700_000)
HPSV2 = ConvertedWeights("hpsv2", "xswu/HPSv2", "HPS_v2.1_compressed.pt")
IMAGE_REWARD = ConvertedWeights(
    "image_reward", "THUDM/ImageReward", "ImageReward.pt", 1_790_000_000
)

CARDS = {
    "pickscore": RewardCard(
        "which image people prefer for the prompt",
        "0.7..0.9: logit / 26",
        "none stated; code MIT",
        "arXiv 2305.01569",
        (PICKSCORE,),
    ),
    "clipscore": RewardCard(
        "likeness of image and prompt",
        "0.2..0.35: cosine",
        "MIT",
        "arXiv 2103.00020",
        (CLIP,),
    ),
    "hpsv2": RewardCard(
        "which image people prefer for the prompt",
        "0.2..0.4: cosine",
        "Apache-2.0",
        "arXiv 2306.09341",
        (HPSV2, CLIP_TOKENIZER),
    ),
    "image_reward": RewardCard(
        "how well the image shows the prompt, to people",
        "-2..2: standardised",
        "Apache-2.0",
        "arXiv 2304.05977",
        (IMAGE_REWARD, BERT_TOKENIZER),
    ),
    "aesthetic": RewardCard(
        "how pretty the image is, whatever the prompt",
        "1..10: points",
        "Apache-2.0; CLIP MIT",
        "arXiv 2210.08402",
        (AESTHETIC, CLIP),
    ),
}


def pretrained(name: str, definition: PretrainedReward | AestheticReward) -> RewardEntry:
    """The reward `name`, which is of the definition's kind."""
    card = CARDS[definition.kind]
    if isinstance(definition, AestheticReward):
        return RewardEntry(name, partial(_load_aesthetic, name, definition), card)
    return RewardEntry(name, partial(_LOADERS[definition.kind], name, definition), card)


def _load_pickscore(name: str, definition: PretrainedReward, context: RewardContext) -> Reward:
    from heliostat_server.rewards.published.clip import ClipSimilarity

    tower = _tower(name, PICKSCORE, definition.checkpoint, definition.dtype, context)
    return ClipSimilarity(tower, tower.logit_scale / PICKSCORE_UNIT)


def _load_clipscore(name: str, definition: PretrainedReward, context: RewardContext) -> Reward:
    from heliostat_server.rewards.published.clip import ClipSimilarity

    return ClipSimilarity(_tower(name, CLIP, definition.checkpoint, definition.dtype, context), 1.0)


def _load_hpsv2(name: str, definition: PretrainedReward, context: RewardContext) -> Reward:
    from heliostat_server.rewards.published.clip import ClipSimilarity
    from heliostat_server.rewards.published.preprocessing import padded_pixels

    tower = _tower(
        name, HPSV2, definition.checkpoint, definition.dtype, context, framed=padded_pixels
    )
    return ClipSimilarity(tower, 1.0)


def _load_image_reward(name: str, definition: PretrainedReward, context: RewardContext) -> Reward:
    from heliostat_server.rewards.published.image_reward import ImageReward

    folder = locate(name, IMAGE_REWARD, definition.checkpoint)
    tokenizer = _with_tokenizer(name, folder, BERT_TOKENIZER)
    return ImageReward(folder, tokenizer, context.device, definition.dtype)


def _load_aesthetic(name: str, definition: AestheticReward, context: RewardContext) -> Reward:
    from heliostat_server.rewards.published.aesthetic import Aesthetic

    head = locate(name, AESTHETIC, definition.checkpoint)
    tower = _tower(name, CLIP, definition.clip, definition.dtype, context)
    return Aesthetic(tower, head, context.device)


_LOADERS = {
    "pickscore": _load_pickscore,
    "clipscore": _load_clipscore,
    "hpsv2": _load_hpsv2,
    "image_reward": _load_image_reward,
}


def _tower(
    name: str,
    published: Weights,
    checkpoint: str | None,
    dtype: str,
    context: RewardContext,
    framed: Framing | None = None,
) -> ClipTower:
    """A CLIP model; rewards with the same weights that are shown the same share it.

    framed: what it is shown of an image that is no square; None: the middle, as CLIP itself.
    """
    from heliostat_server.rewards.published.clip import ClipTower
    from heliostat_server.rewards.published.preprocessing import clip_pixels

    shown = framed or clip_pixels
    folder = locate(name, published, checkpoint)
    tokenizer = _with_tokenizer(name, folder, CLIP_TOKENIZER)
    return context.share(
        (folder.resolve(), dtype, shown),
        lambda: ClipTower.load(folder, tokenizer, context.device, dtype, shown),
    )


def _with_tokenizer(name: str, folder: Path, published: HubWeights) -> Path:
    """Where the tokenizer is: with the weights, or where it was first published."""
    return folder if (folder / TOKENIZER).is_file() else locate(name, published)
