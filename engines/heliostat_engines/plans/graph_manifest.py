"""What is exported, and what the exported file says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from heliostat_engines.precisions import MapName, Precision

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

GRAPH_FILE = "graph.onnx"
DATA_FILE = "graph.onnx.data"
MANIFEST_FILE = "graph.json"


class LoraMode(StrEnum):
    """How an adapter reaches the compiled graph."""

    INPUTS = "inputs"
    """A and B are inputs of the graph: an adapter is bound, nothing is rebuilt or refitted."""
    REFIT = "refit"
    """A and B are constants of the graph, zero at build, that a refitter overwrites."""
    MERGE = "merge"
    """No branch: the adapter is added to the weights before they are quantised."""


@dataclass(frozen=True)
class ExportOptions:
    """What kind of graph to write."""

    precision: Precision = Precision.NVFP4
    precision_map: MapName = MapName.PUBLISHED
    lora: LoraMode = LoraMode.INPUTS
    max_rank: int = 64


class TensorSpec(BaseModel):
    """An input or output of the graph; a dimension is a number or a symbol such as "batch"."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    """As in ONNX, in lower case: bfloat16, float, int64, bool."""
    shape: tuple[int | str, ...]


class LoraSite(BaseModel):
    """A linear with a branch, and the graph tensors that carry its A[rank, in] and B[out, rank].

    A site that says more, where in a stack of matrices its own lies, is of a graph that is no longer written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: str
    in_features: int
    out_features: int
    down: str
    up: str


def lora_shapes(sites: Iterable[LoraSite], rank: int) -> dict[str, tuple[int, int]]:
    """The shapes of the tensors that carry the sites' A and B, by name."""
    shapes = {}
    for site in sites:
        shapes[site.down] = (rank, site.in_features)
        shapes[site.up] = (site.out_features, rank)
    return shapes


class GraphManifest(BaseModel):
    """`graph.json`, beside the graph."""

    model_config = ConfigDict(frozen=True)

    family: str
    options: ExportOptions
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    lora: tuple[LoraSite, ...]
    nvfp4_linears: tuple[str, ...]
    """The quantised ones, to the options' precision; the name is of when there was NVFP4 alone."""
    weight_bytes: int
    """Bytes of all constants."""
    sha256: str
    """Of the graph and its data, in this order."""

    @property
    def lora_targets(self) -> dict[str, tuple[int, int]]:
        """name -> (in_features, out_features) of the linears with a branch."""
        return {site.module: (site.in_features, site.out_features) for site in self.lora}

    def write(self, folder: Path) -> None:
        """Write it beside the graph."""
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> GraphManifest:
        """Read it from beside the graph."""
        return GraphManifest.model_validate_json((folder / MANIFEST_FILE).read_text())
