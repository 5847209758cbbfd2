"""What an exported graph is made of: branches, shared quantisers, inputs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from heliostat_engines.errors import ExportError
from heliostat_engines.export.graph import export_graph
from heliostat_engines.export.sources import ModuleSource
from heliostat_engines.families.precision import lora_targets
from heliostat_engines.plans.graph_manifest import (
    GRAPH_FILE,
    ExportOptions,
    GraphManifest,
    LoraMode,
)
from heliostat_engines.plans.merged_tensors import refittable_names
from heliostat_engines.precisions import MapName, Precision
from tests.engines.export.cases import FAMILIES, MAX_RANK, Model, export

TinyModel = Callable[[str], Model]
WAYS = pytest.mark.parametrize("lora", [LoraMode.INPUTS, LoraMode.REFIT])


class Graph:
    """A file's nodes, found from the values they make."""

    def __init__(self, folder: Path) -> None:
        self.graph = onnx.load(folder / GRAPH_FILE, load_external_data=False).graph
        self._producer = {output: node for node in self.graph.node for output in node.output}

    def behind(self, value: str, *ops: str) -> str | None:
        """Follow first inputs back through nodes of these operators; None if they differ."""
        for op in ops:
            node = self._producer.get(value)
            if node is None or node.op_type != op:
                return None
            value = node.input[0]
        return value

    def lora_products(self) -> Iterator[tuple[str, str]]:
        """(x, value that carries A) of each MatMul whose result goes into another one's branch."""
        for node in self.graph.node:
            if node.op_type != "MatMul":
                continue
            down = self._producer.get(node.input[0])
            if down is None or down.op_type != "MatMul":
                continue
            source = self.behind(down.input[1], "Transpose")
            if source is not None:  # linear attention multiplies twice as well
                yield down.input[0], source

    def linear_products(self) -> Iterator[tuple[str, str]]:
        """(x, module) of each MatMul with NVFP4 weights."""
        for node in self.graph.node:
            weight = node.op_type == "MatMul" and self.behind(
                node.input[1], "Transpose", "DequantizeLinear"
            )
            if weight and weight.endswith(".weight_codes"):
                yield node.input[0], weight.removesuffix(".weight_codes")


@WAYS
@pytest.mark.parametrize("name", FAMILIES)
def test_every_linear_that_the_family_declares_has_a_branch(
    name: str, lora: LoraMode, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model(name)
    options = ExportOptions(lora=lora, max_rank=MAX_RANK)
    manifest = export(model, options, tmp_path)
    declared = {plan.name: plan for plan in model.plans() if plan.carries_lora}
    found = Counter(carrier for _, carrier in Graph(tmp_path).lora_products())
    assert found.total() == len(declared)
    assert manifest.lora_targets == {
        plan.name: (plan.in_features, plan.out_features) for plan in declared.values()
    }
    assert found == Counter(site.down for site in manifest.lora)
    inputs = {spec.name for spec in manifest.inputs}
    assert inputs >= set(found) if lora is LoraMode.INPUTS else not inputs & set(found)
    assert len(found) == len(declared)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_update_is_added_before_the_bias(
    name: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model(name)
    export(model, ExportOptions(max_rank=MAX_RANK), tmp_path)
    graph = Graph(tmp_path)
    for plan in model.plans():
        if plan.carries_lora and model.transformer.get_submodule(plan.name).bias is not None:
            (adds,) = (
                node
                for node in graph.graph.node
                if node.op_type == "Add" and f"transformer.{plan.name}.bias" in node.input
            )
            assert f"{plan.name}/lora_sum" in adds.input


@pytest.mark.parametrize("name", FAMILIES)
def test_q_k_and_v_share_one_quantiser_and_branches_read_what_it_reads(
    name: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    export(tiny_model(name), ExportOptions(max_rank=MAX_RANK, precision_map=MapName.WIDE), tmp_path)
    graph = Graph(tmp_path)
    quantiser_of: dict[str, str] = {}
    unquantised: Counter[str] = Counter()
    for x, module in graph.linear_products():
        raw = graph.behind(x, "DequantizeLinear", "TRT_FP4DynamicQuantize")
        assert raw is not None, f"{module} reads no quantised activations"
        quantiser_of[module] = x
        unquantised[raw] += 1
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for module, quantiser in quantiser_of.items():
        parent, _, child = module.rpartition(".")
        if child in {"to_q", "to_k", "to_v"}:
            readers[parent].add(quantiser)
    assert readers
    for parent, quantisers in readers.items():
        # SANA's cross attention reads the image in its queries, the text in keys and values.
        assert len(quantisers) == (2 if "attn2" in parent and name == "sana" else 1), parent
    nodes = [node for node in graph.graph.node if node.op_type == "TRT_FP4DynamicQuantize"]
    assert len(nodes) == len(set(quantiser_of.values())) == len(unquantised)
    branches = Counter(x for x, _ in graph.lora_products())
    assert all(unquantised[x] >= count for x, count in branches.items())


@pytest.mark.parametrize("precision", list(Precision))
def test_constants_take_the_bytes_that_their_precision_takes(
    precision: Precision, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("flux")
    options = ExportOptions(precision=precision, lora=LoraMode.MERGE)
    manifest = export(model, options, tmp_path)
    assert GraphManifest.read(tmp_path) == manifest
    expected = sum(parameter.numel() * 2 for parameter in model.transformer.parameters())
    for plan in model.plans():
        if plan.name in manifest.nvfp4_linears:
            elements = plan.in_features * plan.out_features
            kept = elements + 4 * plan.out_features
            if precision is not Precision.FP8:
                kept = elements // 2 + elements // 16 + 4
            expected += kept - 2 * elements
    buffers = sum(buffer.nbytes for buffer in model.transformer.buffers())
    assert expected <= manifest.weight_bytes <= expected + buffers
    graph = onnx.load(tmp_path / GRAPH_FILE, load_external_data=False).graph
    merged = refittable_names(manifest, lora_targets(model.plans()))
    assert merged
    assert set(merged) <= {constant.name for constant in graph.initializer}


def test_w4a4_without_calibration_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("demo")
    with pytest.raises(ExportError, match=r"no calibrated activation magnitude.*nvfp4-w4a16"):
        export_graph(
            model.family,
            ModuleSource(model.transformer),
            ExportOptions(),
            tmp_path,
            progress=lambda *_: None,
        )
