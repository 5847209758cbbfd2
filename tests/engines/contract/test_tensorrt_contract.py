"""Every TensorRT name, enum member, call and keyword in our code exists in the real bindings."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import heliostat_engines
from tests.engines.contract.bindings import Api, read_api
from tests.engines.contract.checker import Use, check, sources

PACKAGE = Path(heliostat_engines.__file__).parent
FILES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sources(PACKAGE)}
ONLY_RTX = (
    "ComputeCapability",
    "num_compute_capabilities",
    "set_compute_capability",
    "DynamicShapesKernelSpecializationStrategy",
    "dynamic_shapes_kernel_specialization_strategy",
    "create_runtime_cache",
    "set_runtime_cache",
)
"""Compiling ahead of time, and finishing on the GPU: what TensorRT does not do. In vendor.py alone."""


@pytest.fixture(scope="module", params=["tensorrt_bindings", "tensorrt_rtx"])
def api(request: pytest.FixtureRequest) -> Api:
    return read_api(request.param)


def messages(files: dict[str, str], api: Api) -> list[str]:
    """Problems, but for the calls that only TensorRT-RTX has, in the place that is meant for them."""
    return [
        str(problem)
        for problem in check(files, api).problems
        if not (
            api.module == "tensorrt_bindings"
            and problem.where.startswith("plans/vendor.py")
            and any(f"has no {name}" in problem.message for name in ONLY_RTX)
        )
    ]


def test_every_use_is_in_the_bindings(api: Api) -> None:
    assert messages(FILES, api) == []


def test_the_uses_are_found() -> None:
    api = read_api("tensorrt_rtx")
    used = {use.name for use in check(FILES, api).uses}
    assert {
        "build_serialized_network",
        "REFIT_INDIVIDUAL",
        "mark_weights_refittable",
        "refit_cuda_engine_async",
        "execute_async_v3",
        "get_tensor_dtype",
        "IProgressMonitor",
        "step_complete",
        *ONLY_RTX,
    } <= used
    assert len(used) > 50


def test_only_vendor_py_knows_what_tensorrt_lacks() -> None:
    api = read_api("tensorrt_bindings")
    lacking = {str(problem).split(":")[0] for problem in check(FILES, api).problems}
    assert lacking == {"plans/vendor.py"}


def test_any_use_that_is_misspelt_is_caught(api: Api) -> None:
    """Each use in turn: a letter more, and the check must fail."""
    uses = set(check(FILES, api).uses)
    missed = [use for use in sorted(uses) if not messages(_misspelt(use), api)]
    assert missed == []
    assert len(uses) > 80


PLANTED: dict[str, Callable[[str], str]] = {
    "keyword": lambda s: s.replace("ignore_mismatch=", "ignore_mismatches="),
    "enum member": lambda s: s.replace("REFIT_INDIVIDUAL", "REFIT_INDIVIDUALLY"),
    "one argument too many": lambda s: s.replace("builder.create_network()", "builder.create_network(0, 1)"),
    "one argument too few": lambda s: s.replace("trt.OnnxParser(network, vendor.logger)", "trt.OnnxParser(network)"),
    "class": lambda s: s.replace("trt.OnnxParser(", "trt.ONNXParser("),
    "method": lambda s: s.replace("parse_from_file(", "parse_file("),
    "annotation": lambda s: s.replace("config: trt.IBuilderConfig", "config: trt.IBuilderConf"),
    "overridden method": lambda s: s.replace("def step_complete(", "def steps_complete("),
    "overridden parameter": lambda s: s.replace("num_steps: int", "steps: int"),
    "unknown owner": lambda s: s.replace("    network: trt.INetworkDefinition,\n", "    network: object,\n"),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_error_is_caught(api: Api, plant: str) -> None:
    wrong = PLANTED[plant](FILES["compiling/plan.py"])
    ast.parse(wrong)
    assert wrong != FILES["compiling/plan.py"]
    assert messages(FILES | {"compiling/plan.py": wrong}, api)


def _misspelt(use: Use) -> dict[str, str]:
    """The sources with a letter more at the end of one name. Columns count bytes."""
    lines = FILES[use.file].encode().splitlines(keepends=True)
    line = lines[use.line - 1]
    assert line[: use.column].decode().endswith(use.name)
    lines[use.line - 1] = line[: use.column] + b"x" + line[use.column :]
    return FILES | {use.file: b"".join(lines).decode()}
