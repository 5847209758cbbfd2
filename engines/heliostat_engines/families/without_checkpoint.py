"""A family whose parts are built where they would be loaded: of random weights, or of none on "meta"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from heliostat_engines.decoders import DecoderName

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from heliostat_engines.families.decoder import VaeDecoder
    from heliostat_engines.families.family import Family, Size


def without_checkpoint(family: Family, size: Size, device: str) -> Family:
    """The same family, but that transformer and full decoder of that size are made on the device."""

    class Built(type(family)):  # type: ignore[misc]
        """Takes any checkpoint's name, and reads none."""

        @override
        def load_transformer(self, checkpoint: str, dtype: torch.dtype) -> nn.Module:
            transformer: nn.Module = self.build_transformer(size, device=device, dtype=dtype)
            return transformer

        @override
        def load_decoder(
            self, checkpoint: str, decoder: DecoderName = DecoderName.FULL
        ) -> VaeDecoder:
            built: VaeDecoder = self.build_decoder(size, device)
            return built

        @override
        def decoders(self, checkpoint: str) -> tuple[DecoderName, ...]:
            return (DecoderName.FULL,)

        @override
        def activation_amax(self, checkpoint: str) -> Mapping[str, float] | None:
            return None

    built: Family = Built()
    return built
