"""How much memory an evaluation takes, counted tensor by tensor: on the meta device nothing is computed.

Attention is counted as fused kernels keep it: its inputs, its output and a number a row.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that the tensors which `run` makes hold at once, what it returns included.

    What a kernel needs for itself while it runs, such as a convolution's workspace, is not seen.
    """
    with LiveBytes() as live, FusedAttention():
        result = run()
    del result
    peak: int = live.peak
    return peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that are made within, and lets go of those that are freed.

    What was there before, such as weights, and views of it are not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: int = 0
        self.peak: int = 0
        self._known: dict[int, int] = {}

    @override
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        for tensor in _tensors((args, given)):
            self._see(tensor, is_new=False)
        output = function(*args, **given)
        for tensor in _tensors(output):
            self._see(tensor, is_new=True)
        return output

    def _see(self, tensor: torch.Tensor, *, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if is_new else 0
        self._known[key] = size
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self.held -= self._known.pop(key)


class FusedAttention(TorchFunctionMode):
    """Attention as on a GPU: the scores are never kept. Of its result only the shape is right."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        return _Attention.apply(named["query"], named["key"], named["value"])  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    """Shapes only: never evaluated backwards."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        output = torch.empty_like(query)
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output


def _tensors(values: Any) -> Iterable[torch.Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, torch.Tensor))
