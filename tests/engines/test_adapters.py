from __future__ import annotations

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from heliostat_engines.adapters import (
    AdapterFiles,
    check_adapter,
    check_binding,
    pack_adapter,
    parse_adapter,
)
from heliostat_engines.errors import AdapterError

TARGETS = {"blocks.0.to_q": (8, 6), "blocks.0.to_out.0": (6, 8)}


def pairs(rank: int = 2) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return {
        name: (torch.randn(rank, inputs), torch.randn(outputs, rank))
        for name, (inputs, outputs) in TARGETS.items()
    }


def test_an_adapter_survives_the_trip_with_its_scale_folded_in() -> None:
    files = pack_adapter(pairs(), alpha=6.0)
    adapter = parse_adapter(files)
    assert adapter.sha256 == files.sha256
    for name, (down, up) in pairs().items():
        torch.testing.assert_close(adapter.pairs[name].down, down)
        torch.testing.assert_close(adapter.pairs[name].up, up * 3.0)
    assert str(check_binding(adapter, TARGETS, max_rank=2)) == "bound 2 of 2 modules"


def test_peft_and_diffusers_spellings_name_the_same_module() -> None:
    down, up = pairs()["blocks.0.to_q"]
    config = pack_adapter(pairs(), alpha=2.0).config
    for prefix, middle in [("base_model.model.", ""), ("transformer.", ""), ("", ".default")]:
        tensors = save(
            {
                f"{prefix}blocks.0.to_q.lora_A{middle}.weight": down,
                f"{prefix}blocks.0.to_q.lora_B{middle}.weight": up,
            }
        )
        assert list(parse_adapter(AdapterFiles(config, tensors)).pairs) == ["blocks.0.to_q"]


def test_zero_is_told_from_non_zero() -> None:
    down, up = pairs()["blocks.0.to_q"]
    assert parse_adapter(pack_adapter({"m": (down, torch.zeros_like(up))}, 1.0)).is_zero
    assert not parse_adapter(pack_adapter({"m": (down, up)}, 1.0)).is_zero


def test_a_side_beyond_64_bits_is_refused_in_one_sentence() -> None:
    entry = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}
    header = json.dumps({"base_model.model.m.lora_A.weight": entry}).encode()
    config = pack_adapter(pairs(), alpha=1.0).config
    adapter = AdapterFiles(config, len(header).to_bytes(8, "little") + header)
    with pytest.raises(AdapterError, match=r"no whole safetensors file: .+") as refused:
        parse_adapter(adapter)
    assert "\n" not in str(refused.value)


def test_refusals_say_what_is_wrong() -> None:
    good = pack_adapter(pairs(), alpha=1.0)
    one = {"blocks.0.to_q": pairs()["blocks.0.to_q"]}
    down, up = one["blocks.0.to_q"]
    unreadable = {
        "no whole safetensors": AdapterFiles(good.config, good.tensors[:-3]),
        "line 1, column 2: this is not JSON": AdapterFiles(b"{", good.tensors),
        "peft_type": AdapterFiles(b"{}", good.tensors),
        "use_dora": AdapterFiles(
            json.dumps({"peft_type": "LORA", "lora_alpha": 1, "use_dora": True}).encode(),
            good.tensors,
        ),
        "no finite number lora_alpha": AdapterFiles(b'{"peft_type": "LORA"}', good.tensors),
        "no finite number": AdapterFiles(
            b'{"peft_type": "LORA", "lora_alpha": 1' + b"0" * 400 + b"}", good.tensors
        ),
        "adapter_config.json is not JSON": AdapterFiles(b"[" * 100_000, good.tensors),
        "only lora_A": AdapterFiles(good.config, save({"m.lora_A.weight": down})),
        "is no LoRA weight": AdapterFiles(good.config, save({"m.weight": down})),
        "no tensors": AdapterFiles(good.config, save({})),
        "do not pair": pack_adapter({"m": (down, up[:, :1].repeat(1, 5))}, 1.0),
        "NaN": pack_adapter({"m": (down * float("nan"), up)}, 1.0),
    }
    for message, files in unreadable.items():
        with pytest.raises(AdapterError, match=message):
            parse_adapter(files)
    del unreadable["NaN"]  # Numbers are not looked at.
    for message, files in unreadable.items():
        with pytest.raises(AdapterError, match=message):
            check_adapter(files)
    check_adapter(good)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_check_takes_any_bytes_for_what_they_are(noise: bytes, at: int) -> None:
    """It raises nothing but a refusal, and refuses no adapter that is one."""
    good = pack_adapter(pairs(), alpha=1.0)
    tensors = good.tensors[:at] + noise + good.tensors[at + len(noise) :]
    with suppress(AdapterError):
        check_adapter(AdapterFiles(good.config, tensors))
        check_adapter(AdapterFiles(good.config, noise))


@pytest.mark.parametrize(
    "header",
    [[], {"m.lora_A.weight": []}, {"m.lora_A.weight": {"shape": [None], "data_offsets": [0, 0]}},
     {"m.lora_A.weight": {"shape": [1, 1], "data_offsets": [0]}}, {"m.lora_A.weight": {"data_offsets": "ab"}},
     {"m.lora_A.weight": {"shape": [float("inf"), 1], "data_offsets": [0, 0]}}],
)  # fmt: skip
def test_a_header_that_lies_is_refused_in_one_sentence(header: object) -> None:
    text = json.dumps(header).encode()
    files = AdapterFiles(
        pack_adapter(pairs(), alpha=1.0).config, len(text).to_bytes(8, "little") + text
    )
    with pytest.raises(AdapterError, match=r"no whole safetensors file: .+"):
        check_adapter(files)


@pytest.mark.parametrize(
    ("adapter_pairs", "max_rank", "message"),
    [
        ({"blocks.0.to_q": pairs()["blocks.0.to_q"]}, 4, "bound 1 of 2 modules; missing: blocks"),
        (pairs() | {"other": pairs()["blocks.0.to_q"]}, 4, "unknown to this model: other"),
        (pairs(rank=5), 4, "--max-rank 5"),
        (
            pairs() | {"blocks.0.to_q": (torch.randn(2, 9), torch.randn(6, 2))},
            4,
            "is 9 -> 6, the server's model has 8 -> 6",
        ),
    ],
    ids=["partial", "foreign", "rank", "shape"],
)
def test_binding_is_all_or_nothing(adapter_pairs: dict, max_rank: int, message: str) -> None:
    adapter = parse_adapter(pack_adapter(adapter_pairs, 1.0))
    with pytest.raises(AdapterError, match=message):
        check_binding(adapter, TARGETS, max_rank)


def test_modules_of_two_ranks_are_refused() -> None:
    mixed = {"a": pairs(2)["blocks.0.to_q"], "b": pairs(3)["blocks.0.to_q"]}
    with pytest.raises(AdapterError, match="share a rank"):
        pack_adapter(mixed, 1.0)
