"""Weights on disk and the module that they are for: every tensor of it, in its shape, and no other.

A safetensors file begins with the names and shapes of its tensors, so a whole checkpoint is checked
before any of it is loaded.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from heliostat_engines.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn

    Shape = tuple[int, ...]

LENGTH_BYTES = 8
UNREADABLE = (SafetensorError, ValueError, TypeError)
"""What safetensors raises of bytes that are no whole file; the last if a tensor of no values has a side
beyond 64 bits."""
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""What the two libraries call a model's file of weights."""


def single_file(stem: str = DIFFUSERS) -> str:
    """A model's weights in one file."""
    return f"{stem}.safetensors"


def index_file(stem: str = DIFFUSERS) -> str:
    """What says which of a model's tensors is in which of several files."""
    return f"{single_file(stem)}.index.json"


def tensor_files(folder: Path, stem: str = DIFFUSERS) -> dict[str, Path]:
    """By tensor, the file that holds it, of a model in one file or in shards.

    Raises:
        CheckpointError: a file is missing or not whole, or lacks a tensor that the index puts there.
    """
    index = folder / index_file(stem)
    if not index.is_file():
        file = folder / single_file(stem)
        if not file.is_file():
            raise CheckpointError(
                f"{folder} holds no {file.name} and no {index.name}: point the checkpoint at a folder "
                "in diffusers' layout with safetensors"
            )
        return dict.fromkeys(read_shapes(file), file)
    return _sharded(index)


def _sharded(index: Path) -> dict[str, Path]:
    try:
        weight_map: dict[str, str] = dict(json.loads(index.read_text("utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} is no index of weights: download it again") from error
    shards = {name: index.parent / name for name in sorted(set(weight_map.values()))}
    found = {name: read_shapes(shard).keys() for name, shard in shards.items()}
    for tensor, name in weight_map.items():
        if tensor not in found[name]:
            raise CheckpointError(
                f"{shards[name]} lacks the tensor {tensor}, which {index.name} puts there: download "
                "it again"
            )
    # Of the files themselves: a tensor that the index does not list is there all the same.
    return {tensor: shards[name] for name, tensors in found.items() for tensor in tensors}


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """As `parse_header`, of a file. Raises ValueError, which names it."""
    with file.open("rb") as opened:
        try:
            return parse_header(opened, file.stat().st_size)
        except ValueError as error:
            raise ValueError(f"{file} is no whole safetensors file: {error}") from error


def parse_header(opened: BinaryIO, size: int) -> tuple[dict[str, dict[str, Any]], int]:
    """By tensor its dtype, shape and offsets, and where the tensors' bytes begin.

    Layout of a safetensors file: eight bytes of length, little endian, then JSON, then the tensors.

    Raises:
        ValueError: it is no whole one of so many bytes.
    """
    length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
    if length > size:
        raise ValueError(f"its header has {length} bytes, more than there are in all ({size})")
    header: dict[str, dict[str, Any]] = json.loads(opened.read(length))
    return header, LENGTH_BYTES + length


def read_shapes(file: Path) -> dict[str, Shape]:
    """Names and shapes of a file's tensors, without reading them. Raises CheckpointError."""
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except (OSError, *UNREADABLE) as error:
        raise _not_whole(file, error) from error


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file. Raises CheckpointError."""
    try:
        return load_file(file)
    except (OSError, *UNREADABLE) as error:
        raise _not_whole(file, error) from error


def read_metadata(file: Path) -> dict[str, str]:
    """The strings that a file carries beside its tensors. Raises CheckpointError."""
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, *UNREADABLE) as error:
        raise _not_whole(file, error) from error


def _not_whole(file: Path, error: Exception) -> CheckpointError:
    if not file.is_file():
        return CheckpointError(f"there is no {file}: it is missing from the checkpoint")
    return CheckpointError(
        f"{file} is no whole safetensors file ({first_line(error)}): download or write it again"
    )


def check_shapes(wanted: Mapping[str, Shape], given: Mapping[str, Shape], source: str) -> None:
    """Refuse weights that are not exactly the wanted ones, by name and shape.

    Raises:
        CheckpointError: naming the source, how many tensors differ, and the first of them.
    """
    refuse(
        source,
        missing=wanted.keys() - given.keys(),
        unexpected=given.keys() - wanted.keys(),
        misshapen={
            name: (given[name], wanted[name])
            for name in wanted.keys() & given.keys()
            if given[name] != wanted[name]
        },
    )


def refuse(
    source: str,
    *,
    missing: set[str],
    unexpected: set[str],
    misshapen: Mapping[str, tuple[Shape, Shape]],
) -> None:
    """Refuse weights in which any tensor differs; shapes are (given, wanted).

    Raises:
        CheckpointError: naming the source, how many tensors differ, and the first of them.
    """
    problems = [
        *(f"{name} is missing" for name in sorted(missing)),
        *(f"{name} is not of this model" for name in sorted(unexpected)),
        *(
            f"{name} has the shape {list(given)}, not {list(wanted)}"
            for name, (given, wanted) in sorted(misshapen.items())
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{source} holds other weights than expected ({len(problems)} differ): {problems[0]}"
        )


def shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, Shape]:
    """Of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def check_state(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse weights that are not exactly the module's. Raises CheckpointError."""
    check_shapes(shapes(module.state_dict()), shapes(weights), source)


def check_folder(module: nn.Module, folder: Path, stem: str = DIFFUSERS) -> dict[str, Path]:
    """By tensor, the file that holds it, of a folder that holds exactly the module's tensors.

    Raises:
        CheckpointError: it does not.
    """
    files = tensor_files(folder, stem)
    given = {
        name: shape
        for file in dict.fromkeys(files.values())
        for name, shape in read_shapes(file).items()
    }
    check_shapes(shapes(module.state_dict()), given, str(folder))
    return files


def load_exactly(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Fill the module with the weights. Raises CheckpointError if they are not exactly its own."""
    check_state(module, weights, source)
    module.load_state_dict(dict(weights))
