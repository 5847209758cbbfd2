"""One group for people to look at: what exploration saw, beside what is trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from scipy import stats

from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.text import content_of, read_json
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.folder.layout import IMAGES, SHOWCASE_LAYOUT, SHOWN
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.types import ExploreSteps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from heliostat_trainer.policy.artist import Artist
    from heliostat_trainer.rollouts.service import RolloutService, Scores
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter


@dataclass(frozen=True)
class Pair:
    """One candidate twice: images[H, W, 3] as explored and as redrawn, with their rewards."""

    explored: NDArray[np.uint8]
    redrawn: NDArray[np.uint8]
    proxy: float
    reward: float


@dataclass(frozen=True)
class Showcase:
    """The best and the worst of a group by their explored rewards, best and worst first."""

    prompt: str
    candidates: int
    explore_steps: ExploreSteps
    steps: int
    rho: float | None
    """Spearman's correlation of explored and redrawn rewards over the whole group; None where one
    of them is the same for all."""
    best: tuple[Pair, ...]
    worst: tuple[Pair, ...]


def keep_showcase(
    server: RolloutService,
    adapter: PublishedAdapter,
    artist: Artist,
    request: GroupRequest,
    steps: int,
    folder: Path,
    each: int = 6,
) -> None:
    """Explore a group, redraw all of it with `steps` steps, and keep up to `each` best and worst.

    Raises:
        FilesError: the folder cannot be written.
    """
    (group,) = server.explore([request], adapter)
    assert group.latents is not None
    conditioning = artist.prepare(server.encode([request.prompt]))
    rows = [0] * len(request.seeds)
    redrawn = artist.draw(
        PolicyName.OLD,
        request.seeds,
        conditioning,
        rows,
        steps,
        resolution_px=request.resolution_px,
    )
    truth = server.score(
        redrawn, [request.prompt] * len(redrawn), request.reward.names, return_images=True
    )
    seen = server.score(group.latents, [request.prompt] * len(redrawn), [], return_images=True)
    _write(group, seen, truth, steps, folder, each)


def read_showcase(folder: Path) -> Showcase | None:
    """What `keep_showcase` kept; None if the run has none. Raises RunFolderError."""
    path = folder / SHOWN
    if not path.exists():
        return None
    with content_of(path, kind=RunFolderError):
        return _showcase(read_json(path), load_file(folder / IMAGES))


def _showcase(content: Mapping[str, Any], images: Mapping[str, torch.Tensor]) -> Showcase:
    pairs = [
        Pair(explored, redrawn, float(proxy), float(reward))
        for explored, redrawn, proxy, reward in zip(
            images["explored"].numpy(),
            images["redrawn"].numpy(),
            content["proxy"],
            content["reward"],
            strict=True,
        )
    ]
    half, early = len(pairs) // 2, content.get("score_after")
    return Showcase(
        prompt=str(content["prompt"]),
        candidates=int(content["candidates"]),
        explore_steps=ExploreSteps(
            int(content["explore_steps"]), None if early is None else int(early)
        ),
        steps=int(content["steps"]),
        rho=None if content["rho"] is None else float(content["rho"]),
        best=tuple(pairs[:half]),
        worst=tuple(pairs[half:]),
    )


def _write(group: Group, seen: Scores, truth: Scores, steps: int, folder: Path, each: int) -> None:
    assert seen.images is not None
    assert truth.images is not None
    rewards = group.request.reward.combine(truth.rewards)
    order = np.argsort(group.rewards, kind="stable")
    each = min(each, len(order) // 2)
    rows = np.concatenate([order[::-1][:each], order[:each]])
    differ = np.ptp(group.rewards) > 0 and np.ptp(rewards) > 0
    content = {
        "prompt": group.request.prompt,
        "candidates": len(order),
        "explore_steps": group.request.steps,
        "score_after": group.request.score_after,
        "steps": steps,
        "rho": float(stats.spearmanr(group.rewards, rewards).statistic) if differ else None,
        "proxy": group.rewards[rows].tolist(),
        "reward": rewards[rows].tolist(),
    }
    images = {
        "explored": torch.from_numpy(seen.images[rows].copy()),
        "redrawn": torch.from_numpy(truth.images[rows].copy()),
    }
    with atomic_folder(folder, SHOWCASE_LAYOUT) as draft:
        (draft / SHOWN).write_text(json.dumps(content), encoding="utf-8")
        (draft / IMAGES).write_bytes(save(images))
