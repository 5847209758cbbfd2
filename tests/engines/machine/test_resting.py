"""A process gives the memory of its weights back, measured by the system, and has them again to the bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from heliostat_engines.machine.resting import HostMemory, Resting, tensors_in

MEGABYTE = 2**20


class Holder:
    """As rewards and decoders are: no module itself, weights deep inside."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.parts = {"tower": [nn.Linear(2048, 2048)], "head": (nn.Linear(8, 8, bias=False),)}
        self.scale = torch.ones(3)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.parts["tower"][0](rows)


def test_memory_that_a_process_gives_back_is_gone_from_it_and_its_weights_come_back_to_the_bit() -> (
    None
):
    holder, rows = Holder(), torch.ones(2, 2048)
    expected = holder(rows)
    resting, memory = Resting("cpu", holder), HostMemory()
    memory.release()
    awake = memory.held()

    given = resting.sleep()

    assert resting.is_asleep
    assert given.memory_bytes > 15 * MEGABYTE
    assert awake - memory.held() > 15 * MEGABYTE
    resting.wake()
    assert torch.equal(holder(rows), expected)
    assert not resting.is_asleep


def test_nothing_is_computed_with_weights_that_are_away() -> None:
    holder = Holder()
    Resting("cpu", holder).sleep()
    with pytest.raises(RuntimeError):
        holder(torch.ones(2, 2048))


def test_tied_weights_are_parked_once_and_stay_tied() -> None:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    slice_of_it = first.weight.detach()[3:5]
    resting = Resting("cpu", first, second, [slice_of_it])

    resting.sleep()
    resting.wake()

    assert second.weight is first.weight
    with torch.no_grad():
        first.weight[3] = 7.0
    assert slice_of_it[0].eq(7).all()


def test_an_optimiser_goes_on_as_if_it_had_not_slept() -> None:
    def trained(*, sleeps: bool) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(16, 16)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
        resting = Resting("cpu", layer, optimiser)
        for step in range(3):
            layer(torch.full((1, 16), step + 1.0)).square().sum().backward()
            optimiser.step()
            if sleeps:
                resting.sleep()
                resting.wake()
        return layer.weight.detach()

    assert torch.equal(trained(sleeps=True), trained(sleeps=False))


def test_what_was_made_without_gradients_sleeps_too() -> None:
    with torch.inference_mode():
        made = torch.arange(1000.0)
    resting = Resting("cpu", {"kept": made})
    resting.sleep()
    assert not made.numel()
    resting.wake()
    assert torch.equal(made, torch.arange(1000.0))


def test_sleeping_and_waking_twice_is_as_once() -> None:
    holder = Holder()
    before = holder.scale.clone()
    resting = Resting("cpu", holder)
    resting.wake()
    resting.sleep()
    assert not resting.sleep().memory_bytes
    resting.wake()
    resting.wake()
    assert torch.equal(holder.scale, before)


def test_tensors_are_found_wherever_they_are_held() -> None:
    @dataclass(frozen=True, slots=True)
    class Slotted:
        pair: tuple[torch.Tensor, ...]

    one, two, gradient = torch.ones(1), torch.ones(2), torch.ones(1)
    one.grad = gradient
    loop: dict[object, object] = {"slotted": Slotted((one,)), two: "a key"}
    loop["itself"] = loop
    assert {id(each) for each in tensors_in([loop])} == {id(one), id(two), id(gradient)}


@pytest.mark.gpu
def test_a_card_has_its_memory_back() -> None:
    holder = Holder()
    for part in (*holder.parts["tower"], *holder.parts["head"]):
        part.cuda()
    rows = torch.ones(2, 2048, device="cuda")
    expected = holder(rows)
    resting = Resting("cuda", holder)
    free, _ = torch.cuda.mem_get_info()

    given = resting.sleep()

    assert torch.cuda.mem_get_info()[0] - free > 15 * MEGABYTE
    assert given.memory_bytes > 15 * MEGABYTE
    resting.wake()
    assert torch.equal(holder(rows), expected)
