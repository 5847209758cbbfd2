from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
from torch import nn

from heliostat_engines.export import graph
from heliostat_engines.export.tracing import TracedGraph, trace
from heliostat_engines.families.family import Family
from heliostat_engines.machine import arithmetic
from tests.engines.export.cases import Model, make_model


@pytest.fixture(scope="session", autouse=True)
def _trace_once() -> Iterator[None]:
    """Each structure is traced once a session and handed out as copies: a trace takes seconds."""
    traced: dict[tuple[str, str], TracedGraph] = {}

    def trace_once(family: Family, skeleton: nn.Module) -> TracedGraph:
        key = family.name, repr(skeleton)
        if key not in traced:
            traced[key] = trace(family, skeleton)
        model = traced[key].model.clone()
        values = {value.name: value for value in model.graph.inputs}
        weights = traced[key].weights.items()
        return TracedGraph(model, {name: values[value.name] for name, value in weights})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "trace", trace_once)
        yield


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Model]:
    """The tiny model of the family of that name."""
    return cache(make_model)


@pytest.fixture(scope="package", autouse=True)
def _bf16() -> Iterator[None]:
    """Exported files compute in BF16, and so does the torch engine that they are held against."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(arithmetic.CPU_DTYPE, "bfloat16")
        arithmetic.cpu_dtype.cache_clear()
        yield
    arithmetic.cpu_dtype.cache_clear()
