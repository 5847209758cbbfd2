"""Records what the demo's minutes buy without our recipe, for the demo's report to show beside it.

    python -m tests.benchmarks.demo_baseline [--minutes 8] [--folder runs]
    python -m tests.benchmarks.demo_baseline --record runs/demo-baseline

Trains the demo's model for demo.toml's minutes with DiffusionNFT as published, 24 of 24 samples a
prompt, all else as in demo.toml; or takes a run that has finished on this machine. What `heliostat
compare` reads of it goes to examples/baseline, without pictures, and with numbers of five digits.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from heliostat.demo.baseline import NAME
from heliostat.examples import example
from heliostat.own_server import demo_settings, running_server
from heliostat_engines.errors import HeliostatError
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import Layout
from heliostat_engines.machine.hardware import usable_cores
from heliostat_engines.progress import Stages
from heliostat_trainer.compare.beside import RECORDING, Recording
from heliostat_trainer.compare.groups import WITHOUT_EFFECT
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.folder.layout import RESULTS, RunEntry, RunFolder, step_folder
from heliostat_trainer.record import read_run
from heliostat_trainer.run import train
from heliostat_trainer.settings.compare import flatten, kept_config
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config
from tests.benchmarks.gradient_signal import cpu

if TYPE_CHECKING:
    from heliostat_trainer.record import RunRecord

LAYOUT = Layout(
    kind="a recorded run",
    advice="give another folder with --out",
    required=frozenset({RunEntry.RUN_FILE, RECORDING}),
    patterns=(RunEntry.METRICS, RunEntry.EVALUATIONS.pattern),
)
BASELINE = {
    "run.name": "demo-baseline",
    "recipe.name": "diffusionnft",
    "recipe.keep_pairs": 12,
    "objective.share_noise": False,
    # All held-out prompts, so that it compares with runs of any machine.
    "evaluation.budget": 1.0,
}
"""All in which it is not as demo.toml has it, ..."""
FOLLOWING = ("objective.levels", "prompts.min_spread", "recipe.score_after")
"""... and what then has another default: the recipe heliostat has its own."""
PATHS = ("model.checkpoint", "prompts.train", "prompts.heldout")
"""Settings that may name places on this machine."""
OF_STEPS = (
    "step",
    "elapsed_s",
    "seconds",
    "prompts",
    "explored",
    "keep_pairs",
    "explore_steps",
    "score_after",
    "skipped_groups",
    "rewards",
    "proxy_rewards",
    "velocity_norm",
    "latent_diversity",
)
"""What is kept of a line of metrics.jsonl."""
OF_SERVER = ("precision", "runtime", "compute_dtype", "resolution_px", "weights_digest")
DIGITS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="of training; demo.toml's by default")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where it is trained")
    parser.add_argument("--record", type=Path, metavar="RUN", help="train none: take this one")
    parser.add_argument("--out", type=Path, default=example("demo.toml").parent / NAME)
    options = parser.parse_args()
    try:
        run = options.record or trained(configured(options.folder, options.minutes))
        record_run(run, options.out)
    except HeliostatError as error:
        sys.exit(f"error: {error}")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"Recorded {run} in {options.out}, {size / 1000:.0f} kB")


def configured(folder: Path, minutes: float | None = None) -> TrainConfig:
    """The baseline's settings. Raises ConfigError."""
    settings = BASELINE | {"run.folder": folder} | ({"run.minutes": minutes} if minutes else {})
    words = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return load_config(example("demo.toml"), words)


def trained(config: TrainConfig) -> Path:
    """Train as the demo does, with a server on the same cores; returns the run folder."""
    with running_server(demo_settings(config.run.folder / "demo-server"), Stages()) as serving:
        return train(config, server_url=serving.url, known_token=lambda: serving.token)


def record_run(run: Path, out: Path) -> None:
    """Write what compares of a run to a folder, which is replaced if it is such a record.

    Raises:
        RunFolderError: it is no run, or has not been evaluated after its last step.
        FilesError: the folder is none of ours, or cannot be written.
    """
    record = read_run(run)
    record.require_evaluation("record")
    last = max((line["step"] for line in record.steps), default=0)
    if not last or record.progress[-1].step != last:
        raise RunFolderError(f"{run} has not finished: train it to the end, then record it")
    with atomic_folder(out, LAYOUT) as draft:
        _write(draft / RunEntry.RUN_FILE, _run_file(record))
        _write(draft / RECORDING, asdict(_recording(record)))
        lines = [
            _rounded({key: line[key] for key in OF_STEPS if key in line}) for line in record.steps
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (draft / RunEntry.METRICS).write_text(text, encoding="utf-8")
        for evaluation in record.progress:
            folder = step_folder(draft / RunEntry.EVALUATIONS, evaluation.step)
            folder.mkdir(parents=True)
            _write(folder / RESULTS, [_rounded(asdict(evaluation))])


def _recording(record: RunRecord) -> Recording:
    ended = datetime.fromtimestamp((RunFolder(record.folder).metrics).stat().st_mtime, UTC)
    return Recording(
        machine=f"{cpu()}, {usable_cores()} cores",
        date=f"{ended:%Y-%m-%d}",
        command="python -m tests.benchmarks.demo_baseline",
    )


def _run_file(record: RunRecord) -> dict[str, Any]:
    """run.json, as far as it compares: nothing in it is of this machine alone."""
    config: dict[str, dict[str, Any]] = {"run": {"name": NAME}}
    for place, value in flatten(kept_config(record.settings)).items():
        section, _, key = place.partition(".")
        if not place.startswith(WITHOUT_EFFECT):
            is_path = place in PATHS and isinstance(value, str)
            config.setdefault(section, {})[key] = _name(value) if is_path else value
    server = {key: record.server[key] for key in OF_SERVER if key in record.server}
    return {"config": config, "server": server, "compute_dtype": record.arithmetic.trainer}


def _name(path: object) -> str:
    return PurePath(str(path)).name


def _rounded(value: Any) -> Any:
    """A value of JSON with all its numbers rounded."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
