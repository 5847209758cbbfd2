from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_server.scoring.prompts import PromptCache

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_each_prompt_is_encoded_once_and_rows_keep_their_order() -> None:
    asked: list[list[str]] = []

    def encode(prompts: Sequence[str]) -> Conditioning:
        asked.append(list(prompts))
        lengths = torch.tensor([[float(len(prompt))] for prompt in prompts])
        return Conditioning(lengths[:, None], lengths)

    cache = PromptCache(encode, max_prompts=2)
    assert cache.encode(["aa", "b", "aa"]).pooled.flatten().tolist() == [2, 1, 2]
    assert cache.encode(["b", "ccc"]).pooled.flatten().tolist() == [1, 3]
    cache.encode(["aa"])
    assert asked == [["aa", "b"], ["ccc"], ["aa"]]


def encoded(prompts: Sequence[str]) -> Conditioning:
    return Conditioning(torch.ones(len(prompts), 2, 5), torch.ones(len(prompts), 5))


def test_what_is_kept_is_bounded_in_bytes() -> None:
    asked: list[list[str]] = []

    def encode(prompts: Sequence[str]) -> Conditioning:
        asked.append(list(prompts))
        return encoded(prompts)

    one = encoded(["a"]).bytes
    assert one == 15 * 4
    cache = PromptCache(encode, max_bytes=2 * one + 1)
    assert len(cache.encode(["a", "b", "c"])) == 3
    cache.encode(["b", "c"])
    cache.encode(["a"])
    assert asked == [["a", "b", "c"], ["a"]]
    smaller = PromptCache(encode, max_bytes=one - 1)
    assert [len(smaller.encode(["a"])) for _ in range(2)] == [1, 1]
    assert asked[2:] == [["a"], ["a"]]


def test_many_prompts_are_encoded_in_several_requests() -> None:
    asked: list[list[str]] = []

    def encode(prompts: Sequence[str]) -> Conditioning:
        asked.append(list(prompts))
        return encoded(prompts)

    prompts = [str(number) for number in range(40)]
    assert len(PromptCache(encode).encode(prompts)) == 40
    assert [len(part) for part in asked] == [16, 16, 8]
    assert [prompt for part in asked for prompt in part] == prompts
