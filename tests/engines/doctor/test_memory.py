"""What a server is told to hold, beside what real tensors come to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import profile

from heliostat_engines.doctor.memory import (
    Serving,
    adapter_bytes,
    module_bytes,
    server_memory,
    zero_adapter,
)
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.without_checkpoint import without_checkpoint
from heliostat_engines.machine import arithmetic
from heliostat_engines.machine.counting import peak_bytes
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine

NAMES = ["flux", "sd3.5-large", "sana"]
GB = 10**9


def allocated(run: Callable[[], object]) -> int:
    """The most that torch's own allocator had given out at once, in bytes."""
    with profile(profile_memory=True, acc_events=True) as profiled:
        result = run()
    del result
    recorded = profiled.profiler.kineto_results.events()
    changes = [event for event in recorded if event.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


@pytest.fixture
def _in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "cpu_dtype", lambda: torch.bfloat16)


@pytest.mark.slow
@pytest.mark.usefixtures("_in_bf16")
@pytest.mark.parametrize("precision", [Precision.NVFP4, Precision.BF16])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_is_what_a_server_takes(name: str, precision: Precision) -> None:
    family = get_family(name)
    resolution_px, batch, rank = family.resolutions.smallest_px, 4, 8
    serving = Serving(
        precision=precision,
        emulated=True,
        max_rank=rank,
        slots=2,
        batch=batch,
        resolution_px=resolution_px,
        size=Size.TINY,
    )
    told = server_memory(family, serving)
    built = without_checkpoint(family, Size.TINY, "cpu")
    engine = TorchEngine(built, precision=precision, max_rank=rank, slots=2)
    adapter = zero_adapter(engine.describe().lora_targets, rank)
    engine.make_resident(adapter)
    transformer = built.load_transformer("none", torch.bfloat16)
    latents = torch.zeros(batch, *family.latent_shape(resolution_px))
    row = family.probe_conditioning(transformer, family.text_tokens)
    batches = [row.repeat(batch) for _ in range(2)]
    sigma = torch.ones(batch)

    def explore() -> None:
        for rows in batches:
            engine.velocity(latents, sigma, rows, adapter.sha256)

    explored = allocated(explore)
    decoder = built.load_decoder("none")
    # The allocator also sees what oneDNN's convolutions need for themselves on this CPU.
    decoded = peak_bytes(lambda: decoder.decode(latents[:1]))
    assert told.transformer == pytest.approx(module_bytes(transformer), rel=0.01)
    assert told.slots == 2 * engine.describe().resident_bytes
    assert told.exploring == pytest.approx(explored, rel=0.1)
    assert told.decoder == module_bytes(decoder.module)
    assert told.decoding == pytest.approx(decoded, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text_encoders", "decoder"),
    [("flux", 9.77 * GB, 0.168 * GB), ("sd3.5-large", 11.16 * GB, 0.168 * GB)],
)
def test_parts_of_published_size(name: str, text_encoders: float, decoder: float) -> None:
    """The parameter counts are published: T5-XXL's encoder 4.762 B, CLIP-L 0.123 B, bigG 0.695 B."""
    family = get_family(name)
    encoders = sum(map(module_bytes, family.build_text_encoders(Size.PUBLISHED)))
    assert encoders == pytest.approx(text_encoders, rel=0.01)
    assert module_bytes(family.build_decoder(Size.PUBLISHED).module) == pytest.approx(
        decoder, rel=0.01
    )


def test_quantised_weights_take_less_but_where_they_are_emulated() -> None:
    family = get_family("sana")
    compiled, emulated, bf16 = (
        server_memory(family, Serving(precision, emulated=emulated, size=Size.TINY))
        for precision, emulated in (
            (Precision.NVFP4, False),
            (Precision.NVFP4, True),
            (Precision.BF16, False),
        )
    )
    assert compiled.transformer < emulated.transformer == bf16.transformer == emulated.loading
    assert compiled.exploring == bf16.exploring < emulated.exploring
    assert compiled.text_encoders == bf16.text_encoders > 0


def test_the_sum_counts_loading_where_it_takes_more() -> None:
    family = get_family("demo")
    memory = server_memory(family, Serving(batch=1), rewards=5)
    beside = memory.decoder + memory.decoding + 5
    assert memory.text_encoders == 0
    assert memory.total == beside + max(
        memory.loading, memory.transformer + memory.slots + memory.exploring
    )


def test_an_adapter_by_hand() -> None:
    assert adapter_bytes({"one": (16, 32), "two": (8, 8)}, 4) == 2 * 4 * (16 + 32 + 8 + 8)
