"""An adapter as the tensors that a graph takes: what a runtime binds or refits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.adapters import check_binding
from heliostat_engines.errors import AdapterError
from heliostat_engines.plans.graph_manifest import LoraMode, lora_shapes

if TYPE_CHECKING:
    from heliostat_engines.adapters import Adapter
    from heliostat_engines.plans.graph_manifest import GraphManifest


def adapter_tensors(manifest: GraphManifest, adapter: Adapter | None) -> dict[str, torch.Tensor]:
    """BF16 tensors by graph tensor name, padded with zeros to the graph's rank.

    Every LoRA tensor of the graph is there, whatever the adapter: none keeps an earlier one's
    values. None is the base model, all zeros.

    Raises:
        AdapterError: the adapter does not bind every site, or the graph has no branches.
    """
    if manifest.options.lora is LoraMode.MERGE:
        raise AdapterError(
            "this graph has its adapter merged in: export it again with --lora inputs or refit to "
            "take others"
        )
    if adapter is not None:
        check_binding(adapter, manifest.lora_targets, manifest.options.max_rank)
    rank = manifest.options.max_rank
    tensors = {
        name: torch.zeros(shape, dtype=torch.bfloat16)
        for name, shape in lora_shapes(manifest.lora, rank).items()
    }
    if adapter is not None:
        for site in manifest.lora:
            pair = adapter.pairs[site.module]
            tensors[site.down][: pair.rank] = pair.down
            tensors[site.up][:, : pair.rank] = pair.up
    return tensors
