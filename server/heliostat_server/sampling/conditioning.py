"""Embeddings of prompts, remembered."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from heliostat_engines.conditioning import Conditioning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class PromptCache:
    """Encodes prompts through `encode` and keeps the latest `size` of them. For one thread."""

    def __init__(
        self, encode: Callable[[Sequence[str]], Conditioning], *, size: int = 1024
    ) -> None:
        self._encode = encode
        self._size = size
        self._rows: OrderedDict[str, Conditioning] = OrderedDict()

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning[B] of prompts[B]; only prompts not seen of late are encoded."""
        wanted = dict.fromkeys(prompts)
        missing = [prompt for prompt in wanted if prompt not in self._rows]
        if missing:
            fresh = self._encode(missing)
            self._rows.update((prompt, fresh.take([row])) for row, prompt in enumerate(missing))
        for prompt in wanted:
            self._rows.move_to_end(prompt)
        rows = Conditioning.concat([self._rows[prompt] for prompt in prompts])
        while len(self._rows) > self._size:
            self._rows.popitem(last=False)
        return rows
