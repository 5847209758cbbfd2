"""Run folders as training leaves them, with rewards that are easy to reckon with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.evaluation.results import Evaluation, prompt_interval
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.settings.load import load_config
from tests.trainer.report.test_report import PROMPTS, keep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEMO = Path(__file__).parents[3] / "examples" / "demo.toml"
BASE = np.array([[0.1, 0.3], [0.5, 0.6]])
REWARDS = ("demo_judge", "heldout")
SERVER = {"precision": "nvfp4", "runtime": "torch", "weights_digest": "abc"}


def evaluation(
    step: int,
    gain: float,
    *,
    denoising_steps: int = 20,
    guidance: float = 1.0,
    prompts: Sequence[str] = PROMPTS,
) -> Evaluation:
    """Of the base model at step 0; `heldout` gains half of what the trained judge does."""
    values = {"demo_judge": BASE + gain, "heldout": BASE + gain / 2}
    return Evaluation(
        step=step,
        policy=PolicyName.EMA if step else PolicyName.BASE,
        guidance=guidance,
        denoising_steps=denoising_steps,
        prompts=tuple(prompts),
        seeds=((1, 2), (3, 4)),
        rewards={name: each.tolist() for name, each in values.items()},
        means={name: prompt_interval(each) for name, each in values.items()},
        statistics={"brightness": values["demo_judge"].tolist()},
        diversity=[0.2, 0.3],
    )


def leave_run(
    folder: Path,
    gains: Mapping[int, float],
    *overrides: str,
    seed: int = 0,
    step_s: float = 10.0,
    server: Mapping[str, object] = SERVER,
    lines: Mapping[str, object] | None = None,
    **made_with: object,
) -> Path:
    """A run of the demo, evaluated before the first step and after each step of `gains`.

    lines: what is in each line of metrics.jsonl besides. made_with: of the evaluations.
    """
    words = ["--run.seed", str(seed), "--reward.heldout", '["heldout"]', *overrides]
    config = load_config(
        DEMO, ["--run.name", folder.name, "--run.folder", str(folder.parent), *words]
    )
    folder.mkdir(parents=True)
    run = {"config": config.model_dump(mode="json"), "server": server, "compute_dtype": "bfloat16"}
    (folder / "run.json").write_text(json.dumps(run))
    metrics = [
        {"step": step, "elapsed_s": step_s * step, "seconds": {"explore": 2.0, "optimise": 1.0}}
        | dict(lines or {})
        for step in range(1, max(gains, default=0) + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in metrics))
    for step, gain in {0: 0.0, **gains}.items():
        keep(folder, step, [evaluation(step, gain, **made_with)])  # type: ignore[arg-type]
    return folder
