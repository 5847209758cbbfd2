"""Replacing a plan's constants, all of them every time: in the LoRA modes refit and merge alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.errors import EngineFaultError, EngineFolderError
from heliostat_engines.runtimes.tensorrt.plan import accept

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import tensorrt as trt

    from heliostat_engines.plans.vendor import Vendor
    from heliostat_engines.runtimes.tensorrt.device import Device
    from heliostat_engines.runtimes.tensorrt.plan import CompiledModel


class WeightRefitter:
    """Refits one engine on its only stream.

    A refit that fails may leave a part of the constants replaced: the engine is then out of
    service until one succeeds.
    """

    def __init__(
        self, vendor: Vendor, model: CompiledModel, device: Device, names: Iterable[str]
    ) -> None:
        """`names` are the constants that the engine was built to have replaced.

        Raises:
            EngineFolderError: the plan has others.
        """
        self._vendor = vendor
        self._model = model
        self._device = device
        self._names = frozenset(names)
        self._refitter: trt.Refitter = vendor.trt.Refitter(model.engine, vendor.logger)
        offered = frozenset(self._refitter.get_all_weights())
        if offered != self._names:
            raise EngineFolderError(
                f"the plan can refit {len(offered)} weights and its manifest names "
                f"{len(self._names)}, {len(offered ^ self._names)} of them on one side only: build "
                "the engine again"
            )
        self.is_whole = True
        """Whether the engine computes with one set of constants."""

    def refit(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace every constant by a tensor on the device.

        Raises:
            EngineFaultError: a tensor is missing, misshapen or refused; but for the first two the
                engine is now out of service.
        """
        self._check(tensors)
        self.is_whole = False
        with self._device.ordered():
            for name, tensor in tensors.items():
                accept(self._set(name, tensor), f"the weight {name}")
            missing = self._refitter.get_missing_weights()
            accept(not missing, f"a refit without {', '.join(missing[:3])}")
            refitted = self._refitter.refit_cuda_engine_async(self._device.stream_handle)
        self._device.synchronise()
        if not refitted:
            raise EngineFaultError(
                "a refit failed and may have replaced a part of the weights: the engine is out of "
                "service until an adapter is refitted whole; publish one again, or restart the "
                "server"
            )
        self.is_whole = True
        self._model.capture_again()

    def _check(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if tensors.keys() != self._names:
            one_sided = sorted(tensors.keys() ^ self._names)
            raise EngineFaultError(
                f"a refit must send all of the {len(self._names)} weights that the engine was built "
                f"to have replaced, and no other; {one_sided[0]} is on one side only"
            )
        for name, tensor in tensors.items():
            prototype = self._refitter.get_weights_prototype(name)
            if prototype.size != elements(tensor):
                raise EngineFaultError(
                    f"weight {name} has {elements(tensor)} elements, the engine's has "
                    f"{prototype.size}: the adapter is of another model"
                )

    def _set(self, name: str, tensor: torch.Tensor) -> bool:
        trt = self._vendor.trt
        dtype = self._refitter.get_weights_prototype(name).dtype
        weights = trt.Weights(dtype, tensor.data_ptr(), elements(tensor))
        accepted: bool = self._refitter.set_named_weights(name, weights, trt.TensorLocation.DEVICE)
        return accepted


def elements(tensor: torch.Tensor) -> int:
    """Weights that a tensor holds: two FP4 codes a byte."""
    return tensor.numel() * (2 if tensor.dtype is torch.uint8 else 1)
