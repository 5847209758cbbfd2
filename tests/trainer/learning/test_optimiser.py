"""AdamW with moments in 32 and in 8 bits: updates, and state that is restored to the bit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load, save

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.learning.optimiser import build_optimiser, restore_state, state_tensors
from heliostat_trainer.settings.compare import completed, flatten
from heliostat_trainer.settings.learning import OptimiserName, OptimiserSection

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig

SHAPES = ((32, 256), (4, 16))
"""One that is quantised, and one below the 4,096 elements from which on that pays."""


def parameters() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=random).requires_grad_() for shape in SHAPES]


def step(optimiser: torch.optim.Optimizer, tensors: list[torch.Tensor], number: int) -> None:
    random = torch.Generator().manual_seed(number)
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=random)
    optimiser.step()


def settings(name: str) -> OptimiserSection:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    return OptimiserSection(name=OptimiserName(name), lr=1e-2)


@pytest.mark.parametrize("name", list(OptimiserName))
def test_a_restored_optimiser_goes_on_to_the_bit(name: str) -> None:
    whole = parameters()
    optimiser = build_optimiser(settings(name), whole)
    for number in (1, 2):
        step(optimiser, whole, number)
    kept = [load(save(state_tensors(optimiser, tensor))) for tensor in whole]
    halves = [tensor.detach().clone().requires_grad_() for tensor in whole]
    resumed = build_optimiser(settings(name), halves)
    for tensor, state in zip(halves, kept, strict=True):
        restore_state(resumed, tensor, state)
    for number in (3, 4):
        step(optimiser, whole, number)
        step(resumed, halves, number)
    assert all(torch.equal(*pair) for pair in zip(whole, halves, strict=True))


def test_eight_bits_are_a_quarter_and_move_weights_alike() -> None:
    moved, kept = {}, {}
    for name in OptimiserName:
        tensors = parameters()
        optimiser = build_optimiser(settings(name), tensors)
        for number in range(1, 6):
            step(optimiser, tensors, number)
        moved[name] = tensors[0].detach() - parameters()[0].detach()
        state = state_tensors(optimiser, tensors[0])
        tables = ("qmap1", "qmap2", "step")
        kept[name] = sum(v.nbytes for key, v in state.items() if key not in tables)
    exact, coarse = moved[OptimiserName.ADAMW], moved[OptimiserName.ADAMW_8BIT]
    assert torch.nn.functional.cosine_similarity(exact.view(-1), coarse.view(-1), dim=0) > 0.99
    assert kept[OptimiserName.ADAMW_8BIT] < 0.27 * kept[OptimiserName.ADAMW]


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    section = OptimiserSection(name=OptimiserName.ADAMW_8BIT)
    with pytest.raises(ConfigError, match=r"pip install 'heliostat\[adamw-8bit\]'"):
        build_optimiser(section, parameters())


def test_settings_of_before_a_key_existed_take_its_default(
    configure: Callable[..., TrainConfig],
) -> None:
    now = flatten(configure())
    before = {key: value for key, value in now.items() if key != "optimiser.name"}
    assert completed(before) == now
    unknown = now | {"model.forgotten": 1}
    assert completed(unknown) == unknown
