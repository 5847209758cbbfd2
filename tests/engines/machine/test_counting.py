from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from heliostat_engines.machine.counting import FusedKernels, peak_bytes

WEIGHT = torch.ones(64, 64)


def chained() -> torch.Tensor:
    """By hand: two float32[64, 64] at once, in the middle; views and the weight count nothing."""
    rows = torch.ones(64, 64)
    for _ in range(4):
        rows = (rows @ WEIGHT.T).view(64, 64)
    return rows


def test_what_is_freed_is_not_counted_twice() -> None:
    assert peak_bytes(chained) == 2 * 64 * 64 * 4


def test_it_is_the_same_on_paper() -> None:
    def on_paper() -> torch.Tensor:
        rows = torch.ones(64, 64, device="meta")
        return (rows + rows).t() @ rows

    assert peak_bytes(on_paper) == 3 * 64 * 64 * 4


def test_what_was_there_before_and_changed_in_place_is_not_counted() -> None:
    held = torch.ones(8)
    assert peak_bytes(lambda: held.add_(1)) == 0


def attend(rows: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(rows.shape[-2], rows.shape[-2], dtype=torch.bool).tril()
    return scaled_dot_product_attention(query=rows, key=rows * 2, value=rows + 1, attn_mask=mask)


def normalise(rows: torch.Tensor) -> torch.Tensor:
    return rms_norm(rows, (rows.shape[-1],), torch.full(rows.shape[-1:], 3.0), 1e-6)


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("function", [attend, normalise])
def test_fused_kernels_give_the_values_and_gradients_of_those_they_stand_for(
    function: Callable[[torch.Tensor], torch.Tensor], is_checkpointed: bool
) -> None:
    rows = torch.randn(2, 3, 5, 8, requires_grad=True)

    def evaluate() -> tuple[torch.Tensor, torch.Tensor | None]:
        rows.grad = None
        if is_checkpointed:
            output = checkpoint(function, rows, use_reentrant=False)
        else:
            output = function(rows)
        output.square().sum().backward()
        return output.detach(), rows.grad

    plain = evaluate()
    with FusedKernels():
        fused = evaluate()
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_keeps_no_scores_and_a_norm_no_float32(device: str) -> None:
    """By hand: the output in BF16 and a float32 a row, where scores alone would be 2 * 64 * 64 numbers."""
    rows = torch.ones(2, 64, 8, dtype=torch.bfloat16, device=device)
    weight = torch.ones(8, dtype=torch.bfloat16, device=device)
    output = 2 * 64 * 8 * 2 + 2 * 64 * 4
    assert peak_bytes(lambda: scaled_dot_product_attention(rows, rows, rows)) == output
    assert peak_bytes(lambda: rms_norm(rows, (8,), weight)) == output


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_gradients_on_their_way_back_are_counted(device: str) -> None:
    """By hand, in float32[64, 64]s: forwards x and exp(x), and on the way back exp(x), its gradient and x's."""
    start = torch.zeros(64, 64, device=device, requires_grad=True)

    def forwards() -> torch.Tensor:
        return start.exp().sum()

    size = 64 * 64 * 4
    assert size < peak_bytes(forwards) < 2 * size
    assert 2 * size <= peak_bytes(lambda: forwards().backward()) < 3 * size
