"""How much does one training step's gradient say, and what does that cost?

    python -m tests.benchmarks.gradient_signal [--draws 12] [--jobs 2]
    python -m tests.benchmarks.gradient_signal --row "pairs=2,pool=24" --row "pairs=1,pool=24"
    python -m tests.benchmarks.gradient_signal --train-steps 30     at a policy half trained
    python -m tests.benchmarks.gradient_signal --show

A row is a setting of the recipe, and departs from the hour's run (examples/demo_long.toml) with the
published sizes of pool and selection. For each row a step's gradient is drawn again and again, with
other prompts, seeds and noise each time, by the trainer's own parts and as the optimiser would get
it. Rows share prompts, candidates and redraws, a smaller pool being the beginning of a larger one,
so that they compare. Prints, with 95 % intervals:
  cosine   between two draws
  B        the noise scale, |noise|^2 / |signal|^2 of one step; and the same along the signal that all
           rows have in common, which fewer draws tell
  cost     of one step in BF16-equivalent evaluations, counted as `heliostat compare` does
  B x cost what progress costs where noise limits it; and (1 + B) cost against the first row's, paired,
           along the common signal
Draws are kept in --folder: started again, the benchmark goes on, with other rows too.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import multiprocessing
import os
import platform
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from heliostat.examples import example
from heliostat.in_process import demo_service
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import HeliostatError
from heliostat_engines.files.atomic import atomic_file
from heliostat_engines.machine.arithmetic import compute_dtype, has_bf16_units, name_of
from heliostat_engines.sampling.stochastic import Trajectory
from heliostat_engines.settings.places import section_kinds
from heliostat_engines.suggestions import suggest
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.exploring.requests import group_requests
from heliostat_trainer.exploring.selection import least_flat, not_flat, select
from heliostat_trainer.folder.checkpoint import Checkpoints
from heliostat_trainer.folder.layout import TENSORS, kept_steps, step_folder
from heliostat_trainer.folder.run_file import read_settings
from heliostat_trainer.forecast.work import NVFP4_SPEEDUPS, plan_run, total
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.randomness import Purpose, candidate_seeds, stream
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.ranks.ranks import Ranks
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.settings.objectives import Need
from heliostat_trainer.types import ExploreSteps, Group, GroupRequest, Samples
from heliostat_trainer.workshop import Workshop, build_workshop
from tests.benchmarks.in_process import train_in_process
from tests.benchmarks.noise_scale import (
    LEAST_DRAWS,
    Estimate,
    common_noise_scale,
    cosine,
    cost_ratio,
    noise_scale,
)
from tests.benchmarks.recipes import PUBLISHED, arguments_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.types import PublishedAdapter

ROWS = (
    "pairs=12,pool=96",
    "recipe=diffusionnft,pairs=12",
    "pairs=4,pool=96",
    "pairs=2,pool=96",
    "pairs=2,pool=48",
    "pairs=2,pool=24",
    "pairs=2,pool=24,explore_steps=4",
    "pairs=1,pool=24",
    "recipe=diffusionnft,pairs=2",
    "pairs=2,pool=24,prompts=24",
)
SHORT = {
    "recipe": "recipe.name",
    "pairs": "recipe.keep_pairs",
    "pool": "recipe.candidates",
    "objective": "objective.name",
    "prompts": "prompts.per_step",
}
SECTIONS = ("recipe", "objective", "prompts")
"""Whose settings a row may change, the first that has it if none is named."""
TRAINER = "pairs=2,pool=24,explore_steps=4"
"""What --train-steps trains with."""
SEEDS_DRAWN = 1024
"""Of which a pool is the first: so a pool is the same whatever other rows there are."""
WHOLE_STEP = {f"NVFP4 = 1/{speedup:g}": speedup for speedup in NVFP4_SPEEDUPS.values()}
"""How a step's evaluations are counted."""
PARAMETERS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Bench:
    """What all rows have in common."""

    toml: Path
    folder: Path
    run: Path | None
    """Whose newest checkpoint is measured; None: the base policy."""
    seed: int
    same_prompts: bool
    device: str

    def config(self, row: str) -> TrainConfig:
        """A row's settings. Raises ConfigError."""
        overrides = {**PUBLISHED, "run.device": self.device, "run.seed": self.seed}
        if self.run is not None:
            settings = read_settings(self.run)
            overrides |= {key: settings[key] for key in ("lora.rank", "lora.alpha")}
        config = load_config(self.toml, [*arguments_of(overrides), *row_arguments(row)])
        if config.recipe.pool > SEEDS_DRAWN:
            raise ConfigError(
                f"--row {row!r}: a pool has at most {SEEDS_DRAWN} candidates: lower pool"
            )
        return config

    @property
    def policy(self) -> str:
        """Which is measured."""
        if self.run is None:
            return "base"
        return f"{self.run.name} after step {self._step}"

    @property
    def _step(self) -> int:
        assert self.run is not None
        steps = kept_steps(self.run / "checkpoints")
        if not steps:
            raise ConfigError(f"{self.run} has no checkpoint: name another --run, or --train-steps")
        return steps[-1]

    def digest(self, row: str) -> str:
        """Names the draws of a row: the same if and only if their gradients are."""
        config = self.config(row)
        content: dict[str, Any] = config.model_dump(
            mode="json", include={"model", "recipe", "objective", "reward", "lora"}
        )
        content |= {"prompts": read_prompt_sets(config).train, "per_step": config.prompts.per_step}
        content |= {"min_spread": config.prompts.min_spread, "policy": "base"}
        content |= {"seed": self.seed, "same_prompts": self.same_prompts}
        content |= {"computes": name_of(compute_dtype(self.device))}
        if self.run is not None:
            tensors = step_folder(self.run / "checkpoints", self._step) / TENSORS
            content["policy"] = hashlib.sha256(tensors.read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Line:
    """A gradient that was drawn: a line of draws.jsonl, beside the gradient's own file."""

    digest: str
    draw: int
    reward: float
    """Mean of the samples trained on."""
    seconds: float
    computes: str


class Job(NamedTuple):
    """One draw, of the rows that lack it."""

    bench: Bench
    draw: int
    rows: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--row", action="append", help="settings, key=value,...; several times")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--config", type=Path, default=example("demo_long.toml"))
    policy = parser.add_mutually_exclusive_group()
    policy.add_argument("--run", type=Path, help="a run's folder: its newest checkpoint's policy")
    policy.add_argument("--train-steps", type=int, help="train such a run first, in --folder")
    parser.add_argument("--same-prompts", action="store_true", help="in all draws")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--decode-nfes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/gradient_signal"))
    parser.add_argument("--show", action="store_true", help="draw nothing")
    parser.add_argument("--out", type=Path, default=Path("gradient_signal.json"))
    options = parser.parse_args()
    try:
        run(options)
    except HeliostatError as error:
        parser.exit(2, f"{error}\n")


def run(options: argparse.Namespace) -> None:
    """Draw what is lacking, and show all there is. Raises HeliostatError."""
    rows = tuple(options.row or ROWS)
    bench = Bench(
        options.config,
        options.folder,
        options.run,
        options.seed,
        options.same_prompts,
        options.device,
    )
    for row in rows:
        bench.config(row)  # before anything is trained or drawn
    if options.train_steps:
        bench = replace(bench, run=_trained(bench, options.train_steps, train=not options.show))
    if not options.show:
        draw_all(bench, rows, options.draws, options.jobs)
    result = evaluate(bench, rows, options.decode_nfes)
    options.out.write_text(json.dumps(_plain(asdict(result)), indent=1) + "\n")
    show(result)


def row_arguments(row: str) -> list[str]:
    """A row as settings on the command line.

    Raises:
        ConfigError: it is not key=value,..., or a key is no setting of a row.
    """
    overrides: dict[str, str] = {}
    for word in filter(None, row.split(",")):
        key, is_set, value = word.partition("=")
        if not is_set:
            raise ConfigError(f"--row {row!r}: write key=value,..., e.g. {ROWS[0]!r}")
        overrides[_place(key.strip(), row)] = value.strip()
    return arguments_of(overrides)


def _place(key: str, row: str) -> str:
    """section.key of a key in a row."""
    places = {
        name: f"{section}.{name}"
        for section in reversed(SECTIONS)
        for kind in section_kinds(TrainConfig, section)
        for name in kind.model_fields
        if name != "name"
    } | SHORT
    place = places.get(key, key)
    if place not in {*places.values()}:
        hint = suggest(key, (*places, *places.values()))
        raise ConfigError(
            f"--row {row!r}: {key!r} is no setting of a row: {hint}"
            f"choose from {', '.join(sorted(places))}"
        )
    return place


def _trained(bench: Bench, steps: int, *, train: bool) -> Path:
    """The folder of a run of so many steps, trained now if need be."""
    overrides = {
        "run.name": f"trained-{steps}",
        "run.folder": bench.folder,
        "run.steps": steps,
        "run.seed": bench.seed,
        "run.device": bench.device,
        "watch.every": 0,
        "evaluation.every": 0,
        "evaluation.prompts": 1,
        "evaluation.seeds_per_prompt": 1,
        "evaluation.steps": 1,
        "evaluation.guidances": "[1.0]",
    }
    config = load_config(bench.toml, [*arguments_of(overrides), *row_arguments(TRAINER)])
    if train:
        train_in_process(config)
    return config.run.path


def draw_all(bench: Bench, rows: Sequence[str], draws: int, side_by_side: int) -> None:
    """Draw what is lacking of so many draws, in processes of one thread each."""
    digests = {row: bench.digest(row) for row in rows}
    done = {(line.digest, line.draw) for line in read_lines(bench.folder)}
    jobs = []
    for draw in range(draws):
        lacking = tuple(row for row in rows if (digests[row], draw) not in done)
        if lacking:
            jobs.append(Job(bench, draw, lacking))
    os.environ["OMP_NUM_THREADS"] = "1"  # what is started inherits it
    context = multiprocessing.get_context("spawn")
    with Bar() as bar, ProcessPoolExecutor(side_by_side, mp_context=context) as pool:
        task = bar.add_task("draws", total=draws, completed=draws - len(jobs))
        for finished in as_completed([pool.submit(draw_rows, job) for job in jobs]):
            append_lines(bench.folder, finished.result())
            bar.advance(task)


def draw_rows(job: Job) -> list[Line]:
    """One draw of some rows' gradients, written to their files."""
    torch.set_num_threads(1)
    studio, shelf = _studio(job.bench), Shelf()
    return [studio.draw(row, job.draw, shelf) for row in job.rows]


@functools.cache
def _studio(bench: Bench) -> Studio:
    """One a process: it loads the model."""
    return Studio(bench)


class Drawn(NamedTuple):
    """Some seeds' rewards parts[K, R], latents[K, ...] and how they came about, where wanted."""

    parts: NDArray[np.float64]
    latents: torch.Tensor | None
    path: Trajectory | None

    def each(self) -> list[Drawn]:
        """Each seed's by itself."""
        return [
            Drawn(
                self.parts[row : row + 1],
                None if self.latents is None else self.latents[row : row + 1],
                None if self.path is None else self.path.take([row]),
            )
            for row in range(len(self.parts))
        ]

    @staticmethod
    def concat(each: Sequence[Drawn]) -> Drawn:
        """Several seeds' together."""
        latents = [drawn.latents for drawn in each if drawn.latents is not None]
        paths = [drawn.path for drawn in each if drawn.path is not None]
        return Drawn(
            np.concatenate([drawn.parts for drawn in each]),
            torch.cat(latents) if latents else None,
            Trajectory.concat(paths) if paths else None,
        )


class Shelf:
    """What the rows of one draw share: every seed is drawn once in the same way."""

    def __init__(self) -> None:
        self._kept: defaultdict[Hashable, dict[int, Drawn]] = defaultdict(dict)

    def fetch(
        self,
        way: Hashable,
        requests: Sequence[GroupRequest],
        draw: Callable[[Sequence[GroupRequest]], Iterable[Drawn]],
    ) -> list[Drawn]:
        """What `draw` makes of each request; two draws of one `way` differ in their seeds alone."""
        kept = [self._kept[way, replace(request, seeds=())] for request in requests]
        lacking = [
            replace(request, seeds=tuple(seed for seed in request.seeds if seed not in known))
            for request, known in zip(requests, kept, strict=True)
        ]
        asked = [
            (request, known) for request, known in zip(lacking, kept, strict=True) if request.seeds
        ]
        if asked:
            drawn = draw([request for request, _ in asked])
            for (request, known), new in zip(asked, drawn, strict=True):
                known.update(zip(request.seeds, new.each(), strict=True))
        return [
            Drawn.concat([known[seed] for seed in request.seeds])
            for request, known in zip(requests, kept, strict=True)
        ]


class Studio:
    """The model, and a learner for each row."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._service = demo_service(bench.device)
        self._workshops: dict[str, Workshop] = {}
        self._explorer: PublishedAdapter | None = None

    def draw(self, row: str, draw: int, shelf: Shelf) -> Line:
        """A row's gradient, written to its file."""
        began = time.monotonic()
        config, workshop = self._bench.config(row), self._workshop(row)
        prompts = self._prompts(config, draw)
        conditioning = workshop.artist.prepare(self._service.encode(prompts))
        samples = self._samples(config, workshop, prompts, draw, shelf)
        step = draw + 1  # where the noise that is trained at is drawn from
        gradients = workshop.learner.gradient(samples, conditioning, step)
        names = sorted(gradients)
        vector = torch.cat([gradients[name].flatten() for name in names]).cpu().numpy()
        digest = self._bench.digest(row)
        with atomic_file(gradient_file(self._bench.folder, digest, draw)) as file:
            np.save(file, vector)
        rewards = np.concatenate([group.rewards for group in samples])
        return Line(
            digest,
            draw,
            float(rewards.mean()),
            round(time.monotonic() - began, 3),
            computes(self._bench.device),
        )

    def _samples(
        self,
        config: TrainConfig,
        workshop: Workshop,
        prompts: Sequence[str],
        draw: int,
        shelf: Shelf,
    ) -> list[Samples]:
        """What a training step trains on: explored or drawn, selected, and redrawn."""
        recipe = config.recipe
        explored_in = ExploreSteps.after(recipe.pool_evaluations, recipe.pool_steps)
        requests = [
            replace(request, seeds=self._seeds(draw, request.row)[: recipe.pool])
            for request in group_requests(config, prompts, draw, recipe.pool, explored_in)
        ]

        def redraw(wanted: Sequence[GroupRequest]) -> list[Drawn]:
            objective = config.objective  # which may say how samples come about
            way = objective.model_dump_json() if Need.TRAJECTORIES in objective.needs else None
            alike = [replace(request, return_latents=False) for request in wanted]
            return shelf.fetch(way, alike, lambda some: self._redraw(workshop, config, some))

        if recipe.explores:
            pools = shelf.fetch("explored", requests, self._explore)
        elif recipe.redraws:
            pools = shelf.fetch(
                "looked at", requests, lambda some: self._redraw(workshop, config, some, look=True)
            )
        else:
            pools = redraw(requests)
        selections = []
        for request, pool in zip(requests, pools, strict=True):
            group = Group.rewarded(request, pool.parts, pool.latents, trajectory=pool.path)
            random = stream(config.run.seed, Purpose.SELECTION, draw, request.row)
            selections.append(select(group, recipe.selection, recipe.kept, random))
        chosen = not_flat(config, selections) or [least_flat(selections)]
        if not recipe.redraws:
            return [selection.as_samples() for selection in chosen]
        kept = [selection.redrawn_in(recipe.steps) for selection in chosen]
        samples = []
        for request, drawn in zip(kept, redraw(kept), strict=True):
            assert drawn.latents is not None
            samples += Samples.of([request], drawn.latents, drawn.parts, drawn.path)
        return samples

    def _explore(self, requests: Sequence[GroupRequest]) -> list[Drawn]:
        assert self._explorer is not None
        groups = self._service.explore(requests, self._explorer)
        ordered = sorted(groups, key=lambda group: group.request.row)
        return [
            Drawn(group.parts, group.latents, None) for group in ordered if group.parts is not None
        ]

    def _redraw(
        self,
        workshop: Workshop,
        config: TrainConfig,
        requests: Sequence[GroupRequest],
        *,
        look: bool = False,
    ) -> list[Drawn]:
        """Samples of the old policy in BF16 with all steps; `look`: as a server would explore them."""
        seeds = [seed for request in requests for seed in request.seeds]
        prompts = [request.prompt for request in requests for _ in request.seeds]
        distinct = [request.prompt for request in requests]
        rows = [row for row, request in enumerate(requests) for _ in request.seeds]
        conditioning = workshop.artist.prepare(self._service.encode(distinct))
        steps, early = requests[0].steps, requests[0].score_after
        if look:
            latents, path = (
                workshop.artist.draw(
                    PolicyName.OLD, seeds, conditioning, rows, steps, score_after=early
                ),
                None,
            )
        else:
            latents, path = workshop.artist.rollout(seeds, conditioning, rows, config.recipe.steps)
        decoder = requests[0].decoder if look else DecoderName.FULL
        parts = self._service.score(
            latents, prompts, config.reward.trained, decoder=decoder
        ).rewards
        return [
            Drawn(samples.parts, samples.latents, samples.trajectory)
            for samples in Samples.of(requests, latents, parts, path)
            if samples.parts is not None
        ]

    def _workshop(self, row: str) -> Workshop:
        """A row's policy and who draws with it and trains it; each row's policy is the same."""
        if row in self._workshops:
            return self._workshops[row]
        config = self._bench.config(row)
        targets = self._service.info().lora_targets
        workshop = build_workshop(config, targets, Ranks(), Interrupts())
        if self._bench.run is not None:
            Checkpoints(self._bench.run / "checkpoints", config).load(workshop.learner.restore)
        policy = workshop.policy
        if self._explorer is None:
            old = policy.weights[PolicyName.OLD].pack(policy.alpha)
            self._explorer = self._service.publish(old)
        self._workshops[row] = workshop
        return workshop

    def _prompts(self, config: TrainConfig, draw: int) -> tuple[str, ...]:
        """A step's prompts, drawn anew for each draw: the beginning of a larger step's."""
        prompts = read_prompt_sets(config).train
        position = 0 if self._bench.same_prompts else draw
        order = stream(self._bench.seed, Purpose.PROMPTS, position).permutation(len(prompts))
        return tuple(prompts[row] for row in order[: config.prompts.per_step])

    def _seeds(self, draw: int, row: int) -> tuple[int, ...]:
        return candidate_seeds(self._bench.seed, Purpose.CANDIDATES, SEEDS_DRAWN, draw, row)


def gradient_file(folder: Path, digest: str, draw: int) -> Path:
    """Where a row's gradient[P] in float32 is kept."""
    return folder / "gradients" / f"{digest}-{draw:04d}.npy"


def append_lines(folder: Path, lines: Iterable[Line]) -> None:
    """Add to draws.jsonl, after what a process that was killed may have left of a line."""
    path = folder / "draws.jsonl"
    torn = path.exists() and path.read_bytes()[-1:] not in {b"", b"\n"}
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * torn + "".join(json.dumps(asdict(line)) + "\n" for line in lines))


def read_lines(folder: Path) -> list[Line]:
    """What has been drawn; what is left of a line that was being written is no draw."""
    path = folder / "draws.jsonl"
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(Line(**json.loads(text)))
        except (ValueError, TypeError):
            continue
    return lines


def computes(device: str) -> str:
    """The arithmetic, and on what."""
    name = cpu() if device == "cpu" else torch.cuda.get_device_name(device)
    return f"{name_of(compute_dtype(device))} on {name}"


def cpu() -> str:
    """This machine's processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    units = "with" if has_bf16_units() else "without"
    return f"{models[0] if models else platform.machine()} {units} BF16 units"


@dataclass(frozen=True)
class RowResult:
    """What a row's gradients say."""

    row: str
    samples: int
    """In a step."""
    reward: float
    cosine: Estimate
    noise_scale: Estimate
    common_noise_scale: Estimate
    """Along the signal that all rows have in common."""
    cost: Mapping[str, float]
    """Of a step, by how it is counted."""
    against_first: Mapping[str, Estimate]
    """(1 + B) cost over that of the first row, along the common signal, by how it is counted."""


@dataclass(frozen=True)
class Result:
    """All rows, on the same draws."""

    policy: str
    computes: str
    same_prompts: bool
    draws: int
    rows: Sequence[RowResult]


def evaluate(bench: Bench, rows: Sequence[str], decode_nfes: float) -> Result:
    """Estimate from the draws that all rows have.

    Raises:
        ConfigError: there are too few.
    """
    digests = [bench.digest(row) for row in rows]
    lines = {(line.digest, line.draw): line for line in read_lines(bench.folder)}
    drawn = [{draw for known, draw in lines if known == digest} for digest in digests]
    draws = sorted(set.intersection(*drawn))
    if len(draws) < LEAST_DRAWS:
        raise ConfigError(
            f"{bench.folder} has {len(draws)} draws of all of these rows: draw {LEAST_DRAWS} or more "
            "(--draws)"
        )
    gram = gram_of(
        [[gradient_file(bench.folder, digest, draw) for draw in draws] for digest in digests]
    )
    configs = [bench.config(row) for row in rows]
    costs = [
        {
            name: total(plan_run(config).a_step.values()).bf16_equivalents(speedup, decode_nfes)
            for name, speedup in WHOLE_STEP.items()
        }
        for config in configs
    ]
    results = [
        RowResult(
            row=row,
            samples=configs[at].prompts.per_step * configs[at].recipe.kept,
            reward=float(np.mean([lines[digests[at], draw].reward for draw in draws])),
            cosine=cosine(gram[at, :, at, :]),
            noise_scale=noise_scale(gram[at, :, at, :]),
            common_noise_scale=common_noise_scale(gram, at),
            cost=costs[at],
            against_first={
                name: cost_ratio(gram, (at, 0), (costs[at][name], costs[0][name]))
                for name in WHOLE_STEP
            },
        )
        for at, row in enumerate(rows)
    ]
    machines = {lines[digest, draw].computes for digest in digests for draw in draws}
    return Result(
        bench.policy, "; ".join(sorted(machines)), bench.same_prompts, len(draws), results
    )


def gram_of(files: Sequence[Sequence[Path]]) -> NDArray[np.float64]:
    """gram[R, D, R, D]: inner products of all gradients, some parameters at a time."""
    gradients = [np.load(path, mmap_mode="r") for paths in files for path in paths]
    gram = np.zeros((len(gradients), len(gradients)))
    for start in range(0, len(gradients[0]), PARAMETERS_AT_ONCE):
        some = np.stack([each[start : start + PARAMETERS_AT_ONCE] for each in gradients])
        wide = some.astype(np.float64)
        gram += wide @ wide.T
    shape = len(files), len(files[0])
    return gram.reshape(*shape, *shape)


def show(result: Result) -> None:
    """What the gradients say, and, for each way to count, what that costs."""
    prompts = "the same prompts in all" if result.same_prompts else "prompts drawn anew"
    console = Console(width=140)
    console.print(
        f"{result.draws} draws, {prompts}; policy: {result.policy}; {result.computes}; "
        "95 % intervals"
    )
    signals = Table("row", "samples a step", "cosine", "B", "B along the common signal")
    for row in result.rows:
        scales = _text(row.noise_scale, 1), _text(row.common_noise_scale, 1)
        signals.add_row(row.row, str(row.samples), _text(row.cosine, 3), *scales)
    console.print(signals)
    for name in WHOLE_STEP:
        title = f"in BF16-equivalent evaluations; {name}"
        costs = Table(
            "row", "cost", "B x cost, thousands", "(1 + B) cost, first row = 1", title=title
        )
        for row in result.rows:
            cost, scale = row.cost[name], row.noise_scale
            values = (scale.value, scale.low, scale.high)
            product = Estimate(*(value * cost / 1000 for value in values))
            ratio = _text(row.against_first[name], 2)
            costs.add_row(row.row, f"{cost:,.0f}", _text(product, 0), ratio)
        console.print(costs)


def _text(estimate: Estimate, digits: int) -> str:
    value, low, high = (
        "inf" if math.isinf(number) else "?" if math.isnan(number) else f"{number:.{digits}f}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def _plain(content: object) -> object:
    """For JSON, which knows no infinity: None."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


if __name__ == "__main__":
    main()
