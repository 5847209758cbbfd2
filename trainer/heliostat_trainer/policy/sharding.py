"""A frozen transformer spread over ranks: each holds a part of every block, and borrows the rest.

Before a block is evaluated, its ranks gather it whole; afterwards they let go of what is not
theirs (PyTorch's fully_shard). Memory of weights is divided by the ranks; each evaluation needs all
of them. The LoRA stays whole on every rank: it is small, and its gradients are summed anyway.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh


def shard(
    transformer: nn.Module, blocks: Iterable[nn.Module], whole: set[nn.Parameter], mesh: DeviceMesh
) -> None:
    """Spread all parameters but those that stay `whole`, a block at a time, on the mesh's devices.

    The transformer may still be on the host: no device ever holds more than one block of it whole.
    """
    # Its velocity may be a view, which nobody changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    fully_shard(transformer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
