"""A real tritonserver explores with a family unlike the demo: masked text, nothing pooled."""

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
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = [3, 4]


@pytest.mark.slow
def test_sana_is_served_as_in_process(tmp_path: Path) -> None:
    family, checkpoint = get_family("sana"), str(tmp_path / "checkpoint")
    family.write_tiny_checkpoint(tmp_path / "checkpoint")
    resolution_px = family.resolutions.smallest_px
    settings = ServeSettings(
        family=family.name,
        checkpoint=checkpoint,
        resolution_px=resolution_px,
        state=tmp_path / "state",
        limits=LimitSettings(batch=len(SEEDS)),
        max_rank=8,
        threads=1,
        port=0,
        http_port=0,
    )
    with background_server(settings):
        record = StateFolder(settings.state).read_record()
        assert record is not None
        assert record.rollout is not None
        assert record.control is not None
        client = RolloutClient(
            record.rollout, record.control, StateFolder(settings.state).read_admin_token()
        )
        files = random_adapter(client.targets())
        version = client.publish(files).version
        (answer,) = client.explore(SEEDS, version=version, returnLatents=True)
        client.close()
    engine = TorchEngine(family, checkpoint, max_rank=8)
    adapter = parse_adapter(files)
    engine.make_resident(adapter)
    encoder = family.load_text_encoder(checkpoint).to("cpu")  # in the CPU's arithmetic, as served
    conditioning = encoder.encode(["a red cat"]).repeat(len(SEEDS))
    expected = sample_euler(
        partial(engine.velocity, conditioning=conditioning, adapter=adapter.sha256),
        initial_noise(SEEDS, family.latent_shape(resolution_px)),
        family.sigmas(2, resolution_px),
    )
    np.testing.assert_array_equal(answer["LATENTS"], expected.numpy())
    assert torch.isfinite(torch.from_numpy(answer["REWARDS"])).all()
