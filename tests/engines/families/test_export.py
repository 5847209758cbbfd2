"""torch.export traces every family's velocity with dynamic batch and latent size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.export import Dim

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families import FAMILIES, get_family
from heliostat_engines.families.family import Family, Size


class Velocity(nn.Module):
    """A family's velocity as a module of tensors."""

    def __init__(self, family: Family, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self._family = family

    def forward(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        conditioning = Conditioning(tokens, pooled, mask)
        return self._family.velocity(self.transformer, latents, sigma, conditioning)


def inputs(
    family: Family, transformer: nn.Module, batch: int, size: tuple[int, int], tokens: int
) -> tuple[torch.Tensor | None, ...]:
    random = torch.Generator().manual_seed(batch)
    channels = family.latent_shape(family.resolutions.smallest_px)[0]
    row = family.probe_conditioning(transformer)
    conditioning = replace(
        row,
        tokens=torch.randn(batch, tokens, row.tokens.shape[-1], generator=random),
        pooled=torch.randn(batch, row.pooled.shape[-1], generator=random),
    )
    mask = None
    if row.mask is not None:
        mask = (torch.arange(tokens) < tokens - 2).long().expand(batch, -1).contiguous()
    latents = torch.randn(batch, channels, *size, generator=random)
    sigma = torch.rand(batch, generator=random)
    return latents, sigma, conditioning.tokens, conditioning.pooled, mask


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_one_graph_for_every_batch_and_latent_size(name: str) -> None:
    family = get_family(name)
    transformer = family.build_transformer(Size.TINY, device="cpu", dtype=torch.float32)
    wrapper = Velocity(family, transformer).eval()
    batch = Dim("batch", min=1, max=64)
    # In units of what a patch covers, so that every size the graph accepts is a whole one.
    fixed = family.resolutions.smallest_px == family.resolutions.largest_px
    height, width = Dim("height", min=2, max=32), Dim("width", min=2, max=32)
    latents = {0: batch} if fixed else {0: batch, 2: 2 * height, 3: 2 * width}
    first, other = ((8, 8), (8, 8)) if fixed else ((16, 24), (32, 12))
    example = inputs(family, transformer, 2, first, 7)
    shapes = (
        latents,
        {0: batch},
        {0: batch},
        {0: batch},
        {0: batch} if example[4] is not None else None,
    )
    with torch.inference_mode():
        graph = torch.export.export(wrapper, example, dynamic_shapes=shapes, strict=False).module()
        for arguments in (example, inputs(family, transformer, 3, other, 7)):
            torch.testing.assert_close(graph(*arguments), wrapper(*arguments), rtol=1e-4, atol=1e-4)
