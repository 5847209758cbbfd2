"""A real tritonserver whose transformer torch has compiled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from heliostat_engines.adapters import parse_adapter
from heliostat_engines.families import get_family
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import LimitSettings, ServeSettings
from tests.compiler import needs_compiler
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = [3, 4]


@pytest.mark.slow
@needs_compiler
def test_what_is_compiled_is_served_as_torch_draws(tmp_path: Path) -> None:
    family, checkpoint = get_family("demo"), str(tmp_path / "checkpoint")
    family.write_tiny_checkpoint(tmp_path / "checkpoint")
    settings = ServeSettings(
        checkpoint=checkpoint,
        runtime="torch-compile",
        device="cpu",
        state=tmp_path / "state",
        limits=LimitSettings(batch=len(SEEDS)),
        max_rank=8,
        threads=1,
        port=0,
        http_port=0,
    )
    told: list[str] = []
    with background_server(settings, told.append):
        record = StateFolder(settings.state).read_record()
        assert record is not None
        assert record.rollout is not None
        assert record.control is not None
        client = RolloutClient(
            record.rollout, record.control, StateFolder(settings.state).read_admin_token()
        )
        assert client.info().engine.runtime == "torch-compile"
        files = random_adapter(client.targets())
        version = client.publish(files).version
        served = [
            client.explore(SEEDS, version=each, returnLatents=True)[0]["LATENTS"]
            for each in (version, 0, version)
        ]
        client.close()
    assert any("compiled 0 of 1 sizes of images" in each for each in told)
    assert np.array_equal(served[0], served[2])
    assert not np.array_equal(served[0], served[1])
    engine = TorchEngine(family, checkpoint, max_rank=8)
    adapter = parse_adapter(files)
    engine.make_resident(adapter)
    conditioning = family.load_text_encoder(checkpoint).encode(["a red cat"]).repeat(len(SEEDS))
    noise = initial_noise(SEEDS, family.latent_shape(family.default_resolution_px))
    sigmas = family.sigmas(2, family.default_resolution_px)
    for latents, sha256 in ((served[0], adapter.sha256), (served[1], None)):
        velocity = partial(engine.velocity, conditioning=conditioning, adapter=sha256)
        expected = sample_euler(velocity, noise, sigmas)
        error = (torch.from_numpy(latents) - expected).norm() / expected.norm()
        assert error < 0.02
