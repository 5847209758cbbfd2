"""How often does the base model draw a task's prompts so that the judge says yes?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.randomness import Purpose, candidate_seeds
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.ranks.ranks import Ranks
from heliostat_trainer.workshop import build_workshop, choose_device
from tests.benchmarks.in_process import demo_service
from tests.benchmarks.tasks import JUDGE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from heliostat_trainer.settings.config import TrainConfig

PROMPTS, CANDIDATES = 40, 24
THRESHOLDS = (0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
POOLS = {1: "images", 4: "pools of 4", 24: "pools of 24"}
"""Of so many candidates of a prompt each."""


def show_base_success(config: TrainConfig) -> None:
    """Draw the first training prompts and print, by threshold, how many pools have a success."""
    scores = judged(config)
    columns = [f"{title} with a success" for title in POOLS.values()]
    title = f"{len(scores)} prompts x {CANDIDATES} candidates, {config.recipe.steps} steps"
    table = Table(f"{JUDGE} at least", *columns, title=title)
    for threshold in THRESHOLDS:
        shares = [success_of_pools(scores, threshold, size) for size in POOLS]
        table.add_row(f"{threshold:g}", *(f"{share:.1%}" for share in shares))
    Console().print(table)


def judged(config: TrainConfig) -> NDArray[np.float64]:
    """The judge's scores[P, CANDIDATES] of what the base model draws in BF16."""
    service = demo_service(str(choose_device(config.run.device)))
    artist = build_workshop(config, service.info().lora_targets, Ranks(), Interrupts()).artist
    prompts = read_prompt_sets(config).train[:PROMPTS]
    rows = [row for row in range(len(prompts)) for _ in range(CANDIDATES)]
    seeds = [
        seed
        for row in range(len(prompts))
        for seed in candidate_seeds(config.run.seed, Purpose.CANDIDATES, CANDIDATES, 1, row)
    ]
    conditioning = artist.prepare(service.encode(prompts))
    latents = artist.draw(PolicyName.BASE, seeds, conditioning, rows, config.recipe.steps)
    scores = service.score(latents, [prompts[row] for row in rows], [JUDGE]).rewards
    return scores.reshape(len(prompts), CANDIDATES)


def success_of_pools(scores: NDArray[np.float64], threshold: float, size: int) -> float:
    """Which share of pools of so many candidates, of scores[P, N], has at least one success."""
    return float((scores >= threshold).reshape(-1, size).any(axis=1).mean())
