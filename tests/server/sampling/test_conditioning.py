from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_server.sampling.conditioning import PromptCache

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_each_prompt_is_encoded_once_and_rows_keep_their_order() -> None:
    asked: list[list[str]] = []

    def encode(prompts: Sequence[str]) -> Conditioning:
        asked.append(list(prompts))
        lengths = torch.tensor([[float(len(prompt))] for prompt in prompts])
        return Conditioning(lengths[:, None], lengths)

    cache = PromptCache(encode, size=2)
    assert cache.encode(["aa", "b", "aa"]).pooled.flatten().tolist() == [2, 1, 2]
    assert cache.encode(["b", "ccc"]).pooled.flatten().tolist() == [1, 3]
    cache.encode(["aa"])
    assert asked == [["aa", "b"], ["ccc"], ["aa"]]
