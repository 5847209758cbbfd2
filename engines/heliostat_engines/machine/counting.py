"""How much memory an evaluation takes, counted tensor by tensor: on the meta device nothing is computed.

Attention and RMS norms are counted as a GPU's kernels keep them, wherever they are counted.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FUSED = {scaled_dot_product_attention: ("query", "key", "value"), rms_norm: ("input",)}
"""What is one kernel on a GPU, and those of its arguments that it keeps."""


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that the tensors which `run` makes hold at once, what it returns included.

    What a kernel needs for itself while it runs, such as a convolution's workspace, is not seen.
    """
    with LiveBytes() as live, FusedKernels():
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


class FusedKernels(TorchFunctionMode):
    """Attention and RMS norms take what they take on a GPU; values are what they are without it.

    There each is one kernel, which keeps its inputs, its output and a number a row. On CPUs and on paper
    torch makes them of several operations, with all scores, or with rows and their squares in float32.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if function is torch.Tensor.backward:
            return self._backward(*args)
        names = FUSED.get(function)
        if names is None:
            return function(*args, **given)
        others = dict(zip(names, args, strict=False)) | given
        inputs = [others.pop(name) for name in names]
        rest = args[len(names) :]

        def compute(*tensors: torch.Tensor) -> Any:
            return function(*tensors, *rest, **others)

        return _Fused.apply(compute, *inputs)  # type: ignore[no-untyped-call]

    def _backward(self, loss: torch.Tensor) -> None:
        """Of a scalar. torch's own is without the mode, and evaluates checkpointed blocks again."""
        with self:
            Variable._execution_engine.run_backward(
                (loss,),
                (torch.ones_like(loss),),
                keep_graph=False,
                create_graph=False,
                inputs=(),
                allow_unreachable=True,
                accumulate_grad=True,
            )


class _Fused(torch.autograd.Function):
    """What `compute` makes of some tensors, and their gradients; what it takes on its way is not seen."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Any:
        with _unseen():
            found = compute(*inputs)
        output = torch.empty_like(found).copy_(found)
        row_numbers = found.new_empty(found.shape[:-1], dtype=torch.float32)
        ctx.compute = compute
        ctx.save_for_backward(*inputs, output, row_numbers)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        inputs = [value.detach().requires_grad_() for value in ctx.saved_tensors[:-2]]
        with _unseen(), torch.enable_grad():
            found = torch.autograd.grad(ctx.compute(*inputs), inputs, gradient)
        return None, *(torch.empty_like(value).copy_(value) for value in found)


@contextmanager
def _unseen() -> Iterator[None]:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


def _tensors(values: Any) -> Iterable[torch.Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, torch.Tensor))
