"""An adapter as the tensors that a graph takes: what a runtime binds or refits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.adapters import check_binding
from heliostat_engines.errors import AdapterError
from heliostat_engines.plans.graph_manifest import LoraMode

if TYPE_CHECKING:
    from heliostat_engines.adapters import Adapter, LoraPair
    from heliostat_engines.plans.graph_manifest import GraphManifest, LoraSite


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
    tensors = _zeros(manifest)
    if adapter is not None:
        for site in manifest.lora:
            _write(site, adapter.pairs[site.module], tensors)
    return tensors


def _zeros(manifest: GraphManifest) -> dict[str, torch.Tensor]:
    rank = manifest.options.max_rank
    rows: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for site in manifest.lora:
        if site.row is not None:
            rows[site.down] = rows[site.up] = max(rows.get(site.down, 0), site.row + 1)
        shapes[site.down] = (rank, site.in_features)
        shapes[site.up] = (site.out_features, rank)
    return {
        name: torch.zeros((rows[name], *shape) if name in rows else shape, dtype=torch.bfloat16)
        for name, shape in shapes.items()
    }


def _write(site: LoraSite, pair: LoraPair, tensors: dict[str, torch.Tensor]) -> None:
    down, up = tensors[site.down], tensors[site.up]
    if site.row is not None:
        down, up = down[site.row], up[site.row]
    down[: pair.rank] = pair.down
    up[:, : pair.rank] = pair.up
