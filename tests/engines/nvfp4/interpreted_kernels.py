"""Runs the Triton kernels by Triton's interpreter, in a process of its own: what it needs to be
asked for, it needs to be asked for before Triton is first imported.

    TRITON_INTERPRET=1 python -m tests.engines.nvfp4.interpreted_kernels cases.safetensors results.safetensors

In: `name.values` and `name.scale`, with `name.bias` where it is a product to scale; `name.values`, `name.projected` and
`name.up`, and any of the two, where it is one to finish. Out: `name`.
"""

from __future__ import annotations

import sys

from safetensors.torch import load_file, save_file

from heliostat_engines.finishing import finish_
from heliostat_engines.nvfp4 import gpu as nvfp4_gpu

cases = load_file(sys.argv[1])
results = {}
for key in cases:
    name, part = key.split(".")
    if part != "values":
        continue
    values, scale, bias, projected, up = (
        cases.get(f"{name}.{part}") for part in ("values", "scale", "bias", "projected", "up")
    )
    assert values is not None
    if projected is not None and up is not None:
        results[name] = finish_(values.clone(), scale, bias, projected, up)
        continue
    assert scale is not None
    results[name] = (
        nvfp4_gpu.fake_quantise(values, scale)
        if bias is None
        else nvfp4_gpu.scale_and_add_(values.clone(), scale, bias)
    )
save_file(results, sys.argv[2])
