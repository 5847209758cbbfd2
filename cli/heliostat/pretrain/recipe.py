"""The whole recipe: drawings, autoencoder, pool, denoiser, judges, tiny decoder, export.

Every stage keeps what it made in the data folder and takes up where it was stopped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from heliostat.pretrain.autoencoder import (
    AutoencoderSettings,
    calibrate,
    painted_batch,
    polish_decoder,
    train_autoencoder,
)
from heliostat.pretrain.captions import Scene
from heliostat.pretrain.denoiser import (
    DenoiserData,
    DenoiserSettings,
    train_denoiser,
)
from heliostat.pretrain.drawings import PACKAGES, Drawings, load_drawings
from heliostat.pretrain.evaluation import (
    EvaluationSettings,
    Sampler,
    autoencoder_psnr_db,
    base_model_figures,
    judge_accuracy,
    save_sheet,
)
from heliostat.pretrain.export import (
    CalibrationSettings,
    export_calibration,
    export_judges,
    export_model,
    export_part,
)
from heliostat.pretrain.judges import (
    Family,
    FamilySettings,
    JudgeSettings,
    JudgeStudio,
    draw_family,
    train_judge,
)
from heliostat.pretrain.pool import (
    Captions,
    PoolSettings,
    load_captions,
    load_latents,
    pool_scene,
)
from heliostat.pretrain.prompts import (
    PromptSettings,
    animal_prompts,
    hard_prompts,
    training_prompts,
    write_prompts,
)
from heliostat.pretrain.scenes import LayoutSettings, Painter
from heliostat.pretrain.tiny_decoder import (
    Predictions,
    TinyDecoderSettings,
    load_predictions,
    tiny_decoder_psnr_db,
    train_tiny_decoder,
)
from heliostat.pretrain.training import TrainSettings
from heliostat.pretrain.vocabulary import BACKGROUNDS, NOUNS
from heliostat_engines.families.decoder import TINY_FOLDER
from heliostat_engines.families.demo.text_encoder import DemoTextEncoder
from heliostat_engines.files.atomic import atomic_text, claim_folder
from heliostat_engines.files.ownership import Layout
from heliostat_server.rewards.demo.network import Judge, JudgeArchitecture

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL, SD3Transformer2DModel

JUDGE, HELDOUT_JUDGE = "judge", "judge_heldout"
FIGURES = "figures.json"
WEIGHTS = Layout(
    kind="the demo model's weights",
    advice="give another folder with --out",
    required=frozenset({FIGURES, "transformer", "vae"}),
    patterns=("transformer/*", "vae/*", f"{TINY_FOLDER}/*", "*.safetensors", "*.txt"),
)
DATA = Layout(
    kind="the data of the demo model's recipe",
    advice="give another folder with --data",
    required=frozenset({"drawings.safetensors"}),
    patterns=("*.safetensors", "*.jsonl", "samples_guidance_*.png", "package*.json"),
)


def _judges() -> dict[str, JudgeSettings]:
    """The rewarding judge and the one that only evaluates: apart in widths, seed and drawings.

    The first knows every style that the denoiser can draw: training moves away from one that its
    reward does not know.
    """
    return {
        JUDGE: JudgeSettings(
            sets=tuple(PACKAGES),
            training=TrainSettings(
                steps=1200, batch=96, learning_rate=2e-3, seed=5, decay_steps=600
            ),
        ),
        HELDOUT_JUDGE: JudgeSettings(
            sets=("twemoji", "fluent"),
            training=TrainSettings(
                steps=800, batch=96, learning_rate=2e-3, seed=6, decay_steps=400
            ),
            architecture=JudgeArchitecture(image_width=20, kernel=5, embedding=96),
        ),
    }


@dataclass(frozen=True)
class RecipeSettings:
    """Every number of the recipe; the defaults made the weights that ship."""

    layout: LayoutSettings = field(default_factory=LayoutSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    families: FamilySettings = field(default_factory=FamilySettings)
    judges: dict[str, JudgeSettings] = field(default_factory=_judges)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    tiny_decoder: TinyDecoderSettings = field(default_factory=TinyDecoderSettings)
    calibration_images: int = 512
    """Pictures from which the latents' shift and scale are measured."""


class Recipe:
    """The stages. A property is made when first asked for, from the properties before it."""

    def __init__(self, data: Path, settings: RecipeSettings) -> None:
        self.data = data
        self.settings = settings

    @cached_property
    def drawings(self) -> Drawings:
        """Fetched and rasterised."""
        return load_drawings(self.data)

    @cached_property
    def encoder(self) -> DemoTextEncoder:
        """The text encoder; it is not trained."""
        return DemoTextEncoder()

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """Trained, with its latents' shift and scale in its config."""
        painter = self.painter(tuple(PACKAGES))
        path = self.data / "autoencoder.safetensors"
        model = train_autoencoder(self.settings.autoencoder, painter, path)
        calibrate(model, painted_batch(painter, self.settings.calibration_images, "calibrate"))
        return model

    @cached_property
    def polished_autoencoder(self) -> AutoencoderKL:
        """The same encoder with a decoder trained for longer: latents keep their meaning."""
        painter = self.painter(tuple(PACKAGES))
        path = self.data / "decoder.safetensors"
        return polish_decoder(self.autoencoder, self.settings.autoencoder, painter, path)

    @cached_property
    def denoiser_data(self) -> DenoiserData:
        """The pool: latents of painted scenes, and their captions."""
        settings = self.settings.pool
        painter = self.painter(settings.sets)
        scenes = [pool_scene(settings, number) for number in range(settings.size)]
        captions = load_captions(self.data / "captions.safetensors", scenes, self.encoder)
        latents = load_latents(
            self.data / "latents.safetensors", settings, painter, self.autoencoder
        )
        rows = torch.tensor([captions.index[scene.caption] for scene in scenes])
        return DenoiserData(latents, rows, captions.conditioning)

    @cached_property
    def denoiser(self) -> SD3Transformer2DModel:
        """Trained on the pool."""
        path = self.data / "denoiser.safetensors"
        return train_denoiser(self.settings.denoiser, self.denoiser_data, path)

    @cached_property
    def judges(self) -> dict[str, Judge]:
        """Trained and calibrated, by name."""
        return {
            name: train_judge(
                settings, self.studio(settings.sets), self.data / f"{name}.safetensors"
            )
            for name, settings in self.settings.judges.items()
        }

    def predictions(self, checkpoint: Path) -> Predictions:
        """What the exported model draws of all prompts that training may use, for the tiny decoder."""
        prompts = [
            *training_prompts(self.settings.prompts),
            *hard_prompts(held_out=False),
            *animal_prompts(held_out=False),
        ]
        path = self.data / "predictions.safetensors"
        return load_predictions(path, checkpoint, self.encoder, prompts, self.settings.tiny_decoder)

    def painter(self, sets: tuple[str, ...]) -> Painter:
        """A painter that draws in the styles of `sets`."""
        return Painter(self.drawings, sets, self.settings.layout)

    def studio(self, sets: tuple[str, ...]) -> JudgeStudio:
        """What a judge that knows these drawing sets is trained with."""
        families, captions = self._families
        trained = families[: self.settings.families.size]
        return JudgeStudio(trained, captions, self.painter(sets), self.autoencoder)

    def evaluation_studio(self, sets: tuple[str, ...]) -> JudgeStudio:
        """Families that no judge was trained on, in the given drawing sets."""
        families, _ = self._families
        return replace(self.studio(sets), families=families[self.settings.families.size :])

    @cached_property
    def _families(self) -> tuple[list[Family], Captions]:
        settings = self.settings.families
        count = settings.size + settings.evaluated
        families = [draw_family(settings, number) for number in range(count)]
        scenes = [scene for family in families for scene in family]
        # For naming one thing among all: every name on every background.
        scenes += [Scene((n.singular,), color) for n in NOUNS for color in BACKGROUNDS]
        path = self.data / "judge_captions.safetensors"
        return families, load_captions(path, scenes, self.encoder)


def run(
    out: Path,
    data: Path,
    *,
    judges_out: Path | None = None,
    prompts_out: Path | None = None,
    settings: RecipeSettings | None = None,
) -> None:
    """Make the demo's weights: transformer, vae and vae_tiny in `out`, judges, and their figures.

    Stopped at any point, it goes on from its latest checkpoint in `data` when called again.
    Judges and prompt files go to `out` too unless they are given folders of their own.

    Raises:
        FilesError: `out` or `data` holds files of others that have the names of ours.
        FileNotFoundError: npm is missing and the drawings are not in `data`.
        FloatingPointError: a loss is not finite.
    """
    claim_folder(out, WEIGHTS, beside_others=True)
    claim_folder(data, DATA, beside_others=True)
    settings = settings or RecipeSettings()
    recipe = Recipe(data, settings)
    write_prompts(prompts_out or out, settings.prompts)
    export_model(out, recipe.polished_autoencoder, recipe.denoiser)
    prompts = training_prompts(settings.prompts)
    export_calibration(out, recipe.encoder, prompts, settings.calibration)
    export_judges(judges_out or out, recipe.judges)
    tiny_db = make_tiny_decoder(recipe, out)
    figures = measure(recipe) | {"tiny_decoder_psnr_db": tiny_db}
    atomic_text(out / FIGURES, json.dumps(figures, indent=2) + "\n")


def make_tiny_decoder(recipe: Recipe, out: Path) -> float:
    """Distil out/vae_tiny from the model in `out`; its peak signal-to-noise ratio to the full one in dB."""
    settings, predictions = recipe.settings.tiny_decoder, recipe.predictions(out)
    path = recipe.data / "tiny_decoder.safetensors"
    model = train_tiny_decoder(settings, predictions, recipe.judges[JUDGE], path)
    export_part(out / TINY_FOLDER, model)
    return tiny_decoder_psnr_db(model, predictions, settings)


def measure(recipe: Recipe) -> dict[str, object]:
    """The figures of the model card, and sheets of samples beside the checkpoints."""
    settings = recipe.settings
    sampler = Sampler(
        recipe.denoiser, recipe.polished_autoencoder, recipe.encoder, settings.evaluation
    )
    prompts = training_prompts(settings.prompts)
    sheet = prompts[: settings.evaluation.batch]
    for guidance in settings.evaluation.guidances:
        path = recipe.data / f"samples_guidance_{guidance:g}.png"
        save_sheet(path, sampler.draw(sheet, guidance), columns=8)
    groups = base_model_figures(sampler, recipe.judges, prompts[: settings.evaluation.prompts])
    return {
        "autoencoder_psnr_db": autoencoder_psnr_db(
            recipe.polished_autoencoder, recipe.painter(tuple(PACKAGES)), settings.evaluation
        ),
        "judge_accuracy": _judge_accuracies(recipe),
        "base_model": {
            guidance: {name: asdict(figures) for name, figures in by_judge.items()}
            for guidance, by_judge in groups.items()
        },
    }


def _judge_accuracies(recipe: Recipe) -> dict[str, dict[str, dict[str, float]]]:
    """By judge, then by drawing set: also the set that the judge was not trained on."""
    return {
        name: {
            drawing_set: asdict(
                judge_accuracy(
                    judge, recipe.evaluation_studio((drawing_set,)), recipe.settings.evaluation
                )
            )
            for drawing_set in PACKAGES
        }
        for name, judge in recipe.judges.items()
    }
