"""The names that a model's own code gives its linears, where diffusers has renamed or split them.

ComfyUI and kohya's sd-scripts load models in this layout, and name a LoRA's tensors after it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OriginalLinear:
    """One linear of the original layout: the rows of diffusers' `parts`, one below the other.

    `{}` in the names stands for a block's number.
    """

    name: str
    parts: tuple[str, ...]
    rows_below: int = 0
    """Rows below those of the parts which no LoRA changes, in multiples of the input's width."""
