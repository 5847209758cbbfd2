"""`heliostat rewards convert`: weights that are published as a pickle, read once and kept as safetensors.

Source of the layouts: open_clip (https://github.com/mlfoundations/open_clip) for HPSv2, BLIP
(https://github.com/salesforce/BLIP) for ImageReward.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from heliostat_engines.errors import CheckpointError, first_line
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import Layout, require_replaceable
from heliostat_engines.files.weights import check_state
from heliostat_engines.progress import Stages
from heliostat_server.rewards.published.entries import HPSV2, IMAGE_REWARD
from heliostat_server.rewards.published.image_reward import PUBLISHED as IMAGE_REWARD_CONFIG
from heliostat_server.rewards.published.image_reward import ImageRewardNetwork
from heliostat_server.rewards.weights import (
    CONFIG,
    TENSORS,
    ConvertedWeights,
    HubWeights,
    converted_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

State = dict[str, torch.Tensor]

CLIP_H14: dict[str, Any] = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "hidden_act": "gelu",
    },
}
"""Of open_clip's ViT-H-14, which HPSv2 is."""

_RESBLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_CLIP = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_OPEN_CLIP_TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
_OPEN_CLIP_BUFFERS = frozenset({"attn_mask"})
_OPEN_CLIP_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_OPEN_CLIP_QKV = re.compile(
    r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)"
)

_BLIP_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
    (r"^norm\.", "post_layernorm."),
)
_BLIP_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


def from_open_clip(published: Mapping[str, torch.Tensor]) -> State:
    """open_clip's names -> those of transformers' CLIPModel."""
    state: State = {}
    for name, tensor in published.items():
        if name in _OPEN_CLIP_BUFFERS:
            continue
        state |= _from_open_clip(name, tensor)
    return state


def _from_open_clip(name: str, tensor: torch.Tensor) -> State:
    if name in _OPEN_CLIP:
        return {_OPEN_CLIP[name]: tensor}
    if name in _OPEN_CLIP_TRANSPOSED:
        return {_OPEN_CLIP_TRANSPOSED[name]: tensor.T}
    if match := _OPEN_CLIP_QKV.fullmatch(name):
        visual, layer, kind = match.groups()
        prefix = _encoder(visual, layer) + "self_attn."
        names = [f"{prefix}{part}_proj.{kind}" for part in "qkv"]
        return dict(zip(names, tensor.chunk(3), strict=True))
    if match := _OPEN_CLIP_LAYER.fullmatch(name):
        visual, layer, part, kind = match.groups()
        if part in _RESBLOCK:
            return {f"{_encoder(visual, layer)}{_RESBLOCK[part]}.{kind}": tensor}
    return {name: tensor}  # Left as it is, for the check to name.


def _encoder(visual: str | None, layer: str) -> str:
    return f"{'vision' if visual else 'text'}_model.encoder.layers.{layer}."


def from_image_reward(published: Mapping[str, torch.Tensor]) -> State:
    """ImageReward's names -> those of `ImageRewardNetwork`."""
    return {
        _from_image_reward(name): tensor
        for name, tensor in published.items()
        if not name.startswith(_BLIP_UNUSED)
    }


def _from_image_reward(name: str) -> str:
    if name.startswith("mlp.layers."):
        return "head." + name.removeprefix("mlp.layers.")
    if name.startswith("blip.text_encoder."):
        return "text." + name.removeprefix("blip.text_encoder.")
    if name.startswith("blip.visual_encoder."):
        rest = name.removeprefix("blip.visual_encoder.")
        for pattern, replacement in _BLIP_VISION:
            renamed, found = re.subn(pattern, replacement, rest)
            if found:
                return "vision." + renamed
    return name


def convert_hpsv2(published: State, config: dict[str, Any] = CLIP_H14) -> tuple[State, Any]:
    """HPSv2's weights and configuration in the layout of transformers' CLIPModel."""
    from transformers import CLIPConfig, CLIPModel

    clip = CLIPConfig(**config)
    state = from_open_clip(published)
    with torch.device("meta"):
        check_state(CLIPModel(clip), state, "the checkpoint")
    return state, {**clip.to_dict(), "architectures": ["CLIPModel"]}


def convert_image_reward(
    published: State, config: dict[str, Any] = IMAGE_REWARD_CONFIG
) -> tuple[State, Any]:
    """ImageReward's weights and configuration as `ImageReward` reads them."""
    state = from_image_reward(published)
    with torch.device("meta"):
        check_state(ImageRewardNetwork(config), state, "the checkpoint")
    return state, config


_CONVERTERS: dict[str, tuple[ConvertedWeights, Callable[[State], tuple[State, Any]]]] = {
    "hpsv2": (HPSV2, convert_hpsv2),
    "image_reward": (IMAGE_REWARD, convert_image_reward),
}


def convert(
    reward: str,
    file: Path | None = None,
    out: Path | None = None,
    stages: Stages | None = None,
) -> Path:
    """Read a published .pt file and write safetensors; the folder written.

    file: None takes it from the Hugging Face cache, or downloads it. out: None writes where the
    reward looks first. stages: hear what it is at.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
        FilesError: the folder cannot be written, or holds what is not ours.
    """
    if reward not in _CONVERTERS:
        raise CheckpointError(
            f"the reward {reward} needs no conversion: those that do are {', '.join(_CONVERTERS)}"
        )
    weights, converter = _CONVERTERS[reward]
    folder = out or converted_folder(reward)
    layout = _layout(is_own_place=out is None)
    require_replaceable(folder, layout)
    stages = stages or Stages()
    with stages.during("find the published file"):
        file = file or _published_file(weights)
    with stages.during(f"read {file.name}"):
        published = read_pickle(file)
    with stages.during("check names and shapes"):
        state, config = converter(published)
    with stages.during("write"), atomic_folder(folder, layout) as draft:
        (draft / CONFIG).write_text(json.dumps(config, indent=2))
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, draft / TENSORS)
    return folder


def _layout(*, is_own_place: bool) -> Layout:
    """Two files of these names are ours without a marker only where nobody else puts any."""
    return Layout(
        kind="converted weights",
        advice="give --out a folder that is new, empty, or what `heliostat rewards convert` wrote",
        required=frozenset({CONFIG, TENSORS}) if is_own_place else frozenset(),
    )


def read_pickle(file: Path) -> State:
    """The tensors of a file of torch.save. Nothing but tensors and plain values is unpickled.

    Raises:
        CheckpointError: it cannot be read, or holds no tensors.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a file that is none, torch raises nearly anything
        raise CheckpointError(f"{file} is no file of weights: {first_line(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{file} holds something else than named tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _published_file(weights: ConvertedWeights) -> Path:
    source = HubWeights(weights.repo, (weights.file,))
    folder = source.find() or source.download()
    if folder is None:
        raise CheckpointError(
            f"{weights.file} of {weights.repo} is not on this machine: run `{source.command}`, or "
            "name the file"
        )
    return folder / weights.file
