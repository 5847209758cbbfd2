from __future__ import annotations

import shutil
from pathlib import Path

import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families import get_family
from heliostat_engines.families.calibration import HEADROOM, calibrate, write_calibration
from heliostat_engines.families.precision import plan_linears
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine

FAMILY = get_family("demo")


def test_calibration_covers_what_any_map_quantises_and_the_family_reads_it(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, checkpoint)
    transformer = FAMILY.load_transformer(str(checkpoint), torch.bfloat16)
    conditioning = Conditioning(torch.randn(2, 16, 384), torch.randn(2, 384))
    amax = calibrate(FAMILY, transformer, conditioning, seeds=[1, 2], steps=2)
    plan = plan_linears(transformer, FAMILY.wide_precision_map, FAMILY.lora_targets)
    assert set(amax) == {p.name for p in plan if p.precision is Precision.NVFP4}
    assert all(value > 0 for value in amax.values())

    write_calibration(amax, checkpoint)
    read = FAMILY.activation_amax(str(checkpoint))
    assert read is not None
    assert set(read) == set(amax)
    TorchEngine(FAMILY, str(checkpoint))


def test_headroom_widens_what_was_measured(random_checkpoint: Path) -> None:
    transformer = FAMILY.load_transformer(str(random_checkpoint), torch.bfloat16)
    conditioning = Conditioning(torch.randn(1, 16, 384), torch.randn(1, 384))
    name = "transformer_blocks.0.ff.net.0.proj"
    seen: list[float] = []
    linear = transformer.get_submodule(name)
    linear.register_forward_pre_hook(lambda _m, x: seen.append(float(x[0].abs().amax())))
    amax = calibrate(FAMILY, transformer, conditioning, seeds=[1], steps=3)
    assert len(seen) == 3
    assert amax[name] == HEADROOM * max(seen)
