"""What a run resumes from: safetensors and JSON, written whole or not at all.

A checkpoint is a folder `step-000012` with `state.json` (step, settings, where the metrics end)
and `tensors.safetensors` (the policies' LoRA and the optimiser's state), and with explore-ahead
`explorer-000011.*`, the adapters that the next steps are explored with, and with replay
`replay-000011.*`, the samples of the steps that the next ones train on again. Random numbers need
no state: they follow from the seed and the step.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from safetensors.torch import load, load_file, save

from heliostat_engines.adapters import AdapterFiles
from heliostat_engines.errors import FilesError
from heliostat_engines.files.atomic import atomic_folder, discard_folder
from heliostat_engines.files.text import content_of, read_json
from heliostat_engines.finite import are_finite
from heliostat_trainer.errors import DIVERGED, DivergedError, RunFolderError
from heliostat_trainer.folder.layout import (
    CHECKPOINT_LAYOUT,
    EXPLORER,
    REPLAY,
    STATE,
    TENSORS,
    kept_steps,
    numbered,
    numbers_in,
    step_folder,
)
from heliostat_trainer.folder.packing import packed, unpacked
from heliostat_trainer.folder.resuming import begun, check_settings, continued
from heliostat_trainer.policy.policy import ADAPTERS, NOT_FINITE
from heliostat_trainer.prompts.curriculum import Sighting, Spread
from heliostat_trainer.settings.compare import flatten
from heliostat_trainer.tuning import Decision, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Samples


@dataclass(frozen=True)
class RunState:
    """Where a run stands at the boundary between two steps."""

    step: int = 0
    """Completed training steps."""
    elapsed_s: float = 0.0
    """Of training so far."""
    metrics_bytes: int = 0
    """Length of metrics.jsonl."""
    best_step: int | None = None
    """The best evaluated step, by the training reward on held-out prompts."""
    best_reward: float | None = None
    raised_at: tuple[int, ...] = ()
    """The training steps from which on exploration takes one denoising step more."""
    sightings: tuple[Sighting, ...] = ()
    """Prompts whose groups were found flat, and since when they are not."""
    decisions: tuple[Decision, ...] = ()
    """What the run has chosen to make its later steps of (recipe.tune)."""
    ranks: tuple[tuple[float, ...], ...] = ()
    """rho of each group watched so far, scored after 1, 2, ... of the explore steps (recipe.tune)."""
    spreads: tuple[Spread, ...] = ()
    """How far the prompts' rewards spread, where prompts are drawn by it."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """Digests of what settings name (`resuming.contents_of`)."""
    explorers: Mapping[int, AdapterFiles] = field(default_factory=dict)
    """The old policies, by step, that the next steps are explored with, besides the latest."""
    replay: Mapping[int, Sequence[Samples]] = field(default_factory=dict, compare=False)
    """The samples, by the step that kept them, that the next step trains on again (recipe.replay)."""


class Checkpoints:
    """A run's checkpoint folder: the latest few, and the best evaluated one."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self._folder = folder
        self.config = config
        """What checkpoints are saved with."""

    def latest(self) -> int | None:
        """The newest checkpoint's step."""
        return max(kept_steps(self._folder), default=None)

    def save(self, state: RunState, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a checkpoint with the learner's tensors, then delete those no longer kept.

        Raises:
            DivergedError: a weight is NaN or infinite; nothing is written.
            RunFolderError: it cannot be written; the earlier ones are intact.
        """
        for name in ADAPTERS:
            if not are_finite(each for key, each in tensors.items() if _policy_of(key) == name):
                raise DivergedError(
                    f"step {state.step}: the {name} policy is not saved, for {NOT_FINITE}; {DIVERGED}"
                )
        content = {"state": _plain(state), "settings": flatten(self.config)}
        try:
            with atomic_folder(step_folder(self._folder, state.step), CHECKPOINT_LAYOUT) as draft:
                # As bytes: safetensors' own writer maps the file and dies of SIGBUS on a full disk.
                (draft / TENSORS).write_bytes(save(dict(tensors)))
                (draft / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
                for step, files in state.explorers.items():
                    (draft / numbered(EXPLORER, step, ".json")).write_bytes(files.config)
                    (draft / numbered(EXPLORER, step, ".safetensors")).write_bytes(files.tensors)
                for step, groups in state.replay.items():
                    _write_replay(draft / numbered(REPLAY, step, ".json"), groups)
        except FilesError as error:
            raise RunFolderError(f"{error}; earlier checkpoints are intact") from error
        steps = kept_steps(self._folder)
        kept = {*steps[-self.config.checkpoint.keep :], state.best_step}
        for step in steps:
            if step not in kept:
                with suppress(FilesError):  # It holds somebody's notes: it may stay.
                    discard_folder(step_folder(self._folder, step), CHECKPOINT_LAYOUT)

    def started(self) -> Checkpoints:
        """The same ones, to be saved with the settings of a run that starts (`begun`)."""
        return Checkpoints(self._folder, begun(self.config))

    def resumed(self) -> Checkpoints:
        """The same ones, to be saved with the settings that a resumed run goes on with.

        Raises:
            RunFolderError: there are none, or the settings do not go on from them (`continued`).
        """
        with self._newest() as (step, path):
            saved = _read_state(path)["settings"]
            return Checkpoints(self._folder, continued(self.config, saved, step))

    def check(self, contents: Mapping[str, str]) -> tuple[str, ...]:
        """Compare settings and contents with the newest checkpoint's; says what is to be known.

        Raises:
            RunFolderError: there is none, it cannot be read, or something that would change the
                results differs.
        """
        with self._newest() as (_, path):
            saved = _read_state(path)
            before = saved["state"].get("contents", {})
            return check_settings(self.config, saved["settings"], before, contents)

    def load(self, restore: Callable[[Mapping[str, torch.Tensor], int], None]) -> RunState:
        """The newest checkpoint's state; its tensors, and the step, are given to `restore`.

        Raises:
            RunFolderError: there is none, or it cannot be read.
        """
        with self._newest() as (step, path):
            read = _read_state(path)
            # Before there was such a setting nothing was kept.
            oldest = step + 1 - read["settings"].get("recipe.replay", 0)
            replay = _replay(path, range(max(1, oldest), step + 1))
            state = _state(read["state"], _explorers(path), replay)
            with content_of(path / TENSORS, _advice(path), RunFolderError):
                tensors = load_file(path / TENSORS)
                if not are_finite(
                    weight for key, weight in tensors.items() if _policy_of(key) in ADAPTERS
                ):
                    raise ValueError(NOT_FINITE)
                restore(tensors, step)
            return state

    @contextmanager
    def _newest(self) -> Iterator[tuple[int, Path]]:
        """The newest checkpoint's step and folder; what goes wrong in reading it becomes a RunFolderError."""
        step = self.latest()
        if step is None:
            raise RunFolderError(f"{self._folder} has no checkpoint: start without --resume")
        path = step_folder(self._folder, step)
        with content_of(path / STATE, _advice(path), RunFolderError):
            yield step, path


def _advice(path: Path) -> str:
    return f"delete {path} to resume from the checkpoint before it"


def improved(state: RunState, reward: float) -> RunState:
    """The state after an evaluation: its step is the best if no earlier reward is as high."""
    if state.best_reward is not None and reward <= state.best_reward:
        return state
    return replace(state, best_step=state.step, best_reward=reward)


def _plain(state: RunState) -> dict[str, object]:
    """What JSON can hold of it."""
    plain = {
        field.name: getattr(state, field.name)
        for field in fields(state)
        if field.name not in {"explorers", "replay"}
    }
    decided = [(step, asdict(shape), why) for step, shape, why in state.decisions]
    return plain | {"decisions": decided}


def _state(
    plain: Mapping[str, Any],
    explorers: Mapping[int, AdapterFiles],
    replay: Mapping[int, Sequence[Samples]],
) -> RunState:
    # checkpoints of before these were kept lack them
    raised_at = tuple(plain.get("raised_at", ()))
    seen = tuple(Sighting(*sight) for sight in plain.get("sightings", ()))
    decisions = tuple(
        Decision(step, Shape(**shape), why) for step, shape, why in plain.get("decisions", ())
    )
    read = {
        "raised_at": raised_at,
        "sightings": seen,
        "spreads": tuple(Spread(*spread) for spread in plain.get("spreads", ())),
        "decisions": decisions,
        "ranks": tuple(tuple(row) for row in plain.get("ranks", ())),
        "explorers": explorers,
        "replay": replay,
    }
    return RunState(**{**plain, **read})


def _read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's state and settings, as they are kept."""
    content: dict[str, Any] = read_json(path / STATE)
    return content


def _explorers(path: Path) -> dict[int, AdapterFiles]:
    return {
        step: AdapterFiles(
            (path / numbered(EXPLORER, step, ".json")).read_bytes(),
            (path / numbered(EXPLORER, step, ".safetensors")).read_bytes(),
        )
        for step in numbers_in(path, EXPLORER, ".json")
    }


def _write_replay(words: Path, groups: Sequence[Samples]) -> None:
    plain, tensors = packed(groups)
    words.write_text(json.dumps(plain), encoding="utf-8")
    whole = {name: value.contiguous() for name, value in tensors.items()}
    words.with_suffix(".safetensors").write_bytes(save(whole))


def _replay(path: Path, steps: Iterable[int]) -> dict[int, list[Samples]]:
    """The samples that these steps kept. Raises RunFolderError: they are not there, or damaged."""
    kept = {}
    for step in steps:
        words = path / numbered(REPLAY, step, ".json")
        tensors = words.with_suffix(".safetensors")
        with content_of(tensors, _advice(path), RunFolderError):
            kept[step] = unpacked(read_json(words), load(tensors.read_bytes()))
    return kept


def _policy_of(key: str) -> str:
    """Whose weight a tensor is; of the optimiser's it is no policy."""
    return key.partition("/")[0]
