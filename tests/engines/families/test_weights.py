from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from heliostat_engines.families import weights
from heliostat_engines.families.weights import weights_digest
from heliostat_engines.files.weights import index_file, single_file


@pytest.fixture
def copy(random_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    shutil.copytree(random_checkpoint / "transformer", folder / "transformer")
    return folder


def shard(folder: Path) -> None:
    """Spread the transformer over two files."""
    single = folder / "transformer" / single_file()
    tensors = load_file(single)
    single.unlink()
    files = ("a.safetensors", "b.safetensors")
    place = {name: files[number % 2] for number, name in enumerate(tensors)}
    for file in files:
        save_file({k: v for k, v in tensors.items() if place[k] == file}, single.with_name(file))
    index = {"metadata": {}, "weight_map": place}
    (folder / "transformer" / index_file()).write_text(json.dumps(index))


def change(folder: Path) -> None:
    """One bit of the middle of the largest tensor."""
    single = folder / "transformer" / single_file()
    tensors = load_file(single)
    largest = max(tensors.values(), key=torch.Tensor.numel)
    flat = largest.view(torch.int16).view(-1)
    flat[len(flat) // 2] ^= 1
    save_file(tensors, single)


@pytest.mark.parametrize("whole_bytes", [0, weights.WHOLE_BYTES])
def test_the_same_weights_have_one_digest_wherever_they_lie(
    random_checkpoint: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(weights, "WHOLE_BYTES", whole_bytes)
    digest = weights_digest(str(random_checkpoint))
    assert len(digest) == 64
    assert weights_digest(str(copy)) == digest
    shard(copy)
    assert weights_digest(str(copy)) == digest


@pytest.mark.parametrize("whole_bytes", [0, weights.WHOLE_BYTES])
def test_other_weights_have_another(
    random_checkpoint: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(weights, "WHOLE_BYTES", whole_bytes)
    change(copy)
    assert weights_digest(str(copy)) != weights_digest(str(random_checkpoint))


def test_what_cannot_be_read_has_none(copy: Path, tmp_path: Path) -> None:
    single = copy / "transformer" / single_file()
    single.write_bytes(single.read_bytes()[:100])
    assert weights_digest(str(copy)) == ""
    single.unlink()
    assert weights_digest(str(copy)) == ""
    assert weights_digest(str(tmp_path / "nowhere")) == ""
    assert weights_digest("owner/never-downloaded") == ""
