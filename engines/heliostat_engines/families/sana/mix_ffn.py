"""SANA's Mix-FFN with its 1x1 convolutions as linears."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class LinearMixFfn(nn.Module):
    """diffusers' GLUMBConv in another form: x[B, C, H, W] -> y[B, C, H, W].

    A 1x1 convolution is a linear over channels. As nn.Linear it is quantised like any other.
    Children keep their names; weights[out, in, 1, 1] become weights[out, in].
    """

    def __init__(self, convolutional: Any) -> None:
        """Takes over the weights of a GLUMBConv without norm and residual, as SANA's are."""
        super().__init__()
        assert convolutional.norm is None, "SANA's Mix-FFN has no norm of its own"
        assert not convolutional.residual_connection, "SANA adds the residual outside"
        self.conv_inverted = _as_linear(convolutional.conv_inverted)
        self.conv_depth = convolutional.conv_depth
        self.conv_point = _as_linear(convolutional.conv_point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expand, mix 3x3 neighbours, gate, contract."""
        expanded = nn.functional.silu(self.conv_inverted(x.movedim(1, -1)))
        mixed, gate = self.conv_depth(expanded.movedim(-1, 1)).chunk(2, dim=1)
        gated = mixed * nn.functional.silu(gate)
        contracted: torch.Tensor = self.conv_point(gated.movedim(1, -1))
        return contracted.movedim(-1, 1)


def linearise(transformer: nn.Module) -> nn.Module:
    """Put LinearMixFfn in the place of every block's `ff`; the output stays the same."""
    blocks: Any = transformer.transformer_blocks
    for block in blocks:
        block.ff = LinearMixFfn(block.ff).train(block.ff.training)
    return transformer


def _as_linear(convolution: nn.Conv2d) -> nn.Linear:
    bias = convolution.bias
    linear = nn.Linear(
        convolution.in_channels, convolution.out_channels, bias=bias is not None, device="meta"
    )
    weight = convolution.weight
    linear.weight = nn.Parameter(weight.detach().flatten(1), weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), bias.requires_grad)
    return linear
