"""A whole run: from settings to an exported LoRA."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from heliostat_engines.errors import FilesError, HeliostatError, first_line
from heliostat_engines.families import get_family
from heliostat_engines.families.weights import weights_digest
from heliostat_engines.machine.arithmetic import cpu_dtype, name_of
from heliostat_engines.machine.hardware import CPU_DTYPE, default_threads
from heliostat_trainer.display.progress import Progress, open_progress
from heliostat_trainer.display.trackers import open_trackers, require_trackers
from heliostat_trainer.errors import (
    ConfigError,
    InterruptedRunError,
    OutOfMemoryError,
    RunFolderError,
)
from heliostat_trainer.evaluation.evaluate import Evaluator
from heliostat_trainer.evaluation.showcase import keep_showcase
from heliostat_trainer.exploring.requests import showcase_request
from heliostat_trainer.export import export_run
from heliostat_trainer.export.formats import Format
from heliostat_trainer.folder.checkpoint import Checkpoints, RunState
from heliostat_trainer.folder.layout import SHOWCASE_LAYOUT, RunFolder
from heliostat_trainer.folder.metrics import MetricsLog
from heliostat_trainer.folder.resuming import contents_of
from heliostat_trainer.folder.run_file import arithmetic_changes, write_run_file
from heliostat_trainer.forecast.outlook import Outlook
from heliostat_trainer.loop import Parts, Trainer
from heliostat_trainer.prompts.sets import prompt_notes, read_prompt_sets
from heliostat_trainer.ranks.calls import announced, listen
from heliostat_trainer.ranks.interrupts import Interrupts, StopRequestedError
from heliostat_trainer.ranks.launch import local_size
from heliostat_trainer.ranks.ranks import Ranks, RunEndedError, open_ranks
from heliostat_trainer.rollouts.handshake import (
    check_against_server,
    check_decisions,
    check_prompts,
    checkpoint_warnings,
)
from heliostat_trainer.rollouts.replicas import open_servers
from heliostat_trainer.rollouts.tokens import RunTokens
from heliostat_trainer.rollouts.turns import TakingTurns, turns_with
from heliostat_trainer.settings.server import one_or_more
from heliostat_trainer.team import Helper, Start
from heliostat_trainer.tuner import Tuner, bounds
from heliostat_trainer.workshop import build_workshop, choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from heliostat_engines.progress import Stages
    from heliostat_trainer.prompts.sets import PromptSets
    from heliostat_trainer.rollouts.service import RolloutService, Serving
    from heliostat_trainer.settings.config import TrainConfig

    Serve = Callable[[PromptSets, Stages], AbstractContextManager[Serving]]


def train(
    config: TrainConfig,
    *,
    server_url: str | Sequence[str] | None = None,
    known_token: Callable[[], str | None] = lambda: None,
    serve: Serve | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a LoRA; returns the run folder.

    In it: `run.json` (settings and server), `metrics.jsonl`, `checkpoints/`, `evaluation/`, and
    at the end `lora/`, which PEFT and diffusers load.

    Args:
        config: the settings, from `load_config`.
        server_url: takes the place of server.url; several are replicas.
        known_token: a token of the server that the user has left on this machine, tried last.
        serve: runs a server for this run, which takes the place of all that `server_url` and server.url name.
        resume: go on from the newest checkpoint.
        console: where progress is shown; standard output by default.

    Raises:
        HeliostatError: one sentence that says what to do. The last complete step is saved.
    """
    prompts = read_prompt_sets(config)
    _use_threads(config)
    require_trackers(config.logging)
    console = console or Console()
    outlook = Outlook(0, config.run.steps, 0.0, config.run.minutes)
    urls = config.server.urls if server_url is None else one_or_more(server_url)
    with (
        open_progress(console, outlook) as progress,
        working_in_run(config, progress.say, resume=resume) as checkpoints,
        progress.stages.entering("join the other ranks", open_ranks()) as ranks,
        nullcontext() if serve is None else serve(prompts, progress.stages) as own,
        open_servers(
            config,
            urls if own is None else (own.url,),
            RunTokens(
                RunFolder(config.run.path).token,
                config.server.token_file,
                known_token if own is None else lambda: own.token,
            ),
            progress.say,
        ) as server,
        Interrupts(repeated=ranks.size > 1).installed() as interrupts,
    ):
        try:
            trainer = build_trainer(
                config,
                prompts,
                server,
                checkpoints,
                progress,
                interrupts,
                resume=resume,
                ranks=ranks,
            )
        except StopRequestedError as stop:
            raise InterruptedRunError("stopped before the first step") from stop
        run_trainer(config, trainer)
    return config.run.path


def assist() -> None:
    """Be one of a run's other ranks: draw and train a share of what the leader announces.

    Returns when the leader has ended the run; it says whatever there is to say.
    """
    with open_ranks() as ranks, Interrupts(repeated=True).installed() as interrupts:
        try:
            start = Start.read(listen(ranks))
            if choose_device(start.config.run.device).type == "cpu":
                require_same_arithmetic(start.cpu_dtype)
            _use_threads(start.config)
            workshop = build_workshop(start.config, start.targets, ranks, interrupts)
            Helper(ranks, workshop.artist, workshop.learner).help()
        except RunEndedError:
            return
        except StopRequestedError:
            ranks.failed("stopped", stop=True)
        except HeliostatError as error:
            ranks.failed(str(error))
        except Exception as error:
            if ranks.failed(f"{type(error).__name__}: {error}"):
                raise


def require_same_arithmetic(leaders: str) -> None:
    """Refuse to draw and train in another arithmetic than the leading rank. Raises ConfigError."""
    own = name_of(cpu_dtype())
    if own != leaders:
        raise ConfigError(
            f"the CPU of one rank computes in {own}, the leader's in {leaders}: set "
            f"{CPU_DTYPE}=float32 for all ranks"
        )


def _use_threads(config: TrainConfig) -> None:
    torch.set_num_threads(config.run.threads or default_threads(local_size()))


@contextmanager
def working_in_run(
    config: TrainConfig, warn: Callable[[str], None], *, resume: bool
) -> Iterator[Checkpoints]:
    """Have the run's folder for ourselves, new or our own from before; yields its checkpoints.

    warn: is told if the file system has no locks.

    Raises:
        RunFolderError: as `open_run`.
        FolderBusyError: another process trains there.
        FilesError: names that we would write there are taken.
    """
    if resume:
        open_run(config, resume=True)  # Before anything is made: run.name may be mistyped.
    files = RunFolder(config.run.path)
    lora = Format.DIFFUSERS.layout(files.path.name, is_own_place=True)
    with files.held(warn, {files.lora: lora, files.showcase: SHOWCASE_LAYOUT}):
        yield open_run(config, resume=resume)


def open_run(config: TrainConfig, *, resume: bool) -> Checkpoints:
    """The run's checkpoints, after checking that there are some if and only if it is resumed.

    Raises:
        RunFolderError: says whether to pass --resume or not.
    """
    path = config.run.path
    checkpoints = Checkpoints(RunFolder(path).checkpoints, config)
    exists = checkpoints.latest() is not None
    if resume and not exists:
        raise RunFolderError(f"{path} has no checkpoint to resume from: start without --resume")
    if exists and not resume:
        raise RunFolderError(
            f"{path} holds a run: continue it with --resume, or set another run.name"
        )
    return checkpoints.resumed() if resume else checkpoints.started()


def build_trainer(
    config: TrainConfig,
    prompts: PromptSets,
    server: RolloutService,
    checkpoints: Checkpoints,
    progress: Progress,
    interrupts: Interrupts,
    *,
    resume: bool,
    ranks: Ranks | None = None,
) -> Trainer:
    """Compare the settings with the server's, load the model on all ranks, restore the state.

    Raises:
        ConfigError: settings and server do not fit.
        CheckpointError: the model cannot be read.
        RunFolderError: the run cannot be resumed or its folder not written.
    """
    config = checkpoints.config  # with the schedule that the run was started with
    family = get_family(config.model.family)
    resolution_px = config.model.resolution_of(family)
    checkpoint = config.model.checkpoint_of(family)
    digest = weights_digest(checkpoint)
    notes = checkpoints.check(contents_of(prompts, digest)) if resume else ()
    stages = progress.stages
    with stages.during("ask the rollout server"):
        info = server.info()
    check_against_server(config, info, prompts, resolution_px)
    with stages.during("have the rewards check the prompts"):
        check_prompts(config, server, prompts)
    said_of_prompts = prompt_notes(config, prompts)
    for note in (*said_of_prompts, *checkpoint_warnings(checkpoint, digest, info), *notes):
        progress.say(note)
    ranks = ranks or Ranks()
    turns = turns_with(server, info, ranks.size, progress.say)
    if turns is not None:
        server = TakingTurns(server, turns)
    turn = nullcontext if turns is None else turns.of_trainer
    start = Start(config, info.lora_targets, name_of(cpu_dtype()))
    with stages.during("load the model"), turn(), announced(ranks, start):
        workshop = build_workshop(config, info.lora_targets, ranks, interrupts, stages, turn=turn)
    if turns is not None:
        turns.hold(workshop.policy.resting())
    learner, artist = workshop.learner, workshop.artist
    with stages.during("read the checkpoint"):
        state = checkpoints.load(learner.restore) if resume else RunState()
    check_decisions(state.decisions, state.step + 1, info)
    digest = digest or weights_digest(checkpoint)  # it may have been downloaded only now
    state = replace(state, contents=contents_of(prompts, digest))
    files = RunFolder(config.run.path)
    dtype = name_of(workshop.policy.dtype)
    if resume:
        for change in arithmetic_changes(files.path, dtype, info.compute_dtype):
            progress.say(change)
    write_run_file(config, info, dtype)
    evaluator = Evaluator(
        config,
        prompts.heldout,
        server,
        artist,
        resolution_px,
        files.evaluations,
        stages,
        prompts.heldout_sizes,
    )
    evaluator.forget_after(state.step if resume else -1)
    parts = Parts(
        server=server,
        policy=workshop.policy,
        artist=artist,
        learner=learner,
        evaluator=evaluator,
        checkpoints=checkpoints,
        metrics=MetricsLog(files.metrics, state.metrics_bytes),
        progress=progress,
        tuner=Tuner(config, lambda: bounds(config, server.info(), len(prompts.train))),
        trackers=open_trackers(config, state.step, progress.say),
        interrupts=interrupts,
        takes_turns=turns is not None,
    )
    return Trainer(config, prompts, parts, state)


def run_trainer(config: TrainConfig, trainer: Trainer) -> None:
    """Train to the end and export; whatever stops it, keep the last complete step.

    Raises:
        HeliostatError: what stopped it, in one sentence; anything else is a bug.
    """
    files = RunFolder(config.run.path)
    path = files.path
    try:
        trainer.train()
        stages = trainer.parts.progress.stages
        with stages.during("write the LoRA"):
            export_run(path, out=files.lora)  # now: what follows asks the server
        trainer.conclude()
        if config.recipe.explores_and_redraws:
            with stages.during("draw a group to look at"):
                _keep_showcase(config, trainer)
        with stages.during("write the LoRA's card"):  # which says how the last step was evaluated
            export_run(path, out=files.lora)
    except StopRequestedError as stop:
        trainer.save()
        raise InterruptedRunError(
            f"stopped; step {trainer.saved_step} is saved in {path}: continue with --resume"
        ) from stop
    except FilesError:
        with suppress(FilesError):  # The disk may be full, or only somebody's file in the way.
            _save_at_last(trainer)
        raise
    except torch.OutOfMemoryError as error:
        _save_at_last(trainer)
        raise OutOfMemoryError(
            f"out of memory; step {trainer.saved_step} is saved in {path}: lower "
            "model.sample_batch (drawing) or optimiser.micro_batch (training), or set "
            f"model.gradient_checkpointing, and continue with --resume ({first_line(error)})"
        ) from error
    except Exception:
        _save_at_last(trainer)
        raise
    finally:
        trainer.parts.trackers.close()


def _save_at_last(trainer: Trainer) -> None:
    """Save; a stop that is asked for meanwhile comes too late to be the reason."""
    with suppress(StopRequestedError):
        trainer.save()


def _keep_showcase(config: TrainConfig, trainer: Trainer) -> None:
    """Explore and redraw one held-out group with the final policy, for people to look at."""
    parts, folder = trainer.parts, RunFolder(config.run.path).showcase
    prompt = parts.evaluator.prompts[0]
    size = parts.evaluator.size_of(prompt)
    request = showcase_request(config, prompt, trainer.explore_steps, size)
    steps = config.recipe.steps
    keep_showcase(parts.server, trainer.explorer, parts.artist, request, steps, folder)
