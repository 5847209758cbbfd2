"""Whether the server is understood, and a run's settings fit it: found out before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_engines.resolution import written
from heliostat_engines.settings.writing import literal
from heliostat_engines.suggestions import suggest
from heliostat_trainer.errors import ConfigError, ServerRefusedError
from heliostat_trainer.prompts.places import place_of
from heliostat_trainer.rollouts.turns import check_turns
from heliostat_wire.version import OURS, disagreement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from heliostat_engines.resolution import Resolution
    from heliostat_proto.control_pb2 import InfoResponse
    from heliostat_trainer.prompts.sets import PromptSets
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.settings.prompts import HubPrompts
    from heliostat_trainer.tuning import Decision
    from heliostat_trainer.types import ServerInfo


def check_wire(answer: InfoResponse, url: str) -> None:
    """Compare versions of the wire, whenever the server at a URL says what it is: it may be a new one.

    Raises:
        ServerRefusedError: one side is too old for the other; says which.
    """
    problem = disagreement(answer, OURS)
    if problem is not None:
        raise ServerRefusedError(f"{url}: {problem}")


def check_against_server(
    config: TrainConfig, info: ServerInfo, prompts: PromptSets, resolution_px: Resolution
) -> None:
    """Compare the settings with what the server serves and allows.

    Args:
        config: the run's settings.
        info: the server's.
        prompts: those that will be sent.
        resolution_px: the run's, with the family's default filled in.

    Raises:
        ConfigError: one sentence that names the setting.
    """
    _check_model(config, info, resolution_px)
    _check_rewards(config, info)
    _check_rollouts(config, info)
    check_turns(config, info)
    _check_decoder(config, info)
    _check_sizes(config, info, prompts)
    for source in _sources(config, prompts):
        longest = max(source.prompts, key=len)
        if len(longest) > info.max_prompt_chars:
            raise ConfigError(
                f"{source.place(longest)}: the server takes prompts of up to "
                f"{info.max_prompt_chars} characters, this one has {len(longest)} "
                f"({longest[:40]!r}…): shorten it, or start the server with --max-prompt-chars"
            )


def check_prompts(config: TrainConfig, server: RolloutService, prompts: PromptSets) -> None:
    """Ask the server whether the run's rewards take its prompts.

    Raises:
        ConfigError: file and line of the first that one refuses, in the reward's words.
    """
    for source in _sources(config, prompts):
        refused = server.refused_prompts(source.prompts, source.rewards)
        if refused.count:
            first = refused.first[0]
            others = f" (and so with {refused.count - 1} more)" if refused.count > 1 else ""
            raise ConfigError(
                f"{source.place(first.prompt)}: {first.reason}{others}: change the prompt, leave it "
                "out, or train on another reward"
            )


@dataclass(frozen=True)
class _Source:
    """Prompts that are sent, where they are from, and the rewards that rate their images."""

    setting: str
    source: Path | HubPrompts
    prompts: tuple[str, ...]
    rewards: tuple[str, ...]
    sizes: Mapping[str, Resolution]
    """Of those prompts whose images have a size of their own."""

    def place(self, prompt: str) -> str:
        """Setting, file and line."""
        return f"{self.setting}: {place_of(prompt, self.source)}"


def _sources(config: TrainConfig, prompts: PromptSets) -> tuple[_Source, ...]:
    settings, reward = config.prompts, config.reward
    train = _Source("prompts.train", settings.train, prompts.train, reward.trained, prompts.sizes)
    held_of = ("prompts.train", settings.train)
    if settings.heldout is not None:
        held_of = ("prompts.heldout", settings.heldout)
    held = _Source(*held_of, prompts.heldout, reward.all, prompts.heldout_sizes)
    return tuple(source for source in (train, held) if source.prompts)


def checkpoint_warnings(checkpoint: str, digest: str, info: ServerInfo) -> tuple[str, ...]:
    """A sentence if server and trainer load different weights, or may do so.

    `digest` is of the trainer's own, empty if it is not known (`weights_digest`).
    """
    if info.has_weights(checkpoint, digest):
        return ()
    if digest and info.weights_digest:
        return (
            f"the server explores with other weights ({info.checkpoint}) than the trainer trains "
            f"({checkpoint}): set model.checkpoint to the server's, or start the server with "
            "--checkpoint",
        )
    return (
        f"the server serves checkpoint {info.checkpoint}, the trainer loads {checkpoint}: make "
        "sure that they hold the same weights, or set model.checkpoint",
    )


def _check_model(config: TrainConfig, info: ServerInfo, resolution_px: Resolution) -> None:
    if config.model.family != info.family:
        raise ConfigError(
            f"the server serves the model family {info.family!r}: set model.family to it, or "
            f"server.url to a server of {config.model.family!r}"
        )
    if resolution_px not in info.sizes:
        raise ConfigError(
            f"the server draws {' and '.join(map(written, info.sizes))} px images: set model.resolution_px = "
            f"{' or '.join(map(literal, info.sizes))}, not {literal(resolution_px)}, or start the server with "
            f"--resolutions-px {written(resolution_px)}"
        )
    if config.lora.rank > info.max_rank:
        raise ConfigError(
            f"lora.rank = {config.lora.rank}, but the server takes up to {info.max_rank}: lower "
            f"it, or start the server with --max-rank {config.lora.rank}"
        )


def _check_rewards(config: TrainConfig, info: ServerInfo) -> None:
    for reward in config.reward.all:
        if reward in info.rewards:
            continue
        trained = "reward.name" if config.reward.name else "reward.weights"
        setting = trained if reward in config.reward.trained else "reward.heldout"
        raise ConfigError(
            f"{setting}: the server has no reward {reward!r}: {suggest(reward, info.rewards)}it has "
            f"{', '.join(info.rewards)}"
        )


def check_decisions(decisions: Sequence[Decision], step: int, info: ServerInfo) -> None:
    """Refuse to go on, with training step `step`, with a run tuned to what this server does not draw.

    Raises:
        ConfigError: says which of the server's settings it is.
    """
    made = [decision for decision in decisions if decision.step <= step]
    for decision in (*made[-1:], *decisions[len(made) :]):
        shape = decision.shape
        asked = f"the run has tuned itself to {shape.candidates} candidates from step {decision.step} on"
        _check_candidates(asked, shape.candidates, shape.kept, info)


def _check_candidates(asked: str, candidates: int, kept: int, info: ServerInfo) -> None:
    """Refuse a number of candidates that the server does not draw of a prompt.

    Args:
        asked: who wants so many, in words.
        candidates: how many.
        kept: of those, the samples trained on.
        info: the server's.

    Raises:
        ConfigError: names the numbers nearest that it draws.
    """
    batch, most = info.batch, info.most_candidates
    if candidates % batch == 0 and candidates <= most:
        return
    lower = min(candidates, most) // batch * batch
    near = [str(count) for count in (lower, lower + batch) if kept <= count <= most]
    fitting = f"begin a run with recipe.candidates = {' or '.join(near)}, or " if near else ""
    queue = (
        " (max_queued_images, the experiment's or the server's)" if most < info.max_seeds else ""
    )
    raise ConfigError(
        f"{asked}, but the server draws a prompt's in multiples of {batch} (its --batch) and up to "
        f"{most}{queue}: {fitting}have these limits changed on the server"
    )


def _check_decoder(config: TrainConfig, info: ServerInfo) -> None:
    """Also where the trainer itself explores, and the server only decodes and rewards."""
    decoder = config.recipe.pool_decoder
    if lacks := info.shortcoming(decoder=decoder):
        raise ConfigError(
            f"recipe.explore_decoder = {decoder.value!r}, but the server {lacks}: leave it out, or start a "
            "newer server that finds one in its checkpoint's folder vae_tiny or in the Hugging Face cache"
        )


def _check_sizes(config: TrainConfig, info: ServerInfo, prompts: PromptSets) -> None:
    for source in _sources(config, prompts):
        for prompt, size in source.sizes.items():
            if size not in info.sizes:
                raise ConfigError(
                    f"{source.place(prompt)}: resolution = {literal(size)}, but the server draws "
                    f"{' and '.join(map(written, info.sizes))} px images alone: change it, or start the "
                    f"server with --resolutions-px {written(size)}"
                )


def _check_rollouts(config: TrainConfig, info: ServerInfo) -> None:
    recipe = config.recipe
    if not recipe.explores:
        return
    _check_candidates(f"recipe.candidates = {recipe.pool}", recipe.pool, recipe.kept, info)
    scores_early = recipe.tune or recipe.pool_evaluations < recipe.pool_steps
    if lacks := info.shortcoming(early=scores_early):
        setting = (
            "recipe.tune = true" if recipe.tune else f"recipe.score_after = {recipe.score_after}"
        )
        raise ConfigError(
            f"{setting}, but the server {lacks}: leave it out, or start a newer server"
        )
    if lacks := info.shortcoming(solver=recipe.solver):
        raise ConfigError(
            f"recipe.solver = {recipe.solver.value!r}, but the server {lacks}: set it to that, or "
            "start a newer server"
        )
    for setting, steps in _explored_steps(config).items():
        if steps > info.max_steps:
            raise ConfigError(
                f"{setting} = {steps}, but the server denoises in up to {info.max_steps} steps: "
                "lower it"
            )


def _explored_steps(config: TrainConfig) -> dict[str, int]:
    """Settings that say in how many denoising steps the server draws candidates."""
    recipe, most = config.recipe, config.watch.max_explore_steps
    if not recipe.redraws:
        return {"recipe.steps": recipe.pool_steps}
    raised = {} if most is None else {"watch.max_explore_steps": most}
    return {"recipe.explore_steps": recipe.pool_steps, **raised}
