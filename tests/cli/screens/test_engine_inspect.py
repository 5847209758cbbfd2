from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from heliostat.cli import app

LORA_SITES = {
    "demo": 31,
    "sana": 160,
    "flux": 190,
    "flux-schnell": 190,
    "sd3.5-large": 303,
    "sd3.5-medium": 191,
}
PUBLISHED_SHARE = {
    "demo": 98.8,
    "sana": 57.4,
    "flux": 100.0,
    "flux-schnell": 100.0,
    "sd3.5-large": 61.7,
    "sd3.5-medium": 52.9,
}


def inspect(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["engine", "inspect", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def figure(printed: str, name: str) -> float:
    found = re.search(rf"{name} +([\d.]+)", printed)
    assert found, printed
    return float(found[1])


@pytest.mark.parametrize("family", LORA_SITES)
def test_shares_sites_and_bytes_under_both_maps(family: str) -> None:
    published, wide = inspect(family), inspect(family, "--precision-map", "wide")
    share = "FLOPs of block linears in NVFP4"
    assert figure(published, share) == PUBLISHED_SHARE[family]
    assert figure(wide, share) == 100.0
    for printed in (published, wide):
        assert figure(printed, "linears that carry LoRA") == LORA_SITES[family]


def test_weights_are_printed_in_bf16_and_under_the_map() -> None:
    """FLUX.1-dev: 11.9 B parameters at 2 bytes, and little more than half a byte in NVFP4."""
    printed = inspect("flux")
    assert "GB" in printed
    assert figure(printed, "weights in BF16") == 23.8
    assert figure(printed, "weights under this map") == 6.8


def test_repeated_blocks_are_folded_unless_all_is_asked_for() -> None:
    folded, every = inspect("sd3.5-large"), inspect("sd3.5-large", "--all")
    line = next(line for line in folded.splitlines() if "*.attn.to_add_out" in line)
    assert re.findall(r"[\w.%]+", line.split("to_add_out")[1])[:6] == [
        "37",
        "2432",
        "2432",
        "333",
        "bf16",
        "LoRA",
    ]
    assert "transformer_blocks.36.attn.to_add_out" in every
    assert "transformer_blocks.*" not in every
    assert figure(every, "linears that carry LoRA") == 303


def test_an_unknown_family_names_the_closest() -> None:
    result = CliRunner().invoke(app, ["engine", "inspect", "sd3.5-larg"])
    assert "did you mean 'sd3.5-large'" in str(result.exception)
