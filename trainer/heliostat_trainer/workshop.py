"""What a rank evaluates and trains the transformer with; the same on every rank of a run."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat_engines.families import get_family
from heliostat_engines.machine import hardware
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.learning.learner import Learner
from heliostat_trainer.objectives.build import build_objective
from heliostat_trainer.objectives.grpo import stochastic_sampler
from heliostat_trainer.policy.artist import Artist
from heliostat_trainer.policy.policy import Policy
from heliostat_trainer.ranks.launch import local_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from heliostat_engines.families.family import Family
    from heliostat_engines.progress import Stages
    from heliostat_trainer.ranks.interrupts import Interrupts
    from heliostat_trainer.ranks.ranks import Ranks
    from heliostat_trainer.settings.config import TrainConfig


@dataclass(frozen=True)
class Workshop:
    """A policy, and who draws with it and trains it."""

    policy: Policy
    artist: Artist
    learner: Learner


def build_workshop(
    config: TrainConfig,
    targets: Mapping[str, tuple[int, int]],
    ranks: Ranks,
    interrupts: Interrupts,
    stages: Stages | None = None,
    family: Family | None = None,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Workshop:
    """Load the model; `targets` are the server's LoRA targets, `stages` hear what it then does.

    `family` takes the place of model.family. All work is within `turn`, as `Artist` draws.

    Raises:
        ConfigError: settings do not fit the model, the devices or the ranks.
        CheckpointError: the model cannot be read.
    """
    if config.model.shard and ranks.size == 1:
        raise ConfigError(
            "model.shard = true spreads the transformer over several ranks, and there is one: "
            "start with torchrun --nproc-per-node N, or set it to false"
        )
    family = family or get_family(config.model.family)
    resolution_px = config.model.resolution_of(family)
    device = choose_device(config.run.device)
    policy = Policy(
        family,
        config.model.checkpoint_of(family),
        targets,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        seed=config.run.seed,
        device=device,
        gradient_checkpointing=config.model.gradient_checkpointing,
        compiled=config.model.compile,
        mesh=ranks.mesh(device) if config.model.shard else None,
    )
    sigmas = family.sigmas(config.recipe.steps, resolution_px)
    sampler = stochastic_sampler(config.objective, sigmas)
    objective = build_objective(config.objective, sampler)
    batch = config.model.sample_batch
    undisturbed = interrupts.shielded if config.model.shard else nullcontext
    return Workshop(
        policy,
        Artist(
            policy,
            family,
            resolution_px,
            batch,
            sampler,
            ranks,
            undisturbed,
            stages,
            config.recipe.solver,
            turn,
        ),
        Learner(
            config,
            policy,
            objective,
            sigmas,
            interrupts,
            ranks,
            undisturbed,
            stages,
            lambda shape: family.sigmas(config.recipe.steps, family.resolution_of(shape)),
            turn,
        ),
    )


def choose_device(name: str) -> torch.device:
    """The device of run.device; auto takes CUDA where there is a card. Under torchrun a rank's own.

    Raises:
        HardwareError: CUDA is asked for and there is none.
        ConfigError: there is not a card for each rank.
    """
    name = hardware.choose_device(name, f"run.device = {name!r}")
    cards, rank = torch.cuda.device_count(), local_rank()
    if name == "cpu" or rank is None:
        return torch.device(name)
    if name != "cuda":
        raise ConfigError(
            f"run.device = {name!r} is one card, and torchrun gives each rank its own: set it to cuda"
        )
    if rank >= cards:
        raise ConfigError(
            f"torchrun started more ranks than this machine has cards: --nproc-per-node {cards}"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device
