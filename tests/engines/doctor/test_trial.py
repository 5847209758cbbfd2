"""The doctor's trial on the vendor's stand-in, whose faults it has to find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from heliostat_engines.compiling import builder
from heliostat_engines.compiling.cache import EngineCache
from heliostat_engines.doctor.findings import Finding, Level
from heliostat_engines.doctor.trial import ModeTrial, Trials, compile_ahead
from heliostat_engines.families.demo.family import TINY, DemoFamily
from heliostat_engines.families.family import Family, Size
from heliostat_engines.families.precision import named_linears
from heliostat_engines.machine.hardware import Gpu, find_gpu
from heliostat_engines.plans.graph_manifest import LoraMode
from heliostat_engines.runtimes.engine import Engine
from heliostat_engines.runtimes.tensorrt.engine import TensorRTEngine
from tests.engines import fake_tensorrt
from tests.engines.fake_tensorrt import FakeTensorRT, HostDevice

B200 = Gpu("B200", (10, 0), 180 * 10**9, 180 * 10**9)


class OneBlock(DemoFamily):
    transformer_configs = {Size.TINY: TINY | {"num_layers": 1}}  # noqa: RUF012


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("checkpoint")
    OneBlock().write_tiny_checkpoint(folder)
    linears = named_linears(OneBlock().load_transformer(str(folder), torch.bfloat16))
    amax = {name: 8.0 for name, _ in linears}
    (folder / "transformer" / "activation_amax.json").write_text(json.dumps(amax))

    class WithCheckpoint(OneBlock):
        default_checkpoint = str(folder)

    return WithCheckpoint()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def library() -> Iterator[FakeTensorRT]:
    library = FakeTensorRT()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "find_gpu", lambda: B200)
        patch.setattr(builder, "load_vendor", lambda _: library.vendor())
        yield library


def load(library: FakeTensorRT, folder: Path, *, slots: int) -> Engine:
    vendor = library.vendor()
    return TensorRTEngine(folder, slots=slots, device=HostDevice(library), vendor=vendor)


def tried(
    family: Family, cache: EngineCache, library: FakeTensorRT
) -> dict[str, ModeTrial | Finding]:
    trials = Trials(family, B200, cache, partial(load, library), lambda *_: None)
    return dict(zip(LoraMode, trials.run(), strict=True))


def level(result: ModeTrial | Finding) -> Level:
    return result.finding().level if isinstance(result, ModeTrial) else result.level


@pytest.mark.slow
def test_a_sound_library_passes_in_every_mode(
    family: Family, cache: EngineCache, library: FakeTensorRT
) -> None:
    for mode, result in tried(family, cache, library).items():
        assert isinstance(result, ModeTrial)
        assert result.passed, result
        assert "A, B, A gives the same bits" in result.finding().text
        assert result.finding().part == f"engine, {mode}"


@pytest.mark.slow
def test_refits_that_fail_are_told_and_the_other_mode_is_tried(
    family: Family, cache: EngineCache, library: FakeTensorRT
) -> None:
    library.refits_fail = True
    results = tried(family, cache, library)
    assert level(results[LoraMode.INPUTS]) is Level.GOOD
    for mode in (LoraMode.REFIT, LoraMode.MERGE):
        result = results[mode]
        assert isinstance(result, Finding)
        assert "out of service" in result.text


@pytest.mark.slow
def test_a_refit_that_leaves_residue_is_found(
    family: Family, cache: EngineCache, library: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a library does that keeps some of the last adapter: here, all that the third refit sends."""
    refit = fake_tensorrt.Refitter.refit_cuda_engine_async

    def forgetful(refitter: fake_tensorrt.Refitter, stream_handle: int) -> bool:
        if len(library.refits) % 4 == 3:
            refitter._set.popitem()
        return refit(refitter, stream_handle)

    monkeypatch.setattr(fake_tensorrt.Refitter, "refit_cuda_engine_async", forgetful)
    result = tried(family, cache, library)[LoraMode.REFIT]
    assert isinstance(result, ModeTrial)
    assert not result.returns_to_the_bit
    assert result.finding().level is Level.PROBLEM


def test_without_a_gpu_it_compiles_and_says_what_was_not_checked(
    family: Family, cache: EngineCache
) -> None:
    found = compile_ahead(family, cache, lambda *_: None)
    assert found.level is Level.GOOD
    assert "refit and merge, were not checked" in found.text


@pytest.mark.gpu
def test_on_a_gpu_the_real_library_passes(tmp_path: Path) -> None:
    gpu = find_gpu()
    assert gpu is not None
    trials = Trials(DemoFamily(), gpu, EngineCache(tmp_path), TensorRTEngine, lambda *_: None)
    for result in trials.run():
        assert level(result) is Level.GOOD, result
