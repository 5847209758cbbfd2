"""LoRA adapters that are none, or are odd: PEFT's config and a safetensors file."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from heliostat_engines.adapters import AdapterFiles, check_binding, parse_adapter
from tests.bad_inputs import odd
from tests.bad_inputs.outcome import ACCEPTED, Verdict, raised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.bad_inputs.sandbox import Sandbox

TARGETS: Mapping[str, tuple[int, int]] = {"block.to_q": (8, 8), "block.to_out.0": (6, 8)}
MAX_RANK = 8
RANK = 2
CONFIG = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 4.0,
    "target_modules": ["to_q", "to_out.0"],
    "bias": "none",
}
CONFIG_KEYS = (*CONFIG, "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
DTYPES = ("F32", "F16", "BF16", "F64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X", "")
BYTES = {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}
VALUES = (0.0, 0.01, -1.0, 1e30, 3.4e38, float("nan"), float("inf"), 1e-45)


@dataclass
class Tensor:
    """An entry of a safetensors header; `offsets` None: where it follows the one before."""

    name: str
    dtype: str
    shape: Any
    offsets: Any = None


@st.composite
def tensor_files(draw: Callable[..., Any]) -> bytes:
    """A safetensors file made by hand, with up to some things wrong."""
    tensors = [
        Tensor(f"base_model.model.{name}.lora_{side}.weight", "F32", shape)
        for name, (inputs, outputs) in TARGETS.items()
        for side, shape in (("A", [RANK, inputs]), ("B", [outputs, RANK]))
    ]
    for _ in range(draw(st.integers(0, 2))):
        _spoil(draw, draw(st.sampled_from(tensors)))
    if draw(st.integers(0, 5)) == 0:
        del tensors[draw(st.integers(0, 3))]
    header: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        start, end = end, end + _size(tensor)
        offsets = [start, end] if tensor.offsets is None else tensor.offsets
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": offsets,
        }
    if draw(st.integers(0, 5)) == 0:
        header["__metadata__"] = draw(odd.anything)
    text = json.dumps(header).encode()
    data = struct.pack("<f", draw(st.sampled_from(VALUES))) * (end // 4 + 1)
    length = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1, 2**40, 2**63]))
    whole = struct.pack("<Q", max(0, len(text) + length)) + text + data[:end]
    return draw(odd.damages).applied(whole) or b"" if draw(st.integers(0, 4)) == 0 else whole


def _spoil(draw: Callable[..., Any], tensor: Tensor) -> None:
    match draw(st.integers(0, 3)):
        case 0:
            name = st.sampled_from(["x", "lora_A.weight", ".lora_A.weight", "a.lora_C.weight"])
            tensor.name = draw(name | odd.texts)
        case 1:
            tensor.dtype = draw(st.sampled_from(DTYPES))
        case 2:
            shapes = st.lists(st.sampled_from([0, 1, 2, 6, 8, 9, 64, -1, 2**40, 2**63]), max_size=4)
            tensor.shape = draw(shapes | odd.anything)
        case _:
            tensor.offsets = draw(st.lists(st.integers(-1, 200), max_size=3) | odd.anything)


def _size(tensor: Tensor) -> int:
    """What its data should have, if that is little and a number."""
    count = BYTES.get(tensor.dtype, 1)
    for side in tensor.shape if isinstance(tensor.shape, list) else ():
        count *= side if isinstance(side, int) and 0 <= side <= 64 else 1
    return min(count, 2**16)


@st.composite
def configs(draw: Callable[..., Any]) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return draw(odd.json_texts).encode("utf-8", "surrogatepass")
    config = CONFIG | draw(
        st.dictionaries(st.sampled_from(CONFIG_KEYS) | odd.words, odd.anything, max_size=2)
    )
    text = json.dumps(config).encode()
    return draw(odd.damages).applied(text) or b"" if draw(st.integers(0, 4)) == 0 else text


good_config = st.just(json.dumps(CONFIG).encode())
adapters = st.builds(AdapterFiles, good_config | good_config | configs(), tensor_files())


def run(files: AdapterFiles, sandbox: Sandbox) -> Verdict:
    """Read it and bind it to the two linears that there are."""
    try:
        check_binding(parse_adapter(files), TARGETS, MAX_RANK)
    except Exception as error:
        return sandbox.tidied(raised(error))
    return sandbox.tidied(ACCEPTED)
