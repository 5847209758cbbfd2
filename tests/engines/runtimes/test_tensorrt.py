"""The compiled runtime on this machine's memory: a stand-in for the vendor's library runs the ONNX
file that the real one compiles. What only the real one shows is marked gpu, at the end.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from heliostat_engines.adapters import Adapter, pack_adapter, parse_adapter
from heliostat_engines.compiling import builder
from heliostat_engines.compiling.builder import BuildRequest, BuiltEngine, build_engine
from heliostat_engines.compiling.cache import EngineCache
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import AdapterError, EngineFaultError, EngineFolderError
from heliostat_engines.families import get_family
from heliostat_engines.families.demo.family import TINY, DemoFamily
from heliostat_engines.families.family import Size
from heliostat_engines.families.precision import named_linears
from heliostat_engines.machine.hardware import Gpu
from heliostat_engines.plans.graph_manifest import ExportOptions, LoraMode
from heliostat_engines.plans.manifest import MANIFEST_FILE, TRANSFORMER_PLAN, read_manifest
from heliostat_engines.plans.merged_tensors import refittable_names
from heliostat_engines.plans.profiles import parse_profile
from heliostat_engines.runtimes.tensorrt.engine import TensorRTDecoder, TensorRTEngine
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise
from tests.engines import fake_tensorrt
from tests.engines.contract.bindings import read_api
from tests.engines.fake_tensorrt import FakeTensorRT, HostDevice

FAMILY = get_family("demo")
RANK = 8
SITES = 7
"""Linears of the checkpoint that carry LoRA."""
NOISE = initial_noise(range(2), FAMILY.latent_shape(64))
SIGMA = torch.full((2,), 0.7)
CONDITIONING = Conditioning(
    tokens=torch.randn(2, 16, 384, generator=torch.Generator().manual_seed(1)),
    pooled=torch.randn(2, 384, generator=torch.Generator().manual_seed(2)),
)
B200 = Gpu("B200", (10, 0), 180 * 10**9, 180 * 10**9)
MODES = list(LoraMode)
FLIPPED_CODES = 0.15
"""ONNX rounds to BF16 elsewhere than torch does (1 % here), and what lies between two FP4 codes then
falls to the other one: in a tiny network of random weights that grows."""


class OneBlock(DemoFamily):
    """A thousand switches are a thousand and more evaluations."""

    transformer_configs = {Size.TINY: TINY | {"num_layers": 1}}  # noqa: RUF012


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of one block, with the magnitudes that W4A4 needs."""
    folder = tmp_path_factory.mktemp("checkpoint")
    OneBlock().write_tiny_checkpoint(folder)
    linears = named_linears(FAMILY.load_transformer(str(folder), torch.bfloat16))
    amax = {name: 8.0 for name, _ in linears}
    (folder / "transformer" / "activation_amax.json").write_text(json.dumps(amax))
    return folder


@pytest.fixture(scope="module")
def built(
    calibrated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[LoraMode], BuiltEngine]:
    """The engine of each mode, built by the real builder with the vendor's stand-in."""
    done: dict[LoraMode, BuiltEngine] = {}
    cache = EngineCache(tmp_path_factory.mktemp("engines"))

    def build(mode: LoraMode) -> BuiltEngine:
        if mode not in done:
            options = ExportOptions(lora=mode, max_rank=RANK)
            decoder = DecoderName.FULL if mode is LoraMode.INPUTS else None
            profiles = (parse_profile("1x64,2x64,4x64"),)
            request = BuildRequest(FAMILY, str(calibrated), options, profiles, decoder=decoder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(builder, "find_gpu", lambda: B200)
                patch.setattr(builder, "load_vendor", lambda _: FakeTensorRT().vendor())
                done[mode] = build_engine(request, cache, lambda *_: None)
        return done[mode]

    return build


def load(folder: Path, library: FakeTensorRT | None = None, slots: int = 8) -> TensorRTEngine:
    library = library or FakeTensorRT()
    return TensorRTEngine(folder, slots=slots, device=HostDevice(library), vendor=library.vendor())


def make_adapter(engine: TensorRTEngine, seed: int = 0, size: float = 0.05) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    rank = 1 + seed % RANK
    targets = engine.describe().lora_targets
    pairs = {
        name: (
            torch.randn(rank, inputs, generator=generator),
            torch.randn(outputs, rank, generator=generator) * size,
        )
        for name, (inputs, outputs) in targets.items()
    }
    return parse_adapter(pack_adapter(pairs, alpha=rank))


def draw(engine: TensorRTEngine | TorchEngine, adapter: Adapter | None = None) -> torch.Tensor:
    return engine.velocity(NOISE, SIGMA, CONDITIONING, adapter and adapter.sha256)


def relative_error(drawn: torch.Tensor, expected: torch.Tensor) -> float:
    return float((drawn - expected).norm() / expected.norm())


@pytest.mark.parametrize("mode", MODES)
def test_it_draws_as_the_torch_engine_does(
    built: Callable[[LoraMode], BuiltEngine], calibrated: Path, mode: LoraMode
) -> None:
    compiled = load(built(mode).folder)
    reference = TorchEngine(FAMILY, str(calibrated), max_rank=RANK)
    adapter = make_adapter(compiled, seed=3)
    assert compiled.describe().lora_targets == reference.describe().lora_targets
    assert compiled.describe().nvfp4_linears == reference.describe().nvfp4_linears
    for engine in (compiled, reference):
        assert engine.make_resident(adapter).bound == SITES
    base, expected_base = draw(compiled).float(), draw(reference).float()
    drawn, expected = draw(compiled, adapter).float(), draw(reference, adapter).float()
    assert relative_error(base, expected_base) < FLIPPED_CODES
    assert relative_error(drawn, expected) < FLIPPED_CODES
    assert relative_error(drawn, expected_base) > 2 * FLIPPED_CODES


def test_bound_and_refitted_adapters_give_the_same_bits(
    built: Callable[[LoraMode], BuiltEngine],
) -> None:
    bound, refitted = (load(built(mode).folder) for mode in (LoraMode.INPUTS, LoraMode.REFIT))
    adapter = make_adapter(bound, seed=3)
    for engine in (bound, refitted):
        engine.make_resident(adapter)
    assert torch.equal(draw(bound, adapter), draw(refitted, adapter))
    assert torch.equal(draw(bound), draw(refitted))


@pytest.mark.parametrize("mode", MODES)
def test_a_then_b_then_a_is_a_to_the_bit(
    built: Callable[[LoraMode], BuiltEngine], mode: LoraMode
) -> None:
    engine = load(built(mode).folder, slots=1)
    first, second = make_adapter(engine, 0), make_adapter(engine, 1)
    base = draw(engine)
    engine.make_resident(first)
    expected = draw(engine, first)
    engine.make_resident(second)
    assert not engine.is_resident(first.sha256)
    assert not torch.equal(draw(engine, second), expected)
    engine.make_resident(first)
    assert torch.equal(draw(engine, first), expected)
    assert torch.equal(draw(engine), base)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "switches"), [(LoraMode.INPUTS, 1000), (LoraMode.REFIT, 1000), (LoraMode.MERGE, 100)]
)
def test_random_switches_leave_no_residue(
    built: Callable[[LoraMode], BuiltEngine], mode: LoraMode, switches: int
) -> None:
    """Adapters of several ranks, more than fit: every sixth switch or so loads one."""
    engine = load(built(mode).folder, slots=5)
    choices: list[Adapter | None] = [None, *(make_adapter(engine, seed) for seed in range(6))]

    def draw_one(adapter: Adapter | None) -> torch.Tensor:
        if adapter is not None:
            engine.make_resident(adapter)
        return engine.velocity(
            NOISE[:1], SIGMA[:1], CONDITIONING.take([0]), adapter and adapter.sha256
        )

    expected = [draw_one(adapter) for adapter in choices]
    assert len({tuple(output.flatten().tolist()) for output in expected}) == len(choices)
    chooser = random.Random(0)
    for _ in range(switches):
        index = chooser.randrange(len(choices))
        assert torch.equal(draw_one(choices[index]), expected[index])


@pytest.mark.parametrize("mode", [LoraMode.REFIT, LoraMode.MERGE])
def test_every_refit_sends_every_name(
    built: Callable[[LoraMode], BuiltEngine], mode: LoraMode
) -> None:
    library = FakeTensorRT()
    folder = built(mode).folder
    engine, manifest = load(folder, library), read_manifest(folder)
    for seed in range(2):
        adapter = make_adapter(engine, seed)
        engine.make_resident(adapter)
        draw(engine, adapter)
        draw(engine)
    assert len(library.refits) == 1 + 2 * 2
    expected = sorted(refittable_names(manifest.graph, manifest.lora_targets))
    assert all(sorted(names) == expected for names in library.refits)


def test_a_failed_refit_takes_the_engine_out_of_service_until_one_succeeds(
    built: Callable[[LoraMode], BuiltEngine],
) -> None:
    library = FakeTensorRT()
    engine = load(built(LoraMode.REFIT).folder, library)
    first, second = make_adapter(engine, 0), make_adapter(engine, 1)
    engine.make_resident(first)
    expected, base = draw(engine, first), draw(engine)
    library.refits_fail = True
    with pytest.raises(EngineFaultError, match="out of service until"):
        engine.make_resident(second)
    assert not engine.is_resident(first.sha256)
    with pytest.raises(EngineFaultError, match="out of service since"):
        draw(engine)
    with pytest.raises(EngineFaultError, match="out of service until"):
        engine.make_resident(first)
    library.refits_fail = False
    engine.make_resident(first)
    assert torch.equal(draw(engine, first), expected)
    assert torch.equal(draw(engine), base)


@pytest.mark.parametrize("failing", ["set_named_weights", "refit_cuda_engine_async"])
def test_a_library_that_raises_leaves_no_adapter_that_seems_to_be_there(
    built: Callable[[LoraMode], BuiltEngine], monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Else publishing it again would find it resident, and heal nothing."""

    def raises(*_: object) -> bool:
        raise RuntimeError("CUDA error")

    engine = load(built(LoraMode.REFIT).folder)
    first, second = make_adapter(engine, 0), make_adapter(engine, 1)
    engine.make_resident(first)
    expected = draw(engine, first)
    with monkeypatch.context() as patch:
        patch.setattr(fake_tensorrt.Refitter, failing, raises)
        with pytest.raises(RuntimeError, match="CUDA error"):
            engine.make_resident(second)
    assert not engine.is_resident(first.sha256)
    with pytest.raises(EngineFaultError, match="out of service"):
        draw(engine)
    engine.make_resident(first)
    assert torch.equal(draw(engine, first), expected)


def test_graphs_are_kept_by_slot_and_shape(built: Callable[[LoraMode], BuiltEngine]) -> None:
    library = FakeTensorRT()
    engine = load(built(LoraMode.INPUTS).folder, library, slots=2)
    before = library.captures
    first = make_adapter(engine, 0)
    engine.make_resident(first)
    for _ in range(3):
        draw(engine)
        draw(engine, first)
    assert library.captures == before + 2  # Two slots; the probe's shape was met only once.
    with pytest.raises(
        EngineFaultError, match=r"takes latents of \(1, 16, 8, 8\) to \(4, 16, 8, 8\)"
    ):
        engine.velocity(NOISE.repeat(4, 1, 1, 1), SIGMA.repeat(4), CONDITIONING.repeat(4))


def test_refused_adapters_leave_the_engine_as_it_was(
    built: Callable[[LoraMode], BuiltEngine],
) -> None:
    engine = load(built(LoraMode.INPUTS).folder)
    before = draw(engine)
    whole = make_adapter(engine)
    refusals = {
        f"bound 2 of {SITES}": Adapter("partial", dict(list(whole.pairs.items())[:2])),
        "stays the base": make_adapter(engine, size=1e-30),
    }
    for message, adapter in refusals.items():
        with pytest.raises(AdapterError, match=message):
            engine.make_resident(adapter)
        assert not engine.is_resident(adapter.sha256)
    assert torch.equal(draw(engine), before)
    with pytest.raises(KeyError):
        draw(engine, whole)


def test_the_least_recently_used_adapter_leaves_and_its_slot_is_used_again(
    built: Callable[[LoraMode], BuiltEngine],
) -> None:
    engine = load(built(LoraMode.INPUTS).folder, slots=2)
    first, second, third = (make_adapter(engine, seed) for seed in range(3))
    engine.make_resident(first)
    expected = draw(engine, first)
    engine.make_resident(second)
    draw(engine, first)
    engine.make_resident(third)
    assert engine.is_resident(first.sha256)
    assert not engine.is_resident(second.sha256)
    assert torch.equal(draw(engine, first), expected)


def test_the_decoder_decodes_as_the_familys_own_does(
    built: Callable[[LoraMode], BuiltEngine], calibrated: Path
) -> None:
    library = FakeTensorRT()
    decoder = TensorRTDecoder(
        built(LoraMode.INPUTS).folder, device=HostDevice(library), vendor=library.vendor()
    )
    latents = initial_noise(range(6), FAMILY.latent_shape(64))
    expected = FAMILY.load_decoder(str(calibrated)).decode(latents)
    torch.testing.assert_close(decoder.decode(latents), expected, atol=1e-4, rtol=0)


def test_folders_that_do_not_fit_say_so(
    built: Callable[[LoraMode], BuiltEngine], tmp_path: Path
) -> None:
    folder = built(LoraMode.REFIT).folder
    with pytest.raises(EngineFolderError, match=r"no readable engine.json"):
        load(tmp_path)
    with pytest.raises(EngineFolderError, match="no compiled decoder"):
        TensorRTDecoder(folder)
    library = FakeTensorRT()
    library.__version__ = "11.5.0.1"
    with pytest.raises(EngineFolderError, match=r"11.4.0.106, installed is 11.5.0.1"):
        load(folder, library)
    manifest = read_manifest(folder)
    manifest.write(tmp_path)
    with pytest.raises(EngineFolderError, match="cannot be read"):
        load(tmp_path)
    plan = b"not a plan"
    (tmp_path / TRANSFORMER_PLAN).write_bytes(plan)
    with pytest.raises(EngineFolderError, match=r"not the plan that its engine\.json describes"):
        load(tmp_path)
    digest = hashlib.sha256(plan).hexdigest()
    manifest.model_copy(update={"plan_sha256": digest}).write(tmp_path)
    with pytest.raises(EngineFolderError, match="cannot load the plan"):
        load(tmp_path)


def test_an_engine_of_before_each_matrix_had_an_input_is_refused(
    built: Callable[[LoraMode], BuiltEngine], tmp_path: Path
) -> None:
    manifest = json.loads(read_manifest(built(LoraMode.INPUTS).folder).model_dump_json())
    for row, site in enumerate(manifest["graph"]["lora"]):
        site["row"] = row
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(EngineFolderError, match="another version of heliostat: build the engine"):
        load(tmp_path)


def test_a_plan_with_other_weights_than_its_manifest_is_refused(
    built: Callable[[LoraMode], BuiltEngine], tmp_path: Path
) -> None:
    folder = built(LoraMode.REFIT).folder
    manifest = read_manifest(folder)
    graph = manifest.graph.model_copy(update={"lora": manifest.graph.lora[1:]})
    manifest.model_copy(update={"graph": graph}).write(tmp_path)
    (tmp_path / TRANSFORMER_PLAN).write_bytes((folder / TRANSFORMER_PLAN).read_bytes())
    with pytest.raises(EngineFolderError, match="can refit 14 weights and its manifest names 12"):
        load(tmp_path)


def test_the_fake_has_the_real_signatures() -> None:
    """Else a test that passes on it would say nothing of the real library."""
    api = read_api("tensorrt_bindings")
    checked = 0
    for name, thing in vars(fake_tensorrt).items():
        if not inspect.isclass(thing) or name.rstrip("_") not in api.members:
            continue
        real = api.members[name.rstrip("_")]
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            if method.startswith("_"):
                continue
            assert method in real, f"{name}.{method}"
            ours = list(inspect.signature(function).parameters)[1:]
            theirs = [[p.name for p in s.parameters] for s in real[method].signatures]
            assert any(ours == names[: len(ours)] for names in theirs), (name, method, theirs)
            checked += 1
    assert checked > 25


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_on_a_gpu_the_real_library_draws_as_torch_does(
    calibrated: Path, tmp_path: Path, mode: LoraMode
) -> None:
    options = ExportOptions(lora=mode, max_rank=RANK)
    request = BuildRequest(FAMILY, str(calibrated), options, (parse_profile("1x64,2x64,4x64"),))
    engine = TensorRTEngine(
        build_engine(request, EngineCache(tmp_path), lambda *_: None).folder, slots=1
    )
    reference = TorchEngine(FAMILY, str(calibrated), max_rank=RANK)
    first, second = make_adapter(engine, 0), make_adapter(engine, 1)
    engine.make_resident(first)
    expected = draw(engine, first)
    engine.make_resident(second)
    engine.make_resident(first)
    assert torch.equal(draw(engine, first), expected)
    reference.make_resident(first)
    difference = (expected.float() - draw(reference, first).float()).norm()
    assert difference / expected.float().norm() < (0.25 if mode is LoraMode.MERGE else 0.05)
