"""A model of each class runs at 416 x 608: explored, redrawn, trained on, evaluated, reported, exported.

The models are tiny and of random weights; server, trainer and export are the real ones. What the
exported LoRA draws in the family's own diffusers pipeline is what trainer and server draw of that seed.
FLUX.1-schnell and SD3.5 Large are of the same classes; what they draw is compared in
`tests/engines/families/test_pipelines.py`.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from heliostat_engines.adapters import CONFIG_FILE, TENSORS_FILE, AdapterFiles
from heliostat_engines.families import get_family
from heliostat_engines.precisions import Precision
from heliostat_engines.sampling.noise import initial_noise
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import ServerRecord, StateFolder
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_trainer.evaluation.results import Evaluation
from heliostat_trainer.export import Format, export_run
from heliostat_trainer.record import RunRecord, read_run
from heliostat_trainer.report import write_report
from tests.e2e.training import Address, Run, write_toml
from tests.engines.families.pipelines import call_pipeline, load_pipeline
from tests.server.rollout_client import RolloutClient

WIDTH_PX, HEIGHT_PX = SIZE = (416, 608)
STEPS = 2
"""Of redraws and held-out images."""
WITHIN = 0.01
"""Of an image's norm: it is kept in 8 bits, and float32 sums in another order."""
FEW = {
    "run.steps": "1",
    "run.device": "cpu",
    "run.threads": "1",
    "model.resolution_px": f"{WIDTH_PX}x{HEIGHT_PX}",
    "model.sample_batch": "2",
    "prompts.per_step": "1",
    "recipe.candidates": "2",
    "recipe.keep_pairs": "1",
    "recipe.explore_steps": "1",
    "recipe.steps": str(STEPS),
    "objective.timestep_fraction": "0.5",
    "recipe.explore_ahead": "0",
    "optimiser.lr": "0.1",
    "evaluation.prompts": "1",
    "evaluation.seeds_per_prompt": "1",
    "evaluation.steps": str(STEPS),
}
"""As little as can be drawn, and a step that moves every picture."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sana", "flux", "sd3.5-medium"])
def test_a_run_draws_upright_images_as_its_export_does_in_the_pipeline(
    name: str, tmp_path: Path, computing: Callable[[str], None]
) -> None:
    computing("float32")  # in BF16 trainer and pipeline would round apart
    family, checkpoint = get_family(name), tmp_path / "checkpoint"
    family.write_tiny_checkpoint(checkpoint)
    coarsest = family.decoders(str(checkpoint))[-1]
    own = {"model.family": name, "recipe.explore_decoder": str(coarsest)}
    settings = ServeSettings(
        family=name,
        checkpoint=str(checkpoint),
        resolution_px=family.resolutions.smallest_px,
        limits=LimitSettings(batch=1, resolutions_px=(SIZE,)),
        precision=Precision.BF16,
        max_rank=4,
        threads=1,
        state=tmp_path / "state",
        port=0,
        http_port=0,
    )
    with background_server(settings) as server:
        token = StateFolder(settings.state).read_admin_token()
        run = Run(
            write_toml(tmp_path, checkpoint),
            Address(f"grpc://{server.control}", token),
            "upright",
            *(f"--{key}={value}" for key, value in (FEW | own).items()),
        )
        run.complete()
        record = read_run(run.folder)
        base, trained = record.progress
        exported = export_run(run.folder, Format.DIFFUSERS).path
        served = draw_on_server(server, token, exported, trained)

    (prompt,), ((seed,),) = trained.prompts, trained.seeds
    pipeline = load_pipeline(name, checkpoint, torch.float32)
    pipeline.load_lora_weights(exported)
    noise = initial_noise([seed], family.latent_shape(SIZE))
    (drawn,) = call_pipeline(name, pipeline, [prompt], noise, STEPS, SIZE, "pt")

    assert drawn.shape == (3, HEIGHT_PX, WIDTH_PX)
    for picture in (served, kept(record, trained)):
        assert apart(picture, drawn) < WITHIN
    assert apart(kept(record, base), drawn) > 5 * WITHIN, "the LoRA must matter for the test to"
    page = write_report(run.folder).read_text()
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(uri))).size for uri in uris]
    assert sizes.count(SIZE) >= 4  # the best and the worst, as explored and as redrawn


def draw_on_server(
    server: ServerRecord, token: str, exported: Path, evaluation: Evaluation
) -> torch.Tensor:
    """image[3, H, W] of an evaluation's first seed under an exported LoRA: explored, then decoded."""
    assert server.rollout is not None
    assert server.control is not None
    client = RolloutClient(server.rollout, server.control, token)
    files = AdapterFiles(
        (exported / CONFIG_FILE).read_bytes(), (exported / TENSORS_FILE).read_bytes()
    )
    prompt, seed = evaluation.prompts[0], evaluation.seeds[0][0]
    (answer,) = client.explore(
        [seed],
        timeout_s=300,
        version=client.publish(files).version,
        prompt=prompt,
        steps=STEPS,
        rewards=[],
        returnLatents=True,
        widthPx=WIDTH_PX,
        heightPx=HEIGHT_PX,
    )
    scored = client.score(answer["LATENTS"], prompts=[prompt], returnImages=True)
    client.close()
    return as_image(scored["IMAGES"][0])


def kept(record: RunRecord, evaluation: Evaluation) -> torch.Tensor:
    """image[3, H, W]: the one that an evaluation kept."""
    return as_image(record.images(evaluation)[0][0])


def as_image(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def apart(image: torch.Tensor, other: torch.Tensor) -> float:
    return float((image - other).norm() / other.norm())
