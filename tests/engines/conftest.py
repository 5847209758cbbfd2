from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo-family transformer of two blocks with random weights, in diffusers' layout."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=384,
        caption_projection_dim=64,
        pooled_projection_dim=384,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for parameter in transformer.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("checkpoint")
    transformer.save_pretrained(folder / "transformer")
    return folder
