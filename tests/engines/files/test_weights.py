"""Weights that are not exactly a model's are refused when loaded: file and tensor are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from heliostat_engines.errors import CheckpointError
from heliostat_engines.export.sources import CheckpointSource
from heliostat_engines.families import get_family
from heliostat_engines.families.demo.text_encoder import DemoTextEncoder, packaged_model_dir
from heliostat_engines.files.weights import read_tensors, tensor_files

Change = Callable[[dict[str, torch.Tensor]], str]
"""Damages a model's tensors, and gives the words that the refusal has to have."""


def without_one(tensors: dict[str, torch.Tensor]) -> str:
    name = sorted(tensors)[len(tensors) // 2]
    del tensors[name]
    return f"{name} is missing"


def with_another(tensors: dict[str, torch.Tensor]) -> str:
    tensors["intruder.weight"] = torch.zeros(2)
    return "intruder.weight is not of this model"


def with_another_shape(tensors: dict[str, torch.Tensor]) -> str:
    name = next(name for name in sorted(tensors) if tensors[name].ndim > 1)
    shape = list(tensors[name].shape)
    tensors[name] = tensors[name][:-1].contiguous()
    return f"{name} has the shape {[shape[0] - 1, *shape[1:]]}, not {shape}"


CHANGES = [without_one, with_another, with_another_shape]
PARTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "vae_tiny": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
}


def load(family: str, folder: Path, part: str) -> object:
    from heliostat_engines.decoders import DecoderName

    one = get_family(family)
    if part == "transformer":
        return one.load_transformer(str(folder), torch.bfloat16)
    if part.startswith("vae"):
        decoder = DecoderName.TINY if part == "vae_tiny" else DecoderName.FULL
        return one.load_decoder(str(folder), decoder)
    return one.load_text_encoder(str(folder))


@pytest.fixture
def checkpoint(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's tiny checkpoint."""

    def copy(family: str) -> Path:
        shutil.copytree(tiny_checkpoint(family), tmp_path / family)
        return tmp_path / family

    return copy


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("family", "part"),
    [
        *(("sd3.5-medium", part) for part in PARTS),
        ("flux", "text_encoder"),
        ("flux", "text_encoder_2"),
        ("sana", "transformer"),
        ("sana", "vae"),
        ("sana", "text_encoder"),
    ],
)
def test_a_part_whose_tensors_differ(
    checkpoint: Callable[[str], Path], family: str, part: str, change: Change
) -> None:
    folder = checkpoint(family)
    path = folder / part / f"{PARTS[part]}.safetensors"
    tensors = load_file(path)
    words = change(tensors)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError) as refused:
        load(family, folder, part)
    assert str(refused.value) == (
        f"{folder / part} holds other weights than expected (1 differ): {words}"
    )
    if part == "transformer":
        with pytest.raises(CheckpointError, match="holds other weights than expected"):
            CheckpointSource(get_family(family), folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_is_cut_off_or_missing(checkpoint: Callable[[str], Path], part: str) -> None:
    folder = checkpoint("sd3.5-medium")
    path = folder / part / f"{PARTS[part]}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{path} is no whole safetensors file"):
        load("sd3.5-medium", folder, part)
    path.unlink()
    with pytest.raises(
        CheckpointError, match=rf"holds no {path.name} and no {path.name}.index.json"
    ):
        load("sd3.5-medium", folder, part)


def shard(folder: Path, stem: str) -> Mapping[str, Path]:
    """Split a part's single file into two, with their index; by tensor, its file."""
    single = folder / f"{stem}.safetensors"
    tensors = load_file(single)
    names = sorted(tensors)
    halves = (names[::2], names[1::2])
    weight_map = {}
    for number, half in enumerate(halves, 1):
        shard = folder / f"{stem}-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, shard, {"format": "pt"})
        weight_map |= dict.fromkeys(half, shard.name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{single.name}.index.json").write_text(json.dumps(index))
    single.unlink()
    return {name: folder / file for name, file in weight_map.items()}


@pytest.mark.parametrize("part", ["transformer", "text_encoder_3"])
def test_shards(checkpoint: Callable[[str], Path], part: str) -> None:
    folder = checkpoint("sd3.5-medium")
    files = shard(folder / part, PARTS[part])
    assert tensor_files(folder / part, PARTS[part]) == files
    assert load("sd3.5-medium", folder, part)
    name, path = max(files.items())
    whole = path.read_bytes()
    save_file({key: t for key, t in load_file(path).items() if key != name}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{path} lacks the tensor {name}, which"):
        load("sd3.5-medium", folder, part)
    path.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match=f"{path} is no whole safetensors file"):
        load("sd3.5-medium", folder, part)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"there is no {path}: it is missing from"):
        load("sd3.5-medium", folder, part)
    index = folder / part / f"{PARTS[part]}.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(CheckpointError, match=f"{index} is no index of weights"):
        load("sd3.5-medium", folder, part)


def test_a_pickle_is_not_read(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("demo")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(CheckpointError, match="in diffusers' layout with safetensors"):
        get_family("demo").load_decoder(str(folder))


@pytest.mark.parametrize("change", CHANGES)
def test_the_demos_text_encoder(tmp_path: Path, change: Change) -> None:
    shutil.copytree(packaged_model_dir(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    words = change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as refused:
        DemoTextEncoder(tmp_path / "model")
    assert str(refused.value) == f"{path} holds other weights than expected (1 differ): {words}"


def test_what_is_no_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no header")
    with pytest.raises(CheckpointError, match=f"{path} is no whole safetensors file"):
        read_tensors(path)


def test_a_file_with_a_side_beyond_64_bits(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}
    header = json.dumps({"weight": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"is no whole safetensors file \(.+\)") as refused:
        read_tensors(path)
    assert "\n" not in str(refused.value)
