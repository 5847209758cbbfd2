"""The whole loop in one file: explore, select, redraw, train, publish. In one process, without a server.

    python examples/minimal_loop.py --run.steps 5
    python examples/minimal_loop.py --run.steps 5 --recipe.keep_pairs 4 --objective.name awm

Trains the demo's model by `demo.toml`, whose settings are given as to `heliostat train`, and writes the
LoRA to the run's folder. What a step trains is what `heliostat train` trains, to the bit, if
`recipe.explore_ahead` is 0 and nothing is tuned. Left out is what goes round it: evaluations, checkpoints,
metrics, exploring ahead, watching and tuning, and the recipes that do not explore and redraw.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat.examples import example
from heliostat.in_process import demo_service
from heliostat_engines.errors import HeliostatError
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.exploring.requests import group_requests
from heliostat_trainer.exploring.selection import select
from heliostat_trainer.export import write_lora_folder
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.prompts.sources import step_prompts
from heliostat_trainer.randomness import Purpose, stream
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.ranks.ranks import Ranks
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.types import ExploreSteps, Samples
from heliostat_trainer.workshop import build_workshop, choose_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Group, PublishedAdapter, Selection, UpdateReport
    from heliostat_trainer.workshop import Workshop


ALONE = ("--run.name", "minimal", "--prompts.min_spread", "0")
"""What is not as `demo.toml` has it: every group teaches, even one of equal rewards."""


@dataclass(frozen=True)
class Loop:
    """A training step in the words of the paper; the order of `step` is the order of things."""

    config: TrainConfig
    service: RolloutService
    workshop: Workshop
    prompts: tuple[str, ...]

    def step(self, number: int, adapter: PublishedAdapter) -> tuple[UpdateReport, PublishedAdapter]:
        """Train on what `adapter`, the old policy, explores; publish what it has become."""
        seed, per_step = self.config.run.seed, self.config.prompts.per_step
        prompts = step_prompts(self.prompts, per_step, seed, number)
        conditioning = self.workshop.artist.prepare(self.service.encode(prompts))
        groups = self.explore(prompts, number, adapter)
        selections = [self.select(group, number) for group in groups]
        samples = self.redraw(selections, conditioning)
        report = self.workshop.learner.update(samples, conditioning, number)
        return report, self.publish()

    def explore(
        self, prompts: Sequence[str], number: int, adapter: PublishedAdapter
    ) -> Sequence[Group]:
        """A group of candidates a prompt: many seeds, drawn in NVFP4 in few steps, and rewarded."""
        recipe = self.config.recipe
        steps = ExploreSteps(recipe.explore_steps, recipe.score_after)
        requests = group_requests(self.config, prompts, number, recipe.candidates, steps)
        return list(self.service.explore(requests, adapter))

    def select(self, group: Group, number: int) -> Selection:
        """The candidates that teach most: the best and the worst."""
        recipe = self.config.recipe
        random = stream(self.config.run.seed, Purpose.SELECTION, number, group.request.row)
        return select(group, recipe.selection, recipe.kept, random)

    def redraw(
        self, selections: Sequence[Selection], conditioning: Conditioning
    ) -> Sequence[Samples]:
        """Their seeds drawn again from the same noise, unquantised and with all steps; rewarded again."""
        steps = self.config.recipe.steps
        requests = [chosen.redrawn_in(steps) for chosen in selections]
        seeds = [seed for request in requests for seed in request.seeds]
        rows = [request.row for request in requests for _ in request.seeds]
        prompts = [request.prompt for request in requests for _ in request.seeds]
        latents, trajectory = self.workshop.artist.rollout(seeds, conditioning, rows, steps)
        scores = self.service.score(latents, prompts, self.config.reward.sum.names)
        return Samples.of(requests, latents, scores.rewards, trajectory)

    def publish(self) -> PublishedAdapter:
        """Give the old policy to what explores."""
        policy = self.workshop.policy
        return self.service.publish(policy.weights[PolicyName.OLD].pack(policy.alpha))


def main(settings: Sequence[str]) -> Path:
    """Train as `demo.toml` and the settings say; returns the LoRA's folder."""
    config = load_config(example("demo.toml"), [*ALONE, *settings])
    recipe, prompts = config.recipe, config.prompts
    if not recipe.explores_and_redraws or recipe.tune or recipe.replay:
        raise ConfigError(
            "this loop explores and redraws, tunes and replays nothing: leave recipe.replay out, and "
            "set recipe.name = sol_rl, or recipe.tune = false"
        )
    if prompts.min_spread or prompts.by_spread:
        raise ConfigError(
            "this loop takes prompts as they come: set prompts.min_spread and prompts.by_spread to 0"
        )
    service = demo_service(str(choose_device(config.run.device)))
    workshop = build_workshop(config, service.info().lora_targets, Ranks(), Interrupts())
    loop = Loop(config, service, workshop, read_prompt_sets(config).train)
    adapter = loop.publish()
    for number in range(1, config.run.steps + 1):
        report, adapter = loop.step(number, adapter)
        print(f"step {number}: loss {report.loss:.4f}, published version {adapter.version}")
    folder = config.run.path / "lora"
    write_lora_folder(workshop.policy.weights[PolicyName.EMA], workshop.policy.alpha, folder)
    return folder


if __name__ == "__main__":
    try:
        print(f"LoRA in {main(sys.argv[1:])}")
    except HeliostatError as error:
        sys.exit(f"heliostat: {error}")
