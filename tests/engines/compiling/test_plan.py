"""The vendor's compiler on graphs of one product."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from heliostat_engines.compiling.plan import PlanRequest, compile_plan
from heliostat_engines.errors import BuildError, HardwareError
from heliostat_engines.plans.profiles import ShapeRange
from heliostat_engines.plans.vendor import Runtime, Vendor, load_vendor

RANGES = {"x": ShapeRange(smallest=(1, 32), best=(8, 32), largest=(64, 32))}


@pytest.fixture(scope="module")
def vendor() -> Vendor:
    return load_vendor(Runtime.TENSORRT_RTX)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x[n, 32] times FP4 weights[32, 16], dequantised to float16."""
    codes = np.ones((32, 16), ml_dtypes.float4_e2m1fn)
    scales = np.ones((2, 16), np.float16)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(
                    "DequantizeLinear", ["codes", "scales"], ["w"], axis=0, block_size=16
                ),
                helper.make_node("MatMul", ["x", "w"], ["y"]),
            ],
            "product",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["n", 32])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["n", 16])],
            [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scales, "scales")],
        ),
        opset_imports=[helper.make_opsetid("", 23)],
    )
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    return path


def test_a_plan_and_its_progress(vendor: Vendor, graph: Path) -> None:
    heard: dict[str, list[tuple[int, int]]] = {}
    plan = compile_plan(
        vendor,
        PlanRequest(graph, "sm120", [RANGES, RANGES]),
        lambda stage, done, total: heard.setdefault(stage, []).append((done, total)),
    )
    assert len(plan) > 1000
    for reports in heard.values():
        assert reports[0][0] == 0
        assert reports[-1][0] == reports[-1][1]
        assert all(done <= total for done, total in reports)


def test_ctrl_c_stops_the_compiler(
    vendor: Vendor, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    stopping = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt_once(stage: str, _done: int, _total: int) -> None:
        heard.append(stage)
        if len(heard) == 1:
            signal.pthread_kill(main, signal.SIGINT)
            # Until it has been noticed, however busy the machine is: the whole takes milliseconds.
            assert stopping.wait(60)

    whole: list[str] = []
    compile_plan(
        vendor, PlanRequest(graph, "sm120", [RANGES]), lambda stage, *_: whole.append(stage)
    )
    monkeypatch.setattr("heliostat_engines.compiling.plan.Event", lambda: stopping)
    with pytest.raises(KeyboardInterrupt):
        compile_plan(vendor, PlanRequest(graph, "sm120", [RANGES]), interrupt_once)
    assert 0 < len(heard) < len(whole)


def test_fp4_for_a_gpu_without_it_is_refused(vendor: Vendor, graph: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot compile .* for sm89"):
        compile_plan(vendor, PlanRequest(graph, "sm89", [RANGES]), lambda *_: None)


def test_an_unknown_gpu_is_refused(vendor: Vendor, graph: Path) -> None:
    with pytest.raises(HardwareError, match=r"does not compile for sm100: choose .*sm120"):
        compile_plan(vendor, PlanRequest(graph, "sm100", [RANGES]), lambda *_: None)


def test_weights_that_are_not_in_the_graph_are_refused(vendor: Vendor, graph: Path) -> None:
    with pytest.raises(BuildError, match=r"1 of 1 weights refittable, missing.lora_up"):
        compile_plan(
            vendor, PlanRequest(graph, "sm120", [RANGES], ["missing.lora_up"]), lambda *_: None
        )


def test_what_is_no_graph_is_refused(vendor: Vendor, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BuildError, match="cannot read"):
        compile_plan(vendor, PlanRequest(path, "sm120", [RANGES]), lambda *_: None)
