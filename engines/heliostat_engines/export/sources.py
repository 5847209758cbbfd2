"""Where a transformer's weights come from, read one by one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import safe_open

from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.random_weights import build_module
from heliostat_engines.families.weights import PART
from heliostat_engines.files.weights import check_folder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from heliostat_engines.adapters import Adapter
    from heliostat_engines.families.family import Family


class TransformerSource(Protocol):
    """A transformer's structure, and its tensors by dotted name."""

    def skeleton(self) -> nn.Module:
        """The module in eval mode with its tensors on the meta device; the caller's to change."""

    def read(self, name: str) -> torch.Tensor:
        """One parameter or buffer. Raises CheckpointError if it is not there."""


class ModuleSource:
    """A transformer in memory."""

    def __init__(self, transformer: nn.Module) -> None:
        self._transformer = transformer
        self._tensors = {
            **dict(transformer.named_parameters()),
            **dict(transformer.named_buffers()),
        }

    def skeleton(self) -> nn.Module:
        """A copy without data."""
        empty = {
            id(tensor): type(tensor)(torch.empty_like(tensor, device="meta"))
            for tensor in self._tensors.values()
        }
        return copy.deepcopy(self._transformer, empty).eval()

    def read(self, name: str) -> torch.Tensor:
        """The module's own tensor, detached."""
        if name not in self._tensors:
            raise CheckpointError(f"the transformer has no tensor {name}")
        return self._tensors[name].detach()


class CheckpointSource:
    """The transformer of a local checkpoint in diffusers' layout, whole or in shards."""

    def __init__(self, family: Family, checkpoint: Path) -> None:
        """Read the configuration and which tensor is where.

        Raises:
            CheckpointError: the family does not drive it, or its weights are not exactly those of its
                configuration, tensor by tensor.
        """
        self._config = family.check_checkpoint(str(checkpoint))
        self._family = family
        self._folder = checkpoint / PART
        self._file_of = check_folder(self._as_published(), self._folder)

    def skeleton(self) -> nn.Module:
        """Built from the checkpoint's config.json."""
        return self._family.prepare(self._as_published())

    def _as_published(self) -> nn.Module:
        model = self._family.transformer_class()
        module = build_module(model, self._config, "meta", torch.bfloat16)
        return module.eval().requires_grad_(False)

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor from its file."""
        if name not in self._file_of:
            raise CheckpointError(f"{self._folder} has no tensor {name}")
        with safe_open(self._file_of[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor


class MergedSource:
    """Another source with an adapter added to its weights in float32."""

    def __init__(self, source: TransformerSource, adapter: Adapter) -> None:
        self._source = source
        self._adapter = adapter

    def skeleton(self) -> nn.Module:
        """The other source's."""
        return self._source.skeleton()

    def read(self, name: str) -> torch.Tensor:
        """W + B A, rounded once to the weight's own dtype; other tensors as they are."""
        tensor = self._source.read(name)
        module, _, parameter = name.rpartition(".")
        pair = self._adapter.pairs.get(module)
        if pair is None or parameter != "weight":
            return tensor
        return torch.addmm(tensor.float(), pair.up, pair.down).to(tensor.dtype)
