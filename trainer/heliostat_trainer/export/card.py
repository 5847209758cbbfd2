"""The model card: what was trained, how, how well it does, and how to draw with it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from heliostat_engines.resolution import width_height
from heliostat_trainer.evaluation.results import guidance_label, paired_difference
from heliostat_trainer.export.formats import Format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_engines.families.family import Family
    from heliostat_trainer.evaluation.results import Evaluation
    from heliostat_trainer.evaluation.statistics import Interval
    from heliostat_trainer.export.source import TrainedLora
    from heliostat_trainer.record import RunRecord

RECIPE = {
    "Recipe": "recipe.name",
    "Candidates a prompt": "recipe.candidates",
    "Denoising steps of exploration": "recipe.explore_steps",
    "Of these, evaluated": "recipe.score_after",
    "Their decoder": "recipe.explore_decoder",
    "Tuned on the way": "recipe.tune",
    "Trained on, of each prompt": "recipe.keep_pairs",
    "Denoising steps of the samples": "recipe.steps",
    "Solver": "recipe.solver",
    "Prompts a step": "prompts.per_step",
    "Objective": "objective.name",
    "LoRA rank": "lora.rank",
    "LoRA alpha": "lora.alpha",
    "Learning rate": "optimiser.lr",
    "Seed": "run.seed",
}


@dataclass(frozen=True)
class RewardGain:
    """One reward on held-out prompts, before and after."""

    reward: str
    trained_on: bool
    before: str
    after: str
    gain: str


def model_card(record: RunRecord, family: Family, lora: TrainedLora, kind: Format) -> str:
    """README.md with YAML front matter, as the Hugging Face hub reads it."""
    base = record.model.checkpoint_of(family)
    after = _evaluation_at(record, lora.step)
    width_px, height_px = width_height(record.model.resolution_of(family))
    template = files("heliostat_trainer.export").joinpath("card.md").read_text("utf-8")
    environment = Environment(  # noqa: S701  # Markdown, not HTML
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        front_matter=_front_matter(record, base, kind, after),
        name=record.name,
        kind=kind,
        family=family,
        base=base if _on_hub(base) else None,
        step=lora.step,
        reward=record.reward.label,
        heldout=record.reward.heldout,
        recipe=_recipe(record.settings),
        rows=_rows(record, after),
        after=after,
        guidance=guidance_label(after) if after else None,
        width_px=width_px,
        height_px=height_px,
        steps=record.settings["evaluation.steps"],
        transformer=family.transformer_class().__name__,
    )


def _front_matter(
    record: RunRecord,
    base: str,
    kind: Format,
    after: Evaluation | None,
) -> str:
    fused = kind is Format.FUSED
    results = [
        EvalResult(
            task_type="text-to-image",
            dataset_type="prompts",
            dataset_name="held-out prompts",
            metric_type=name,
            metric_value=round(after.means[name].mean, 5),
        )
        for name in (record.rewards if after else ())
        if after
    ]
    return ModelCardData(
        base_model=base if _on_hub(base) else None,
        base_model_relation=("finetune" if fused else "adapter") if _on_hub(base) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[
            "text-to-image",
            "diffusers",
            *([] if fused else ["lora"]),
            *(["comfyui"] if kind is Format.COMFYUI else []),
            "reinforcement-learning",
            "heliostat",
        ],
        model_name=record.name,
        eval_results=results or None,
    ).to_yaml()


def _recipe(settings: Mapping[str, object]) -> Sequence[tuple[str, object]]:
    rows = [(label, settings.get(key)) for label, key in RECIPE.items()]
    rows = [(label, value) for label, value in rows if value not in {None, False}]
    rows += [
        (f"`{key}`", value)
        for key, value in settings.items()
        if key.startswith("objective.") and key != "objective.name"
    ]
    return [
        (label, f"{value} best and {value} worst" if label.startswith("Trained on") else value)
        for label, value in rows
    ]


def _evaluation_at(record: RunRecord, step: int) -> Evaluation | None:
    """The evaluation of that step, or the last one before it, beside the base model's; None: none."""
    done = [e for e in record.progress[1:] if e.step <= step] if record.base else []
    return done[-1] if done else None


def _rows(record: RunRecord, after: Evaluation | None) -> list[RewardGain]:
    if after is None:
        return []
    before = record.first
    return [
        RewardGain(
            reward=name,
            trained_on=name in record.reward.trained,
            before=f"{before.means[name].mean:.4f}",
            after=f"{after.means[name].mean:.4f}",
            gain=_gain(paired_difference(after, before, name)),
        )
        for name in record.rewards
    ]


def _gain(gain: Interval) -> str:
    interval = "" if gain.half_width is None else f" ± {gain.half_width:.4f}"
    return f"{gain.mean:+.4f}{interval}"


def _on_hub(checkpoint: str) -> bool:
    path = Path(checkpoint)
    return not path.exists() and not path.is_absolute() and len(path.parts) == 2
