"""What exported files say of themselves, key by key: model managers sort by it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from heliostat_engines.families import get_family
from heliostat_trainer.export import DIFFUSERS_FILE, Format, export_run
from tests.trainer.export.test_formats import ALPHA, RANK, STEP, write_run

SAVED_AT = 1_700_000_000.0
BFL = "https://github.com/black-forest-labs/flux"
SD3 = "https://github.com/Stability-AI/sd3.5"
QKV = "joint_blocks.*.{}_block.attn.qkv"
SD3_RANKS = {QKV.format("x"): 3 * RANK, QKV.format("context"): 3 * RANK}
FLUX_RANKS = {"double_blocks.*.img_attn.qkv": 3 * RANK, "single_blocks.*.linear1": 3 * RANK}
SANA_RANKS = {"blocks.*.attn.qkv": 3 * RANK, "blocks.*.cross_attn.kv_linear": 2 * RANK}


@pytest.fixture
def run(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """run(FAMILY, **fields): a run of its tiny checkpoint, with fields of its transformer changed."""

    def write(family: str, **fields: object) -> Path:
        checkpoint = tmp_path / "models" / f"tiny-{family}"
        shutil.copytree(tiny_checkpoint(family), checkpoint)
        folder = tmp_path / "runs" / "mine"
        write_run(family, checkpoint, folder)
        path = checkpoint / "transformer" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        tensors = folder / "checkpoints" / f"step-{STEP:06d}" / "tensors.safetensors"
        os.utime(tensors, (SAVED_AT, SAVED_AT))
        return folder

    return write


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def content_hash(file: Path) -> str:
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return "0x" + hashlib.sha256(content[start:]).hexdigest()


def test_images_that_are_no_squares_are_said_as_width_and_height(run: Callable[..., Path]) -> None:
    folder = run("sd3.5-medium")
    path = folder / "run.json"
    content = json.loads(path.read_text())
    content["config"]["model"]["resolution_px"] = [832, 1216]
    path.write_text(json.dumps(content))
    file = export_run(folder, Format.COMFYUI).path
    assert metadata(file)["modelspec.resolution"] == "832x1216"
    card = (export_run(folder, Format.DIFFUSERS).path / "README.md").read_text()
    assert "height=1216, width=832," in card


@pytest.mark.parametrize(
    ("family", "architecture", "implementation", "version", "module", "ranks"),
    [
        ("flux", "flux-1-dev", BFL, "flux1", "networks.lora_flux", FLUX_RANKS),
        ("flux-schnell", "flux-1-schnell", BFL, "flux1", "networks.lora_flux", FLUX_RANKS),
        (
            "sd3.5-large",
            "stable-diffusion-v3.5-large",
            SD3,
            "3-5-large",
            "networks.lora_sd3",
            SD3_RANKS,
        ),
        (
            "sd3.5-medium",
            "stable-diffusion-v3.5-medium",
            SD3,
            "3-5-medium",
            "networks.lora_sd3",
            SD3_RANKS,
        ),
        ("sana", "nvidia-sana", "https://github.com/NVlabs/Sana", "sana", None, SANA_RANKS),
        ("demo", "heliostat-demo", SD3, "heliostat-demo", None, SD3_RANKS),
    ],
)
def test_the_comfyui_file(
    run: Callable[..., Path],
    tmp_path: Path,
    family: str,
    architecture: str,
    implementation: str,
    version: str,
    module: str | None,
    ranks: dict[str, int],
) -> None:
    file = export_run(run(family), Format.COMFYUI, tmp_path / "out").path
    found = metadata(file)
    arguments = json.loads(found.pop("ss_network_args"))
    assert arguments == {"split_qkv": "True", "fused_ranks": ranks}
    side = get_family(family).default_resolution_px
    expected = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": implementation,
        "modelspec.title": "mine",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.description": f"Trained {STEP} steps on warmth with heliostat.",
        "modelspec.usage_hint": "Needs no trigger word.",
        "modelspec.date": "2023-11-14T22:13:20Z",
        "modelspec.tags": "lora, reinforcement-learning, heliostat",
        "modelspec.hash_sha256": content_hash(file),
        "ss_output_name": "mine",
        "ss_base_model_version": version,
        "ss_sd_model_name": f"tiny-{family}",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(ALPHA),
        "ss_steps": str(STEP),
        "ss_learning_rate": "0.001",
        "ss_seed": "42",
    }
    if module is not None:
        expected["ss_network_module"] = module
    assert found == expected
    for name, rank in ranks.items():
        key = "lora_unet_" + name.replace("*", "0").replace(".", "_")
        assert len(load_file(file)[f"{key}.lora_down.weight"]) == rank


def test_the_published_models_names() -> None:
    names = {
        family: get_family(family).public_names(get_family(family).transformer_configs["published"])  # type: ignore[index]
        for family in ("sana", "flux", "flux-schnell", "sd3.5-large", "sd3.5-medium")
    }
    assert {family: found.architecture for family, found in names.items()} == {
        "sana": "nvidia-sana-1600",
        "flux": "flux-1-dev",
        "flux-schnell": "flux-1-schnell",
        "sd3.5-large": "stable-diffusion-v3.5-large",
        "sd3.5-medium": "stable-diffusion-v3.5-medium",
    }


def test_the_checkpoint_decides_not_the_familys_name(run: Callable[..., Path]) -> None:
    folder = run("sd3.5-medium", qk_norm=None, dual_attention_layers=[])
    found = metadata(export_run(folder, Format.COMFYUI).path)
    assert found["modelspec.architecture"] == "stable-diffusion-v3-medium/lora"
    assert found["ss_base_model_version"] == "3-medium"


def test_the_diffusers_file(run: Callable[..., Path]) -> None:
    file = export_run(run("flux"), Format.DIFFUSERS).path / DIFFUSERS_FILE
    found = metadata(file)
    assert found["modelspec.architecture"] == "flux-1-dev/lora"
    assert found["modelspec.implementation"] == "diffusers"
    assert found["modelspec.hash_sha256"] == content_hash(file)
    assert not [key for key in found if key.startswith("ss_")]


def test_a_fused_checkpoint_forgets_the_base_models_hash(run: Callable[..., Path]) -> None:
    folder = run("flux")
    settings = json.loads((folder / "run.json").read_text())["config"]
    base = Path(settings["model"]["checkpoint"]) / "transformer"
    name = "diffusion_pytorch_model.safetensors"
    described = {"modelspec.title": "base", "modelspec.hash_sha256": "0xold"}
    save_file(load_file(base / name), base / name, described)
    fused = export_run(folder, Format.FUSED).path
    assert metadata(fused / "transformer" / name) == {"modelspec.title": "base"}
