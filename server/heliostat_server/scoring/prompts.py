"""Embeddings of prompts, remembered."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from heliostat_engines.conditioning import Conditioning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_BYTES = 2**30
"""Of the embeddings kept: some 120 prompts of FLUX's width, more than 100,000 of the demo's."""
MAX_PROMPTS = 4096
A_REQUEST = 16
"""Prompts encoded in one request at most: a text encoder on a CPU takes seconds for each."""


class PromptCache:
    """Encodes prompts through `encode` and keeps the latest that fit. For one thread."""

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Conditioning],
        *,
        max_bytes: int = MAX_BYTES,
        max_prompts: int = MAX_PROMPTS,
    ) -> None:
        """Up to `max_prompts` are kept, and up to `max_bytes` of their embeddings."""
        self._encode = encode
        self._max_bytes = max_bytes
        self._max_prompts = max_prompts
        self._rows: OrderedDict[str, Conditioning] = OrderedDict()
        self._bytes = 0

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning[B] of prompts[B]; only prompts not seen of late are encoded."""
        wanted = dict.fromkeys(prompts)
        missing = [prompt for prompt in wanted if prompt not in self._rows]
        for start in range(0, len(missing), A_REQUEST):
            part = missing[start : start + A_REQUEST]
            fresh = self._encode(part)
            for place, prompt in enumerate(part):
                self._rows[prompt] = row = fresh.take([place])
                self._bytes += row.bytes
        for prompt in wanted:
            self._rows.move_to_end(prompt)
        rows = Conditioning.concat([self._rows[prompt] for prompt in prompts])
        while len(self._rows) > self._max_prompts or self._bytes > self._max_bytes:
            _, oldest = self._rows.popitem(last=False)
            self._bytes -= oldest.bytes
        return rows
