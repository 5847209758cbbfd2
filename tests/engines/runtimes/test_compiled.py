from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from heliostat_engines.adapters import Adapter, pack_adapter, parse_adapter
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import AdapterError, HardwareError
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Family
from heliostat_engines.plans.profiles import Point
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes import compiled
from heliostat_engines.runtimes.compiled import CompiledTorchEngine, Recorded
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.torch_compile import CACHE_VARIABLE
from tests.compiler import needs_compiler

BATCH = 3
KINDS = {"demo": 2, "sana": 2, "flux": 3, "sd3.5-medium": 3}
"""Of each structure's blocks, each a graph: double and single ones, those that attend twice, the last; SANA's
first and FLUX's first single one, whose input lies otherwise in memory."""
TOLERANCE = 0.03
"""Relative, in the Euclidean norm: the order of sums differs, and four bits turn a last bit into a step."""


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that an earlier test has compiled, and code where a user's own is not."""
    torch._dynamo.reset()
    counters.clear()
    folder = os.environ.get(CACHE_VARIABLE, str(tmp_path_factory.getbasetemp() / "compiled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, folder)
        yield


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """While images are drawn, what is not compiled is an error."""
    monkeypatch.setattr(compiled, "SERVING", "fail_on_recompile")


def latents(family: Family, rows: int, px: int, seed: int = 0) -> torch.Tensor:
    return initial_noise(range(seed, seed + rows), family.latent_shape(px))


def embeddings(engine: TorchEngine, family: Family, rows: int, seed: int = 1) -> Conditioning:
    probe = family.probe_conditioning(engine._transformer, family.text_tokens).repeat(rows)
    random = torch.Generator().manual_seed(seed)
    return Conditioning(
        torch.randn(probe.tokens.shape, generator=random),
        torch.randn(probe.pooled.shape, generator=random),
        probe.mask,
    )


def adapter_of(engine: TorchEngine, seed: int = 0, rank: int = 4, size: float = 0.05) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    pairs = {
        name: (
            torch.randn(rank, width_in, generator=random) / width_in**0.5,
            torch.randn(width_out, rank, generator=random) * size,
        )
        for name, (width_in, width_out) in engine.describe().lora_targets.items()
    }
    return parse_adapter(pack_adapter(pairs, alpha=rank))


def error(drawn: torch.Tensor, expected: torch.Tensor) -> float:
    return float((drawn - expected).float().norm() / expected.float().norm())


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


CASES = [
    ("demo", Precision.NVFP4_W4A16),
    ("sana", Precision.NVFP4),
    ("flux", Precision.FP8),
    ("sd3.5-medium", Precision.BF16),
]
"""Every precision and every kind of block once: compiling all of them with all takes minutes."""


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_it_draws_as_torch_does_and_compiles_once_a_kind_of_block(
    tiny_checkpoint: Callable[[str], Path], name: str, precision: Precision
) -> None:
    """Whatever adapter, noise level, prompt and number of rows come: nothing is compiled after the start."""
    family = get_family(name)
    px = family.resolutions.smallest_px
    checkpoint = str(tiny_checkpoint(name))
    eager = TorchEngine(family, checkpoint, precision=precision, max_rank=8)
    engine = CompiledTorchEngine(family, checkpoint, precision=precision, max_rank=8)
    told: list[tuple[int, int]] = []
    engine.compile([Point(batch=BATCH, resolution_px=px)], lambda _, *count: told.append(count))
    assert told == [(0, 1), (1, 1)]
    assert graphs() == KINDS[name]
    assert not counters["graph_break"]
    adapters = [adapter_of(engine, 0, rank=4), adapter_of(engine, 1, rank=8)]
    for each in adapters:
        eager.make_resident(each)
        engine.make_resident(each)
    denoising = ThreadPoolExecutor(1)
    for rows, sigma, adapter in [
        (BATCH, 0.9, None),
        (BATCH, 0.5, adapters[0]),
        (BATCH, 0.5, adapters[1]),
        (1, 0.2, adapters[0]),
        (BATCH, 0.9, None),
    ]:
        given = (
            latents(family, rows, px),
            torch.full((rows,), sigma),
            embeddings(engine, family, rows),
            adapter and adapter.sha256,
        )
        # In another thread than compiled, as a server's batches are.
        drawn = denoising.submit(engine.velocity, *given).result()
        assert error(drawn, eager.velocity(*given)) < TOLERANCE
    assert graphs() == KINDS[name]


@pytest.fixture
def engine(random_checkpoint: Path) -> CompiledTorchEngine:
    """Of the demo's tiny model, for batches of 2 and 3."""
    made = CompiledTorchEngine(get_family("demo"), str(random_checkpoint), max_rank=8, slots=2)
    made.compile([Point(batch=batch, resolution_px=64) for batch in (3, 2)])
    return made


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("strict")
def test_adapters_and_padding_leave_nothing_behind(engine: CompiledTorchEngine) -> None:
    family = get_family("demo")
    noise, sigma = latents(family, 3, 64), torch.full((3,), 0.7)
    conditioning = embeddings(engine, family, 3)
    wide, narrow = adapter_of(engine, 0, rank=8), adapter_of(engine, 1, rank=1)
    zero = adapter_of(engine, 2, size=0.0)

    def draw(adapter: Adapter | None, rows: int = 3) -> torch.Tensor:
        if adapter is not None:
            engine.make_resident(adapter)
        return engine.velocity(
            noise[:rows],
            sigma[:rows],
            conditioning.take(range(rows)),
            adapter and adapter.sha256,
        )

    base, first = draw(None), draw(wide)
    assert not torch.equal(first, base)
    second = draw(narrow)
    with pytest.raises(AdapterError, match="stays the base"):
        engine.make_resident(adapter_of(engine, 3, size=1e-30))
    assert torch.equal(draw(wide), first)
    assert torch.equal(draw(narrow), second)
    assert torch.equal(draw(zero), base)
    assert torch.equal(draw(None), base)
    # One row is filled up to two; so is the same row by hand.
    alone = draw(wide, rows=1)
    twice = engine.velocity(noise[[0, 0]], sigma[:2], conditioning.take([0, 0]), wide.sha256)
    assert torch.equal(alone, twice[:1])
    assert len(alone) == 1


@pytest.mark.slow
@needs_compiler
def test_other_shapes_are_drawn_without_being_compiled(
    engine: CompiledTorchEngine, random_checkpoint: Path
) -> None:
    family = get_family("demo")
    before = graphs()
    eager = TorchEngine(family, str(random_checkpoint), max_rank=8)
    given = latents(family, 4, 64), torch.full((4,), 0.7), embeddings(engine, family, 4)
    assert torch.equal(engine.velocity(*given), eager.velocity(*given))
    assert graphs() == before


def test_it_says_what_it_is(random_checkpoint: Path) -> None:
    engine = CompiledTorchEngine(get_family("demo"), str(random_checkpoint))
    assert engine.describe().runtime == "torch-compile"


def test_without_a_compiler_it_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, random_checkpoint: Path
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    engine = CompiledTorchEngine(get_family("demo"), str(random_checkpoint))
    with pytest.raises(HardwareError, match=r"runtime = torch-compile: .*CXX names /nowhere/g\+\+"):
        engine.compile([])


def test_a_recorded_evaluation_is_that_of_what_is_given() -> None:
    """With a stand-in for the device's recording: what it does again reads and writes the same memory."""

    def evaluate(x: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        assert conditioning.mask is not None
        scale = conditioning.tokens.sum((1, 2)) + conditioning.pooled.sum(1) * 10
        return x * sigma[:, None] + (scale + conditioning.mask.sum(1) * 100)[:, None]

    def capture(
        record: Callable[[], torch.Tensor],
    ) -> tuple[torch.Tensor, Callable[[], None]]:
        output = record()

        def again() -> None:
            output.copy_(record())

        return output, again

    def inputs(value: float) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
        conditioning = Conditioning(
            torch.full((2, 3, 4), value), torch.full((2, 5), value), torch.full((2, 3), int(value))
        )
        return torch.full((2, 6), value), torch.full((2,), value), conditioning

    recorded = Recorded(evaluate, *inputs(1.0), capture)
    first, second = recorded(*inputs(2.0)), recorded(*inputs(3.0))
    assert torch.equal(first, evaluate(*inputs(2.0)))
    assert torch.equal(second, evaluate(*inputs(3.0)))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", list(Precision))
def test_a_gpu_replays_what_it_recorded(random_checkpoint: Path, precision: Precision) -> None:
    family = get_family("demo")
    engine = CompiledTorchEngine(
        family, str(random_checkpoint), precision=precision, max_rank=8, device="cuda"
    )
    engine.compile([Point(batch=BATCH, resolution_px=64)])
    assert len(engine._recorded) == 1
    eager = TorchEngine(
        family, str(random_checkpoint), precision=precision, max_rank=8, device="cuda"
    )
    for adapter in (None, adapter_of(engine, 0), adapter_of(engine, 1)):
        if adapter is not None:
            engine.make_resident(adapter)
            eager.make_resident(adapter)
        given = (
            latents(family, BATCH, 64),
            torch.full((BATCH,), 0.7),
            embeddings(engine, family, BATCH),
            adapter and adapter.sha256,
        )
        assert error(engine.velocity(*given), eager.velocity(*given)) < TOLERANCE
