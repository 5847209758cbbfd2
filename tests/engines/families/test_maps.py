"""Precision maps and LoRA targets against the rules as published, at the published sizes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import nn

from heliostat_engines.families import FAMILIES, get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.precision import named_linears, plan_linears
from heliostat_engines.precisions import MapName, Precision

LORA_SITES = {
    "demo": 31,
    "sana": 160,
    "flux": 190,
    "flux-schnell": 190,
    "sd3.5-large": 303,
    "sd3.5-medium": 191,
}
PARAMETERS_BILLION = {
    "demo": 0.005,
    "sana": 1.604,
    "flux": 11.901,
    "flux-schnell": 11.891,
    "sd3.5-large": 8.146,
    "sd3.5-medium": 2.470,
}
"""Of the published checkpoints, saved position embeddings included."""
EVERY = pytest.mark.parametrize("name", [family.name for family in FAMILIES])


@dataclass(frozen=True)
class PublishedRule:
    """BF16 if a keep is part of the name or max(in, out) <= min_dim, else NVFP4."""

    keep: tuple[str, ...]
    min_dim: int

    def is_nvfp4(self, name: str, width_in: int, width_out: int) -> bool:
        return (
            not any(part in name for part in self.keep) and max(width_in, width_out) > self.min_dim
        )


RULES = {
    "sana": PublishedRule(
        (
            "t_embedder",
            "t_block",
            "cfg_embedder",
            "y_embedder",
            "x_embedder",
            "final_layer",
            "logvar_linear",
            "attn.qkv",
        ),
        2240,
    ),
    "sd3.5-large": PublishedRule(
        ("pos_embed", "context_embedder", "time_text_embed", "norm_out", "norm1", "ff_context"),
        2432,
    ),
    "flux": PublishedRule(("x_embedder", "context_embedder", "time_text_embed", "norm_out"), 1000),
}
SANA_NAMES = {
    "patch_embed.proj": "x_embedder.proj",
    "time_embed.emb.timestep_embedder": "t_embedder.mlp",
    "time_embed.linear": "t_block.1",
    "caption_projection": "y_embedder.y_proj",
    "attn1.to_q": "attn.qkv",
    "attn1.to_k": "attn.qkv",
    "attn1.to_v": "attn.qkv",
    "attn1.to_out.0": "attn.proj",
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_k": "cross_attn.kv_linear",
    "attn2.to_v": "cross_attn.kv_linear",
    "attn2.to_out.0": "cross_attn.proj",
    "proj_out": "final_layer.linear",
}
FUSED = {"attn.qkv": 3, "cross_attn.kv_linear": 2}


def as_published(family: str, name: str, linear: nn.Linear) -> tuple[str, int, int]:
    """A linear's name and widths in the code that the rule was written for."""
    if family != "sana":
        return name, linear.in_features, linear.out_features
    for ours, theirs in SANA_NAMES.items():
        name = name.replace(ours, theirs)
    copies = next((n for part, n in FUSED.items() if name.endswith(part)), 1)
    return name, linear.in_features, copies * linear.out_features


@pytest.mark.parametrize("name", RULES)
def test_the_published_map_is_the_published_rule(name: str) -> None:
    family = get_family(name)
    rules = family.rules(MapName.PUBLISHED)
    linears = dict(named_linears(family.build_transformer(Size.PUBLISHED)))
    ours = {n for n, linear in linears.items() if rules.decide(n, linear)[0] is Precision.NVFP4}
    theirs = {
        n for n, linear in linears.items() if RULES[name].is_nvfp4(*as_published(name, n, linear))
    }
    assert ours == theirs != set()


@EVERY
def test_the_wide_map_adds_every_block_linear_to_the_published(name: str) -> None:
    family = get_family(name)
    transformer = family.build_transformer(Size.PUBLISHED)
    published, wide = (
        {
            linear.name
            for linear in plan_linears(transformer, family.rules(choice), family.lora_targets)
            if linear.precision is Precision.NVFP4
        }
        for choice in MapName
    )
    in_blocks = {
        linear
        for linear, _ in named_linears(transformer)
        if linear.startswith(tuple(f"{blocks}." for blocks in family.block_counts))
    }
    assert wide == published | in_blocks


@EVERY
def test_parameters_and_lora_sites_are_the_published_models(name: str) -> None:
    family = get_family(name)
    transformer = family.build_transformer(Size.PUBLISHED)
    billion = sum(tensor.numel() for tensor in transformer.state_dict().values()) / 1e9
    assert billion == pytest.approx(PARAMETERS_BILLION[name], abs=6e-4)
    plan = plan_linears(transformer, family.precision_map, family.lora_targets)
    assert sum(linear.carries_lora for linear in plan) == LORA_SITES[name]


@EVERY
def test_the_tiny_transformer_has_every_kind_of_linear_and_decision(name: str) -> None:
    """By module name without block numbers, in each map; and NVFP4's blocks of 16 fit."""
    family = get_family(name)

    def kinds(size: Size) -> set[tuple[str, str, Precision, bool]]:
        transformer = family.build_transformer(size)
        return {
            (choice, without_numbers(linear.name), linear.precision, linear.carries_lora)
            for choice in MapName
            for linear in plan_linears(transformer, family.rules(choice), family.lora_targets)
        }

    assert kinds(Size.TINY) == kinds(Size.PUBLISHED)


def without_numbers(name: str) -> str:
    head, *rest = name.split(".")
    return ".".join(
        [head, *("N" if part.isdigit() and i == 0 else part for i, part in enumerate(rest))]
    )
