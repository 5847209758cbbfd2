"""A digest of a checkpoint's transformer that says which weights they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat_engines.errors import CheckpointError
from heliostat_engines.files.weights import read_header, tensor_files

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = "transformer"
WHOLE_BYTES = 64 * 2**20
"""Up to so many, every byte is read; of larger weights a few pieces of each tensor."""
PIECE_BYTES = 4096


@dataclass(frozen=True)
class _Stored:
    """One tensor's bytes, [begin, end) of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int
    end: int


def weights_digest(checkpoint: str) -> str:
    """SHA-256 of a checkpoint's transformer: the same wherever it lies and however it is sharded.

    It is made of each tensor's name, dtype, shape and bytes, of weights above WHOLE_BYTES of the
    first, middle and last bytes of each: training or merging changes nearly all of them. Downloads
    nothing. Empty where it cannot be told: the weights are not on this machine, or no safetensors.
    """
    folder = _folder(checkpoint)
    if folder is None:
        return ""
    digest = hashlib.sha256()
    try:
        files = set(tensor_files(folder).values())
        tensors = sorted(
            (tensor for path in files for tensor in _stored(path)), key=lambda each: each.name
        )
        is_whole = sum(each.end - each.begin for each in tensors) <= WHOLE_BYTES
        for tensor in tensors:
            digest.update(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            with tensor.path.open("rb") as file:
                for begin, end in _pieces(tensor, is_whole=is_whole):
                    file.seek(begin)
                    digest.update(file.read(end - begin))
    except (CheckpointError, OSError, ValueError, KeyError, TypeError):
        return ""  # whoever loads it says what is wrong
    return digest.hexdigest()


def _folder(checkpoint: str) -> Path | None:
    """The transformer's, in a local checkpoint or in the cache of the Hugging Face hub."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint) / PART
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(checkpoint, f"{PART}/config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _stored(path: Path) -> Iterator[_Stored]:
    """The tensors of a safetensors file, by its header: a length, JSON, then their bytes."""
    header, start = read_header(path)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        yield _Stored(name, entry["dtype"], tuple(entry["shape"]), path, start + begin, start + end)


def _pieces(tensor: _Stored, *, is_whole: bool) -> list[tuple[int, int]]:
    size = tensor.end - tensor.begin
    if is_whole or size <= 3 * PIECE_BYTES:
        return [(tensor.begin, tensor.end)]
    starts = (0, (size - PIECE_BYTES) // 2, size - PIECE_BYTES)
    return [(tensor.begin + start, tensor.begin + start + PIECE_BYTES) for start in starts]
