"""Every family's export loads in plain diffusers and draws what the trained policy draws.

The reference is computed here: base weights plus alpha / rank B A, in float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from heliostat_engines.errors import CheckpointError
from heliostat_engines.families import FAMILIES, get_family
from heliostat_engines.families.family import Family
from heliostat_engines.families.precision import is_lora_target, named_linears
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from heliostat_trainer.errors import ConfigError, RunFolderError
from heliostat_trainer.export import DIFFUSERS_FILE, Exported, Format, export_run
from heliostat_trainer.export.comfyui import original_pairs

RANK, ALPHA, STEP = 4, 6.0, 7
EVERY = pytest.mark.parametrize("name", [family.name for family in FAMILIES])
CONVERTERS = {
    "demo": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "sd3.5-large": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "sd3.5-medium": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "sana": single_file_utils.convert_sana_transformer_to_diffusers,
}


@dataclass(frozen=True)
class Trained:
    """A run folder of a family's tiny checkpoint with a LoRA that matters."""

    family: Family
    checkpoint: Path
    folder: Path
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def deltas(self) -> dict[str, torch.Tensor]:
        return {module: ALPHA / RANK * up @ down for module, (down, up) in self.pairs.items()}

    def plain(self) -> Any:
        """The base transformer as diffusers loads it."""
        loaded = self.family.transformer_class().from_pretrained(
            self.checkpoint, subfolder="transformer", torch_dtype=torch.float32
        )
        return loaded.eval()

    def reference(self) -> torch.Tensor:
        return self.draw(with_deltas(self.plain(), self.deltas()))

    @torch.inference_mode()
    def draw(self, transformer: Any) -> torch.Tensor:
        side = 64 if self.family.name == "demo" else 512 if self.family.name == "sana" else 256
        noise = initial_noise([1, 2], self.family.latent_shape(side))
        row = self.family.probe_conditioning(transformer, 5)
        conditioning = row.repeat(2)
        return sample_euler(
            lambda latents, sigma: self.family.velocity(transformer, latents, sigma, conditioning),
            noise,
            self.family.sigmas(3, side),
        )


def with_deltas(transformer: Any, deltas: Mapping[str, torch.Tensor]) -> Any:
    with torch.no_grad():
        for module, delta in deltas.items():
            transformer.get_submodule(module).weight += delta
    return transformer


@pytest.fixture(scope="module")
def trained(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    made: dict[str, Trained] = {}

    def make(name: str) -> Trained:
        if name not in made:
            folder = tmp_path_factory.mktemp("runs") / f"tiny-{name}"
            made[name] = write_run(name, tiny_checkpoint(name), folder)
        return made[name]

    return make


def write_run(name: str, checkpoint: Path, folder: Path) -> Trained:
    family = get_family(name)
    random = torch.Generator().manual_seed(3)
    transformer = family.load_transformer(str(checkpoint), torch.float32)
    pairs = {
        module: (
            torch.randn(RANK, linear.in_features, generator=random) * 0.2,
            torch.randn(linear.out_features, RANK, generator=random) * 0.2,
        )
        for module, linear in named_linears(transformer)
        if is_lora_target(module, family.lora_targets)
    }
    place = folder / "checkpoints" / f"step-{STEP:06d}"
    place.mkdir(parents=True)
    sides = [
        (f"{module}.lora_{side}", tensor)
        for module, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    ]
    tensors = {f"ema/{key}": tensor for key, tensor in sides}
    tensors |= {f"trained/{key}": torch.zeros_like(tensor) for key, tensor in sides}
    save_file(tensors, place / "tensors.safetensors")
    (place / "state.json").write_text(json.dumps({"state": {"step": STEP, "best_step": None}}))
    (folder / "run.json").write_text(json.dumps({"config": settings(family, checkpoint)}))
    return Trained(family, checkpoint, folder, pairs)


def settings(family: Family, checkpoint: Path) -> dict[str, dict[str, object]]:
    return {
        "run": {"seed": 42},
        "model": {
            "family": family.name,
            "checkpoint": str(checkpoint),
            "resolution_px": None,
        },
        "prompts": {"per_step": 2},
        "recipe": {
            "name": "sol_rl",
            "candidates": 8,
            "explore_steps": 2,
            "keep_pairs": 2,
            "steps": 4,
        },
        "reward": {"name": "warmth", "heldout": ["contrast"]},
        "lora": {"rank": RANK, "alpha": ALPHA},
        "objective": {"name": "diffusion_nft", "kl_weight": 0.0},
        "optimiser": {"lr": 1e-3},
        "evaluation": {"steps": 3},
    }


def export(run: Trained, kind: Format, tmp_path: Path, **settings: Any) -> Exported:
    return export_run(run.folder, kind, tmp_path / "out", **settings)


def assert_same_picture(run: Trained, transformer: Any, tolerance: float = 1e-4) -> None:
    expected, base = run.reference(), run.draw(run.plain())
    moved = (expected - base).norm()
    assert moved > 0.05 * base.norm(), "the LoRA must matter for the test to"
    assert (run.draw(transformer) - expected).norm() < tolerance * moved


@EVERY
def test_the_diffusers_folder(name: str, trained: Callable[[str], Trained], tmp_path: Path) -> None:
    run = trained(name)
    folder = export(run, Format.DIFFUSERS, tmp_path).path
    transformer = run.plain()
    transformer.load_lora_adapter(folder, prefix="transformer", weight_name=DIFFUSERS_FILE)
    assert_same_picture(run, transformer)


@pytest.mark.parametrize("name", [f.name for f in FAMILIES if f.pipeline])
def test_the_diffusers_folder_in_its_pipeline(
    name: str, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    run = trained(name)
    pipeline_class = getattr(diffusers, str(run.family.pipeline))
    pipeline = pipeline_class.from_pretrained(run.checkpoint)
    pipeline.load_lora_weights(export(run, Format.DIFFUSERS, tmp_path).path)
    torch.nn.Module.to(pipeline.transformer, torch.float32)
    assert_same_picture(run, pipeline.transformer)


class Deltas(dict[str, torch.Tensor]):
    """A checkpoint of the original layout that knows deltas only; all else is zero."""

    def pop(self, key: str, *_: Any) -> torch.Tensor:  # type: ignore[override]
        return super().pop(key, torch.zeros(6, 1))

    def __missing__(self, key: str) -> torch.Tensor:
        return torch.zeros(6, 1)


def original_deltas(file: Path) -> dict[str, torch.Tensor]:
    """By key, what ComfyUI adds to the weight: alpha / rank * up down."""
    tensors = load_file(file)
    names = {key.partition(".")[0] for key in tensors}
    assert set(tensors) == {
        f"{name}.{part}"
        for name in names
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    return {
        name: tensors[f"{name}.alpha"].item()
        / len(tensors[f"{name}.lora_down.weight"])
        * tensors[f"{name}.lora_up.weight"]
        @ tensors[f"{name}.lora_down.weight"]
        for name in names
    }


def dotted(key: str, family: Family) -> str:
    """ComfyUI finds the module by replacing its dots; so does this."""
    for linear in family.original_linears:
        for block in range(9):
            module = linear.name.format(block)
            if key == "lora_unet_" + module.replace(".", "_"):
                return module
    raise AssertionError(key)


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_comfyui_file_on_the_original_layouts_weights(
    name: str, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    """Through diffusers' own converter of original checkpoints: it knows both layouts."""
    run = trained(name)
    file = export(run, Format.COMFYUI, tmp_path).path
    checkpoint = Deltas()
    for key, delta in original_deltas(file).items():
        checkpoint[dotted(key, run.family) + ".weight"] = delta
    converted = CONVERTERS[name](checkpoint)
    assert not checkpoint, "a name that the original layout does not have"
    deltas = {module: converted[f"{module}.weight"] for module in run.pairs}
    others = [key for key, value in converted.items() if value.any()]
    assert len(others) == len(deltas)
    assert_same_picture(run, with_deltas(run.plain(), deltas))


def test_the_comfyui_file_on_fluxs_rows(trained: Callable[[str], Trained], tmp_path: Path) -> None:
    """Rows as ComfyUI maps them: q, k, v of the width each, then the feed-forward's."""
    run = trained("flux")
    deltas = {}
    for key, delta in original_deltas(export(run, Format.COMFYUI, tmp_path).path).items():
        width = delta.shape[1]
        block = int("".join(filter(str.isdigit, key.replace("linear1", ""))))
        if "single" in key:
            q, k, v, feed_forward = delta.split([width, width, width, 4 * width])
            assert not feed_forward.any()
            prefix = f"single_transformer_blocks.{block}.attn"
        elif "qkv" in key:
            q, k, v = delta.split(width)
            prefix = f"transformer_blocks.{block}.attn"
        else:
            deltas[f"transformer_blocks.{block}.attn.to_out.0"] = delta
            continue
        deltas |= {f"{prefix}.to_q": q, f"{prefix}.to_k": k, f"{prefix}.to_v": v}
    assert deltas.keys() == run.pairs.keys()
    assert_same_picture(run, with_deltas(run.plain(), deltas))


def test_the_comfyui_file_of_flux_is_what_diffusers_reads_as_kohyas(tmp_path: Path) -> None:
    """diffusers' converter of kohya's files knows FLUX.1's published width only."""
    width, family = 3072, get_family("flux")
    random = torch.Generator().manual_seed(0)
    pairs = {
        part.format(0): (
            torch.randn(2, width, generator=random),
            torch.randn(width, 2, generator=random),
        )
        for linear in family.original_linears
        for part in linear.parts
    }
    tensors = {}
    for module, pair in original_pairs(family, pairs, alpha=3.0).items():
        key = "lora_unet_" + module.replace(".", "_")
        tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"] = pair.down, pair.up
        tensors[f"{key}.alpha"] = torch.tensor(pair.alpha)
    save_file(tensors, tmp_path / "lora.safetensors")
    read = diffusers.FluxPipeline.lora_state_dict(tmp_path / "lora.safetensors")
    modules = {key.removeprefix("transformer.").partition(".lora_")[0] for key in read}
    assert modules == pairs.keys() | {"single_transformer_blocks.0.proj_mlp"}
    for module, (down, up) in pairs.items():
        theirs_up = read[f"transformer.{module}.lora_B.weight"]
        theirs_down = read[f"transformer.{module}.lora_A.weight"]
        rows, x = torch.randint(width, (64,), generator=random), torch.randn(width, 8)
        expected = 3.0 / 2 * up[rows] @ (down @ x)
        torch.testing.assert_close(
            theirs_up[rows] @ (theirs_down @ x), expected, rtol=1e-4, atol=1e-2
        )
    assert not read["transformer.single_transformer_blocks.0.proj_mlp.lora_B.weight"].any()


def test_a_fused_pair_is_the_separate_ones(trained: Callable[[str], Trained]) -> None:
    run = trained("sd3.5-medium")
    fused = original_pairs(run.family, run.pairs, ALPHA)["joint_blocks.1.context_block.attn.qkv"]
    assert fused.down.shape[0] == 3 * RANK
    assert fused.alpha / (3 * RANK) == ALPHA / RANK
    separate = [
        run.deltas()[f"transformer_blocks.1.attn.add_{part}_proj"] for part in ("q", "k", "v")
    ]
    delta = fused.alpha / fused.down.shape[0] * fused.up @ fused.down
    torch.testing.assert_close(delta, torch.cat(separate))


def test_what_the_original_layout_has_no_place_for_is_refused() -> None:
    family = get_family("sana")
    pair = (torch.ones(2, 8), torch.ones(8, 2))
    with pytest.raises(ConfigError, match=r"no transformer_blocks.0.attn1.to_k: train all"):
        original_pairs(family, {"transformer_blocks.0.attn1.to_q": pair}, 1.0)
    with pytest.raises(ConfigError, match=r"1 modules have no place .* proj_out.*diffusers"):
        original_pairs(family, {"proj_out": pair}, 1.0)


@EVERY
def test_the_fused_checkpoint_in_float32(
    name: str, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    run = trained(name)
    exported = export(run, Format.FUSED, tmp_path, dtype=torch.float32)
    assert exported.rounding is not None
    assert exported.rounding.share < 1e-6
    transformer = run.family.transformer_class().from_pretrained(
        exported.path, subfolder="transformer", torch_dtype=torch.float32
    )
    assert_same_picture(run, transformer)


def test_the_fused_checkpoint_is_a_whole_pipeline_in_shards(
    trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    run = trained("sd3.5-medium")
    sharded = tmp_path / "base"
    diffusers.StableDiffusion3Pipeline.from_pretrained(
        run.checkpoint, torch_dtype=torch.bfloat16
    ).save_pretrained(sharded, max_shard_size="100KB")
    other = write_run("sd3.5-medium", sharded, tmp_path / "sharded-run")
    exported = export(other, Format.FUSED, tmp_path)
    shards = list((exported.path / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    assert exported.rounding is not None
    assert 0 < exported.rounding.share < 0.1
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(
        exported.path, torch_dtype=torch.bfloat16
    )
    assert_same_picture(run, torch.nn.Module.to(pipeline.transformer, torch.float32), 0.1)
    for shard in shards:
        with (
            safe_open(shard, "pt") as tensors,
            safe_open(sharded / "transformer" / shard.name, "pt") as base,
        ):
            for key in base.keys():  # noqa: SIM118
                updated = key.removesuffix(".weight") in run.pairs
                assert torch.equal(tensors.get_tensor(key), base.get_tensor(key)) != updated


def test_another_checkpoint_than_the_runs_is_refused(
    trained: Callable[[str], Trained], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    run = trained("sd3.5-medium")
    written = json.loads((run.folder / "run.json").read_text())
    written["config"]["model"]["checkpoint"] = str(tiny_checkpoint("sana"))
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / "step-000007").symlink_to(run.folder / "checkpoints" / "step-000007")
    (other / "run.json").write_text(json.dumps(written))
    with pytest.raises(CheckpointError, match="that the run was trained on"):
        export_run(other, Format.FUSED)
    assert not (other / "export" / "fused").exists()


@pytest.mark.parametrize("kind", list(Format))
def test_weights_that_a_type_does_not_hold_are_not_exported(
    trained: Callable[[str], Trained], tmp_path: Path, kind: Format
) -> None:
    run = trained("demo")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    (path,) = folder.glob("checkpoints/*/tensors.safetensors")
    tensors = load_file(path)
    key = next(key for key in tensors if key.startswith("ema/") and key.endswith("lora_B"))
    for value, sentence in (
        (1e9, "float16 does not hold these weights: one becomes infinite; export with --dtype"),
        (
            torch.nan,
            r"tensors.safetensors is damaged \(its weights are NaN or infinite\): export another",
        ),
    ):
        tensors[key][0] = value
        save_file(tensors, path)
        with pytest.raises((ConfigError, RunFolderError), match=sentence):
            export_run(folder, kind, tmp_path / "out", dtype=torch.float16)
        assert not (tmp_path / "out").exists()


def test_a_step_that_is_not_kept_is_refused(trained: Callable[[str], Trained]) -> None:
    run = trained("demo").folder
    with pytest.raises(
        RunFolderError, match=r"no checkpoint of step 3: choose latest, best, or one of 7"
    ):
        export_run(run, step="3")
    with pytest.raises(RunFolderError, match="no evaluation that says which step is best"):
        export_run(run, step="best")
    with pytest.raises(RunFolderError, match="step 'last' is none"):
        export_run(run, step="last")


def test_a_base_that_is_not_whole_is_not_fused(
    trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(trained("sd3.5-medium").checkpoint, base)
    run = write_run("sd3.5-medium", base, tmp_path / "run").folder
    weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    save_file({name: t for name, t in whole.items() if name != "proj_out.bias"}, weights)
    with pytest.raises(CheckpointError, match=r"1 differ\): proj_out.bias is missing"):
        export_run(run, Format.FUSED)
    save_file(whole, weights)
    vae = base / "vae" / "diffusion_pytorch_model.safetensors"
    vae.write_bytes(vae.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=f"{vae} is no whole safetensors file"):
        export_run(run, Format.FUSED)
    assert not (run / "export").exists()
