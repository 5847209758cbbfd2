"""The base model's checkpoint with the LoRA added to its weights, one tensor in memory at a time."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from safetensors import safe_open

from heliostat_engines.errors import CheckpointError
from heliostat_engines.export.sources import CheckpointSource
from heliostat_engines.families.checkpoint import hub_errors_explained
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.text import content_of, read_json
from heliostat_engines.files.weights import (
    DIFFUSERS,
    TRANSFORMERS,
    index_file,
    read_header,
    single_file,
    tensor_files,
)
from heliostat_engines.progress import unheard
from heliostat_trainer.export.formats import CARD
from heliostat_trainer.export.storing import stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from heliostat_engines.adapters import LoraPair
    from heliostat_engines.families.family import Family
    from heliostat_engines.files.ownership import Layout
    from heliostat_engines.progress import Progress

INDEX = index_file()
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
ALIGNMENT = 8


@dataclass(frozen=True)
class Rounding:
    """How far the stored weights are from base + update, added up over all of them."""

    error: float = 0.0
    """Squared norm of what rounding changed."""
    update: float = 0.0
    """Squared norm of the update."""

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(self.error + other.error, self.update + other.update)

    @property
    def share(self) -> float:
        """Norm of what rounding changed over the update's norm."""
        return (self.error / self.update) ** 0.5 if self.update else 0.0


def write_fused_checkpoint(
    family: Family,
    checkpoint: str,
    pairs: Mapping[str, LoraPair],
    folder: Path,
    *,
    layout: Layout,
    card: str,
    dtype: torch.dtype | None = None,
    progress: Progress = unheard,
) -> Rounding:
    """Write the whole pipeline in diffusers' layout, its transformer's weights updated.

    Args:
        family: the model family.
        checkpoint: the base model, a folder or a Hugging Face name.
        pairs: the update of each of the transformer's modules, its scale folded in.
        folder: where it goes.
        layout: of that folder, should it be there already.
        card: its README.md.
        dtype: of the updated weights; the base model's own by default.
        progress: is told of each weight written.

    Raises:
        CheckpointError: the base model cannot be read, is not whole, or has no such modules.
        ConfigError: `dtype` does not hold the weights.
        FilesError: it cannot be written, or is not ours.
    """
    base = local_checkpoint(checkpoint)
    updates = {f"{module}.weight": pair for module, pair in pairs.items()}
    files = tensor_files(base / "transformer")
    _require_all(base, files, updates)
    CheckpointSource(family, base)  # refuses a transformer that is not whole
    _check_other_parts(base)
    shards = sorted({file.name for file in files.values()})
    with atomic_folder(folder, layout) as draft:
        progress("copy the other parts", 0, 1)
        _copy_other_parts(base, draft)
        progress("copy the other parts", 1, 1)
        target = draft / "transformer"
        target.mkdir()
        shutil.copyfile(base / "transformer" / "config.json", target / "config.json")
        rounding, done = Rounding(), 0
        for shard in shards:
            path = base / "transformer" / shard
            for lost in _rewrite(path, target / shard, updates, dtype):
                rounding += lost
                done += 1
                progress("weights", done, len(files))
        _write_index(base / "transformer", target)
        (draft / CARD).write_text(card, encoding="utf-8")
    return rounding


def local_checkpoint(checkpoint: str) -> Path:
    """The folder that holds a checkpoint; one on the hub is fetched. Raises CheckpointError."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    from diffusers import DiffusionPipeline

    with hub_errors_explained(checkpoint):
        return Path(DiffusionPipeline.download(checkpoint))


def _copy_other_parts(base: Path, draft: Path) -> None:
    """Everything of the pipeline but its transformer."""
    index = base / "model_index.json"
    names = [path.parent.name for path in base.glob("*/config.json")]
    if index.is_file():
        shutil.copyfile(index, draft / index.name)
        with content_of(index, kind=CheckpointError):
            names = [name for name in read_json(index) if name[0] != "_"]
    for name in names:
        if name != "transformer" and (base / name).is_dir():
            shutil.copytree(base / name, draft / name)


def _check_other_parts(base: Path) -> None:
    """Refuse a copy of weights that are not whole: a file that is cut off, a shard that is missing."""
    for stem in (DIFFUSERS, TRANSFORMERS):
        for name in (single_file(stem), index_file(stem)):
            for path in base.glob(f"*/{name}"):
                tensor_files(path.parent, stem)


def _require_all(base: Path, files: Mapping[str, Path], updates: Mapping[str, LoraPair]) -> None:
    missing = updates.keys() - files.keys()
    if missing:
        raise CheckpointError(
            f"{base} lacks {len(missing)} of the LoRA's {len(updates)} modules (the first: "
            f"{min(missing)}): export with the checkpoint that the run was trained on"
        )


def _rewrite(
    source: Path, target: Path, updates: Mapping[str, LoraPair], dtype: torch.dtype | None
) -> Iterator[Rounding]:
    """Copy a safetensors file tensor by tensor, adding the updates on the way; what each lost."""
    header, _ = read_header(source)
    _forget_hashes(header)
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    names = sorted(tensors, key=lambda name: tensors[name]["data_offsets"][0])
    end = 0
    for name in names:
        entry = tensors[name]
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        if name in updates and dtype is not None:
            size = size // DTYPES[entry["dtype"]].itemsize * dtype.itemsize
            entry["dtype"] = next(code for code, known in DTYPES.items() if known is dtype)
        entry["data_offsets"] = [end, end + size]
        end += size
    with safe_open(source, framework="pt") as read, target.open("wb") as out:
        _write_header(out, header)
        for name in names:
            tensor, lost = read.get_tensor(name), Rounding()
            if name in updates:
                tensor, lost = _updated(tensor, updates[name], DTYPES[tensors[name]["dtype"]])
            out.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            yield lost


def _forget_hashes(header: Mapping[str, dict[str, Any]]) -> None:
    """Of the base model's tensors, where its metadata have them (ModelSpec)."""
    metadata = header.get("__metadata__", {})
    for key in [key for key in metadata if key.startswith("modelspec.hash_")]:
        del metadata[key]


def _updated(
    weight: torch.Tensor, pair: LoraPair, dtype: torch.dtype
) -> tuple[torch.Tensor, Rounding]:
    update = pair.up @ pair.down
    exact = weight.float() + update
    rounded = stored(exact, dtype)
    error = (rounded.float() - exact).square().sum().item()
    return rounded, Rounding(error, update.square().sum().item())


def _write_header(out: BinaryIO, header: Mapping[str, object]) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    out.write(len(text).to_bytes(8, "little") + text)


def _write_index(base: Path, target: Path) -> None:
    """The shards' index, with the size that they now have."""
    if not (base / INDEX).is_file():
        return
    index = read_json(base / INDEX)
    headers = [
        read_header(target / shard)[0] for shard in sorted(set(index["weight_map"].values()))
    ]
    index.setdefault("metadata", {})["total_size"] = sum(
        entry["data_offsets"][1] - entry["data_offsets"][0]
        for header in headers
        for name, entry in header.items()
        if name != "__metadata__"
    )
    (target / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
