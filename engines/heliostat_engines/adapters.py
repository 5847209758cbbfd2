"""LoRA adapters as they travel: a PEFT config and a safetensors file, named by their digest."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from safetensors.torch import load, save

from heliostat_engines.errors import AdapterError, FileError, first_line
from heliostat_engines.files.text import parse_json
from heliostat_engines.files.weights import LENGTH_BYTES, UNREADABLE, parse_header
from heliostat_engines.finite import are_finite
from heliostat_engines.settings import LARGEST_FLOAT

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

T = TypeVar("T")
CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
"""As PEFT names them, and so does every sentence about an adapter."""

_KEY = re.compile(
    r"^(?:base_model\.model\.)?(?:transformer\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$"
)
_PEFT_KEY = "base_model.model.{module}.lora_{side}.weight"


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's two files as bytes: adapter_config.json and adapter_model.safetensors."""

    config: bytes
    tensors: bytes | bytearray

    @cached_property
    def sha256(self) -> str:
        """Digest of the config followed by the tensors, in hexadecimal."""
        digest = hashlib.sha256(self.config)
        digest.update(self.tensors)  # in two parts: joined they would be a copy of them all
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of both files."""
        return len(self.config) + len(self.tensors)


@dataclass(frozen=True)
class LoraPair:
    """One module's low-rank update: down[r, in] (A) and up[out, r] (B, the scale folded in)."""

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        """The rows of A."""
        return int(self.down.shape[0])


@dataclass(frozen=True)
class Adapter:
    """A parsed adapter: per module name, its pair in float32 with alpha / r folded into `up`."""

    sha256: str
    pairs: Mapping[str, LoraPair]

    @property
    def rank(self) -> int:
        """The largest rank of a module."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def is_zero(self) -> bool:
        """Whether it leaves the base model as it is."""
        return not any(
            bool(pair.up.any()) and bool(pair.down.any()) for pair in self.pairs.values()
        )


@dataclass(frozen=True)
class Binding:
    """How an adapter met the model: `bound` of its `targets` linears take an update."""

    bound: int
    targets: int

    def __str__(self) -> str:
        return f"bound {self.bound} of {self.targets} modules"


def pack_adapter(
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], alpha: float
) -> AdapterFiles:
    """Write an adapter in PEFT's layout from per-module (A[r, in], B[out, r]), unscaled.

    PEFT applies alpha / r on loading. The tensors keep their dtype.
    """
    ranks = {down.shape[0] for down, _ in pairs.values()}
    if len(ranks) != 1:
        raise AdapterError(
            f"the modules of one adapter must share a rank, got ranks {sorted(ranks)}"
        )
    config = {
        "peft_type": "LORA",
        "r": ranks.pop(),
        "lora_alpha": alpha,
        "target_modules": sorted(pairs),
        "bias": "none",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
    }
    tensors = {
        _PEFT_KEY.format(module=module, side=side): tensor.detach().cpu().contiguous()
        for module, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    return AdapterFiles(json.dumps(config, sort_keys=True).encode(), save(tensors))


def check_adapter(files: AdapterFiles) -> None:
    """Refuse what cannot be a LoRA, by its config and its tensors' names and shapes alone.

    Takes a millisecond of an adapter whose numbers take half a second to read: parsing looks at those.

    Raises:
        AdapterError: not safetensors, not a plain LoRA, a half-present or misshapen pair.
    """
    _parse_config(files.config)
    _check_pairs(_by_side(_read_shapes(files.tensors)))


def parse_adapter(files: AdapterFiles) -> Adapter:
    """Read a PEFT or diffusers LoRA.

    Raises:
        AdapterError: as `check_adapter`, and for values that are NaN or infinite.
    """
    alpha = _parse_config(files.config)
    modules = _by_side(_read_tensors(files.tensors))
    _check_pairs(
        {
            module: {side: tuple(tensor.shape) for side, tensor in sides.items()}
            for module, sides in modules.items()
        }
    )
    pairs = {
        module: _scaled_pair(module, sides["A"], sides["B"], alpha)
        for module, sides in modules.items()
    }
    return Adapter(files.sha256, pairs)


def check_binding(
    adapter: Adapter, targets: Mapping[str, tuple[int, int]], max_rank: int
) -> Binding:
    """Compare an adapter with the model's LoRA targets, name -> (in_features, out_features).

    Raises:
        AdapterError: modules are missing, unknown, of other shapes, or of too large a rank.
    """
    binding = Binding(len(adapter.pairs.keys() & targets.keys()), len(targets))
    unknown = sorted(adapter.pairs.keys() - targets.keys())
    missing = sorted(targets.keys() - adapter.pairs.keys())
    if unknown or missing:
        raise AdapterError(
            f"the adapter {binding}; missing: {_first(missing)}; unknown to this model: "
            f"{_first(unknown)}: train it on the server's model family, on all its LoRA targets"
        )
    if adapter.rank > max_rank:
        raise AdapterError(
            f"the adapter has rank {adapter.rank}, the server takes up to {max_rank}: lower "
            f"lora.rank, or start the server with --max-rank {adapter.rank}"
        )
    for module, pair in adapter.pairs.items():
        shape = (int(pair.down.shape[1]), int(pair.up.shape[0]))
        if shape != targets[module]:
            raise AdapterError(
                f"module {module} of the adapter is {shape[0]} -> {shape[1]}, the server's model "
                f"has {targets[module][0]} -> {targets[module][1]}: it was trained on another model"
            )
    return binding


def _parse_config(config: bytes) -> float:
    """Its alpha."""
    try:
        parsed = parse_json(config, CONFIG_FILE)
    except FileError as error:
        raise AdapterError(str(error)) from error
    if not isinstance(parsed, dict) or parsed.get("peft_type") != "LORA":
        raise AdapterError(f"{CONFIG_FILE} is not a PEFT LoRA's: peft_type must be LORA")
    unsupported = [
        key
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
        if parsed.get(key)
    ]
    if unsupported or parsed.get("bias", "none") != "none":
        raise AdapterError(
            f"only plain LoRA is served; {CONFIG_FILE} sets {', '.join(unsupported) or 'bias'}"
        )
    alpha = parsed.get("lora_alpha")
    if not isinstance(alpha, int | float) or not abs(alpha) <= LARGEST_FLOAT:
        raise AdapterError(f"{CONFIG_FILE} has no finite number lora_alpha")
    return alpha


def _read_shapes(data: bytes | bytearray) -> dict[str, tuple[int, ...]]:
    """By name, from the header of a safetensors file."""
    first = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    try:
        header, start = parse_header(io.BytesIO(data[: min(first, len(data))]), len(data))
        header.pop("__metadata__", None)
        end = max((int(each["data_offsets"][1]) for each in header.values()), default=0)
        shapes = {name: tuple(map(int, each["shape"])) for name, each in header.items()}
    except (*UNREADABLE, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise _not_whole(error) from error
    if start + end != len(data):
        raise _not_whole(ValueError(f"{len(data)} bytes, where its header says {start + end}"))
    return shapes


def _read_tensors(data: bytes | bytearray) -> dict[str, torch.Tensor]:
    try:
        return load(bytes(data))  # No copy of what is bytes.
    except UNREADABLE as error:
        raise _not_whole(error) from error


def _not_whole(error: Exception) -> AdapterError:
    return AdapterError(f"the adapter is no whole safetensors file: {first_line(error)}")


def _by_side(named: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """By module, what is there of `A` and `B`."""
    sides: dict[str, dict[str, T]] = {}
    for key, value in named.items():
        match = _KEY.match(key)
        if match is None:
            raise AdapterError(f"tensor {key} is no LoRA weight (…lora_A.weight, …lora_B.weight)")
        sides.setdefault(match["module"], {})[match["side"]] = value
    if not sides:
        raise AdapterError("the adapter holds no tensors")
    return sides


def _check_pairs(shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> None:
    for module, sides in shapes.items():
        if set(sides) != {"A", "B"}:
            raise AdapterError(f"module {module} has only lora_{''.join(sides)}: both are needed")
        down, up = sides["A"], sides["B"]
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or not down[0]:
            raise AdapterError(f"module {module}: lora_A {down} and lora_B {up} do not pair")


def _scaled_pair(module: str, down: torch.Tensor, up: torch.Tensor, alpha: float) -> LoraPair:
    pair = LoraPair(down.float(), up.float() * (alpha / down.shape[0]))
    if not are_finite((pair.down, pair.up)):
        raise AdapterError(f"module {module} of the adapter has NaN or infinite weights")
    return pair


def _first(names: list[str], limit: int = 3) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
