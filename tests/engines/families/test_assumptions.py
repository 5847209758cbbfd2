"""Checkpoints whose configuration needs another driver are refused when loaded: file and field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from heliostat_engines.errors import CheckpointError
from heliostat_engines.export.sources import CheckpointSource
from heliostat_engines.families import get_family
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_trainer.policy.policy import Policy

Copy = Callable[..., Path]


@pytest.fixture
def copied(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Copy:
    """copied(FAMILY, FILE, FIELD=VALUE, ...): its tiny checkpoint with those fields changed."""

    def copy(family: str, file: str, **fields: object) -> Path:
        folder = tmp_path / family
        shutil.copytree(tiny_checkpoint(family), folder)
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return copy


@pytest.mark.parametrize(
    ("family", "file", "field", "value", "words"),
    [
        ("flux", "transformer", "guidance_embeds", False, "is the family flux-schnell"),
        ("flux-schnell", "transformer", "guidance_embeds", True, "is the family flux"),
        ("flux", "transformer", "in_channels", 384, "driven with 64"),
        ("flux", "transformer", "patch_size", 2, "driven with 1"),
        ("flux", "scheduler", "use_dynamic_shifting", False, "driven with true"),
        ("flux", "scheduler", "max_shift", 1.5, "driven with 1.15"),
        ("flux-schnell", "scheduler", "shift", 3.0, "driven with 1.0"),
        ("sana", "transformer", "guidance_embeds", True, "SANA-Sprint"),
        ("sana", "transformer", "in_channels", 16, "driven with 32"),
        ("sana", "transformer", "patch_size", 2, "driven with 1"),
        ("sana", "scheduler", "prediction_type", "epsilon", 'driven with "flow_prediction"'),
        ("sd3.5-large", "transformer", "in_channels", 32, "driven with 16"),
        ("sd3.5-large", "transformer", "patch_size", 4, "driven with 2"),
        ("sd3.5-medium", "transformer", "pos_embed_max_size", 48, "at least 96"),
        ("sd3.5-medium", "scheduler", "shift", 1.0, "driven with 3.0"),
        ("demo", "transformer", "joint_attention_dim", 512, "driven with 384"),
    ],
)
def test_a_field_that_the_driver_is_not_made_for(
    copied: Copy, family: str, file: str, field: str, value: object, words: str
) -> None:
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    folder = copied(family, f"{file}/{name}", **{field: value})
    for load in (
        lambda: get_family(family).load_transformer(str(folder), torch.bfloat16),
        lambda: TorchEngine(get_family(family), str(folder)),
        lambda: CheckpointSource(get_family(family), folder),
    ):
        with pytest.raises(CheckpointError) as refused:
            load()
        sentence = str(refused.value)
        assert sentence.startswith(f"{folder}/{file}/{name}: {field} = {json.dumps(value)}, and")
        assert words in sentence


def test_the_trainer_refuses_too(copied: Copy) -> None:
    folder = copied("flux", "transformer/config.json", guidance_embeds=False)
    with pytest.raises(CheckpointError, match=r"is the family flux-schnell$"):
        Policy(
            get_family("flux"),
            str(folder),
            {},
            rank=4,
            alpha=4,
            seed=0,
            device=torch.device("cpu"),
        )


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("flux", "latent_channels", 4),
        ("sd3.5-large", "scaling_factor", None),
        ("sd3.5-large", "latents_mean", [0.0]),
        ("demo", "block_out_channels", [8, 8]),
        ("sana", "latent_channels", 16),
        ("sana", "scaling_factor", None),
    ],
)
def test_an_autoencoder_of_other_latents(
    copied: Copy, family: str, field: str, value: object
) -> None:
    folder = copied(family, "vae/config.json", **{field: value})
    with pytest.raises(CheckpointError, match=f"{folder}/vae/config.json: {field} = "):
        get_family(family).load_decoder(str(folder))


def test_an_autoencoder_without_a_shift_has_none(copied: Copy) -> None:
    folder = copied("flux", "vae/config.json", shift_factor=None)
    latents = torch.zeros(1, 16, 4, 4)
    assert get_family("flux").load_decoder(str(folder)).decode(latents).isfinite().all()


@pytest.mark.parametrize(
    ("family", "field"),
    [
        ("flux", "joint_attention_dim"),
        ("flux", "pooled_projection_dim"),
        ("sana", "caption_channels"),
        ("sd3.5-large", "joint_attention_dim"),
        ("sd3.5-large", "pooled_projection_dim"),
    ],
)
def test_text_encoders_of_another_width(copied: Copy, family: str, field: str) -> None:
    folder = copied(family, "transformer/config.json", **{field: 7})
    with pytest.raises(CheckpointError, match=f"{field} = 7, and the checkpoint's text encoders"):
        get_family(family).load_text_encoder(str(folder))


def test_a_trainer_may_have_the_transformer_alone(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint("flux") / "transformer", tmp_path / "transformer")
    assert get_family("flux").load_transformer(str(tmp_path), torch.bfloat16)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", ", line 1, column 2: this is not JSON"), ("[]", " is no JSON object")],
)
def test_a_configuration_that_is_damaged(copied: Copy, text: str, problem: str) -> None:
    folder = copied("flux", "transformer/config.json")
    (folder / "transformer" / "config.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=rf"transformer/config.json{problem}.*: download it again"
    ):
        get_family("flux").load_transformer(str(folder), torch.bfloat16)
