"""What a text encoder gives a diffusion transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings of B prompts: tokens[B, T, C], pooled[B, P].

    Families without a pooled embedding leave it with P = 0; families that mask padding
    give mask[B, T] (1 = attend).
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def bytes(self) -> int:
        """What the embeddings take, mask included."""
        parts = [self.tokens, self.pooled, *([] if self.mask is None else [self.mask])]
        return sum(part.nbytes for part in parts)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Conditioning:
        """Cast the embeddings (not the mask) and move all of them."""
        return replace(
            self,
            tokens=self.tokens.to(device=device, dtype=dtype),
            pooled=self.pooled.to(device=device, dtype=dtype),
            mask=None if self.mask is None else self.mask.to(device=device),
        )

    def take(self, rows: Sequence[int] | torch.Tensor) -> Conditioning:
        """The given rows, in the given order."""
        return self._at(torch.as_tensor(rows, dtype=torch.long, device=self.tokens.device))

    def part(self, rows: slice) -> Conditioning:
        """Those rows, without a copy."""
        return self._at(rows)

    def _at(self, rows: torch.Tensor | slice) -> Conditioning:
        return replace(
            self,
            tokens=self.tokens[rows],
            pooled=self.pooled[rows],
            mask=None if self.mask is None else self.mask[rows],
        )

    def repeat(self, times: int) -> Conditioning:
        """Each row `times` times in a row: a prompt's embedding for its group of candidates."""
        return self.take(torch.arange(len(self)).repeat_interleave(times))

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """Stack the rows of several conditionings of one family."""
        masks = [part.mask for part in parts if part.mask is not None]
        return Conditioning(
            tokens=torch.cat([part.tokens for part in parts]),
            pooled=torch.cat([part.pooled for part in parts]),
            mask=torch.cat(masks) if masks else None,
        )
