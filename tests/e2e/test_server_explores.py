"""What a real tritonserver answers equals what the same engine gives in this process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
import torch

from heliostat_engines.adapters import AdapterFiles, pack_adapter, parse_adapter
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import SAMPLERS, cut_after, guided
from heliostat_engines.sampling.noise import initial_noise
from heliostat_engines.sampling.solvers import Solver
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.rewards.computed.colourfulness import Colourfulness
from heliostat_server.rewards.images import to_uint8
from heliostat_server.rewards.published.clip import ClipTower
from heliostat_server.settings import ServeSettings
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import RolloutClient, StreamError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.e2e.conftest import ServerHarness

BATCH = 4
PROMPT = "a red cat"


class InProcess:
    """The same computation without a server."""

    def __init__(self, checkpoint: Path) -> None:
        self.family = get_family("demo")
        self.engine = TorchEngine(self.family, str(checkpoint), max_rank=8)
        self.encoder = self.family.load_text_encoder(str(checkpoint))
        self.decoders = {
            name: self.family.load_decoder(str(checkpoint), name) for name in DecoderName
        }

    @torch.inference_mode()
    def latents(
        self,
        seeds: Sequence[int],
        *,
        steps: int = 2,
        score_after: int | None = None,
        solver: Solver = Solver.EULER,
        adapter: str | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        velocities = [
            partial(
                self.engine.velocity,
                conditioning=self.encoder.encode([text]).repeat(BATCH),
                adapter=adapter,
            )
            for text in (PROMPT, "")
        ]
        noise = initial_noise(seeds, self.family.latent_shape(64))
        sigmas = cut_after(self.family.sigmas(steps, 64), score_after or steps)
        return SAMPLERS[solver](guided(*velocities, guidance), noise, sigmas)

    def images(
        self, latents: torch.Tensor, decoder: DecoderName = DecoderName.FULL
    ) -> torch.Tensor:
        return self.decoders[decoder].decode(latents)

    def colourfulness(
        self, latents: torch.Tensor, decoder: DecoderName = DecoderName.FULL
    ) -> np.ndarray:
        images = self.images(latents, decoder)
        prompts = [PROMPT] * len(images)
        return Colourfulness().score(images, prompts, self.encoder.encode(prompts)).numpy()


@pytest.fixture(scope="module")
def in_process(demo_checkpoint: Path) -> InProcess:
    return InProcess(demo_checkpoint)


def published(client: RolloutClient, experiment: str, seed: int = 0) -> AdapterFiles:
    files = random_adapter(client.targets(), seed=seed)
    client.publish(files, experiment)
    return files


def test_info_says_what_the_server_is(client: RolloutClient) -> None:
    info = client.info("never-published")
    assert (info.engine.family, info.engine.precision, info.engine.max_rank) == ("demo", "nvfp4", 8)
    assert info.engine.nvfp4_linears > 0
    assert info.engine.resolution_px == 64
    assert info.limits.batch == BATCH
    assert {"colourfulness", "jpeg_compressibility"} <= set(info.rewards)
    assert info.latest_version == 0


def test_an_early_score_is_of_the_prediction_as_in_process(
    client: RolloutClient, in_process: InProcess
) -> None:
    assert client.info().scores_early
    seeds = [7, 2**31 + 5, 0, 12]
    (early,) = client.explore(seeds, steps=3, scoreAfter=2, returnLatents=True)
    latents = in_process.latents(seeds, steps=3, score_after=2)
    np.testing.assert_array_equal(early["LATENTS"], latents.numpy())
    np.testing.assert_array_equal(early["REWARDS"][:, 0], in_process.colourfulness(latents))
    whole, plain = (client.rewards(seeds, steps=3, **more) for more in ({"scoreAfter": 3}, {}))
    np.testing.assert_array_equal(whole, plain)
    assert not np.array_equal(early["REWARDS"], plain)


def test_the_second_order_solver_draws_as_in_process(
    client: RolloutClient, in_process: InProcess
) -> None:
    assert list(client.info().solvers) == list(Solver)
    seeds = [7, 2**31 + 5, 0, 12]
    (answer,) = client.explore(seeds, steps=5, solver="dpm2m", returnLatents=True)
    latents = in_process.latents(seeds, steps=5, solver=Solver.DPM2M)
    np.testing.assert_array_equal(answer["LATENTS"], latents.numpy())
    assert not torch.equal(latents, in_process.latents(seeds, steps=5))


def test_the_decoder_asked_for_decodes_as_in_process(
    client: RolloutClient, in_process: InProcess
) -> None:
    assert list(client.info().decoders) == list(DecoderName)
    seeds = [7, 2**31 + 5, 0, 12]
    latents = in_process.latents(seeds)
    found = {}
    for decoder in DecoderName:
        rewards = client.rewards(seeds, decoder=decoder)
        np.testing.assert_array_equal(rewards[:, 0], in_process.colourfulness(latents, decoder))
        answer = client.score(
            latents.numpy(), prompts=[PROMPT], rewards=["colourfulness"], decoder=decoder
        )
        np.testing.assert_allclose(answer["REWARDS"], rewards, rtol=1e-5)
        found[decoder] = rewards
    assert not np.array_equal(*found.values())


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_base_model_draws_as_in_process(
    client: RolloutClient, in_process: InProcess, guidance: float
) -> None:
    seeds = [7, 2**31 + 5, 0, 12]
    (answer,) = client.explore(seeds, guidance=guidance, returnLatents=True)
    latents = in_process.latents(seeds, guidance=guidance)
    assert answer["SEEDS"].tolist() == seeds
    assert answer["VERSION"].tolist() == [0]
    np.testing.assert_array_equal(answer["LATENTS"], latents.numpy())
    np.testing.assert_array_equal(answer["REWARDS"][:, 0], in_process.colourfulness(latents))


def test_a_published_adapter_draws_as_in_process(
    client: RolloutClient, in_process: InProcess
) -> None:
    files = random_adapter(client.targets())
    answer = client.publish(files, "as-in-process")
    assert (answer.version, answer.sha256) == (1, files.sha256)
    assert answer.bound_modules == answer.target_modules == len(client.targets())
    assert client.info("as-in-process").latest_version == 1
    in_process.engine.make_resident(parse_adapter(files))
    rewards = {
        version: client.rewards(range(BATCH), experiment="as-in-process", version=version)
        for version in (0, 1)
    }
    expected = in_process.latents(range(BATCH), adapter=files.sha256)
    np.testing.assert_array_equal(rewards[1][:, 0], in_process.colourfulness(expected))
    assert (rewards[1] != rewards[0]).any()


def test_a_reward_does_not_depend_on_how_requests_are_split(client: RolloutClient) -> None:
    rewards = ["colourfulness", "jpeg_compressibility"]
    whole = client.rewards(range(12), rewards=rewards)
    parts = [client.rewards(range(start, start + 4), rewards=rewards) for start in (8, 0, 4)]
    np.testing.assert_array_equal(whole, np.concatenate([parts[1], parts[2], parts[0]]))


def test_answers_stream_as_batches_finish(client: RolloutClient) -> None:
    answers = client.explore(range(12))
    assert [answer["SEEDS"].tolist() for answer in answers] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


def test_every_version_kept_is_drawn_as_itself(client: RolloutClient) -> None:
    drawn = {}
    for version in range(1, 5):
        published(client, "versions", seed=version)
        drawn[version] = client.rewards(range(4), experiment="versions", version=version)
    for version in (2, 3, 4):
        again = client.rewards(range(4), experiment="versions", version=version)
        np.testing.assert_array_equal(again, drawn[version])
    with pytest.raises(StreamError) as caught:
        client.explore(range(4), experiment="versions", version=1)
    assert caught.value.code == "NOT_FOUND"
    assert "only 2, 3, 4" in caught.value.sentence


def test_score_decodes_and_rewards_latents(client: RolloutClient, in_process: InProcess) -> None:
    latents = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    answer = client.score(
        latents.numpy(),
        prompts=[PROMPT, "b", "c"],
        rewards=["colourfulness"],
        returnImages=True,
    )
    expected = in_process.images(latents)
    np.testing.assert_allclose(
        answer["REWARDS"][:, 0], in_process.colourfulness(latents), rtol=1e-5
    )
    difference = answer["IMAGES"].astype(int) - to_uint8(expected).numpy().astype(int)
    assert abs(difference).max() <= 1


def test_rewards_that_the_settings_define_are_explored_by(
    client: RolloutClient, in_process: InProcess, clip_checkpoint: Path
) -> None:
    assert {"tiny_clip", "mix", "pickscore"} <= set(client.info("never-published").rewards)
    rewards = client.rewards(range(BATCH), rewards=["mix", "tiny_clip", "colourfulness"])
    images = in_process.images(in_process.latents(range(BATCH)))
    tower = ClipTower.load(clip_checkpoint, clip_checkpoint, "cpu", "float32")
    expected = tower.cosine(images, [PROMPT] * BATCH).numpy()
    np.testing.assert_allclose(rewards[:, 1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rewards[:, 0], 2 * rewards[:, 1] - rewards[:, 2], rtol=1e-5)


def test_weights_that_are_missing_are_said_in_a_sentence(client: RolloutClient) -> None:
    with pytest.raises(StreamError) as caught:
        client.explore(range(BATCH), rewards=["gone"])
    assert "gone: there is no folder /nowhere/pickscore" in caught.value.sentence


def test_score_gives_images_without_rewards(client: RolloutClient) -> None:
    answer = client.score(np.zeros((2, 16, 8, 8), np.float32), prompts=["x"], returnImages=True)
    assert answer["IMAGES"].shape == (2, 64, 64, 3)
    assert answer["REWARDS"].shape == (2, 0)


def test_the_text_encoder_is_the_familys(client: RolloutClient, in_process: InProcess) -> None:
    answer = client.encode([PROMPT, ""])
    expected = in_process.encoder.encode([PROMPT, ""])
    np.testing.assert_allclose(answer["TOKENS"], expected.tokens.numpy(), atol=1e-5)
    np.testing.assert_allclose(answer["POOLED"], expected.pooled.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("seeds", "spec", "code", "message"),
    [
        (range(7), {}, "INVALID_ARGUMENT", "7 seeds are no multiple of the server's batch 4"),
        (range(4), {"rewards": ["beauty"]}, "INVALID_ARGUMENT", "no reward 'beauty'"),
        (range(4), {"decoder": "small"}, "INVALID_ARGUMENT", "no decoder 'small' here: give full"),
        (range(4), {"prompt": ""}, "INVALID_ARGUMENT", "the prompt is empty"),
        (range(4), {"steps": 1000}, "INVALID_ARGUMENT", "ask for 1 to 200"),
        (range(4), {"version": 3}, "NOT_FOUND", "has published no adapter"),
    ],
)
def test_rollouts_are_refused_in_a_sentence(
    client: RolloutClient, seeds: Sequence[int], spec: dict[str, object], code: str, message: str
) -> None:
    with pytest.raises(StreamError) as caught:
        client.explore(list(seeds), **({"experiment": "refused"} | spec))
    assert caught.value.code == code
    assert message in caught.value.sentence


def adapters_to_refuse(targets: dict[str, tuple[int, int]]) -> dict[str, AdapterFiles]:
    whole = random_adapter(targets)
    zeros = {
        name: (torch.randn(4, inputs), torch.full((outputs, 4), 1e-30))
        for name, (inputs, outputs) in targets.items()
    }
    return {
        "no whole safetensors file": AdapterFiles(whole.config, whole.tensors[:-100]),
        "has rank 9, the server takes up to 8": random_adapter(targets, rank=9),
        "bound 3 of ": random_adapter(dict(list(targets.items())[:3])),
        "unknown to this model: other": random_adapter({**targets, "other": (8, 8)}),
        "stays the base": pack_adapter(zeros, alpha=4.0),
    }


def test_adapters_are_refused_and_leave_nothing_behind(client: RolloutClient) -> None:
    for message, files in adapters_to_refuse(client.targets()).items():
        with pytest.raises(grpc.RpcError) as caught:
            client.publish(files, "refused")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert message in caught.value.details()
    with pytest.raises(grpc.RpcError, match="its header says"):
        client.publish(random_adapter(client.targets()), "refused", sha256="0" * 64)
    assert client.info("refused").latest_version == 0


def test_a_control_plane_may_stand_before_another_triton(
    server: ServerHarness, tmp_path: Path
) -> None:
    settings = ServeSettings(
        state=tmp_path / "control",
        port=0,
        http_port=0,
        admin_token_file=StateFolder(server.settings.state).admin_token,
        triton_url=server.record.rollout,
        redis=f"unix://{StateFolder(server.settings.state).path / 'redis.sock'}",
    )
    with background_server(settings) as record:
        assert record.control is not None
        client = RolloutClient(settings.triton_url or "", record.control, server.admin_token)
        assert client.info().limits.batch == BATCH
        assert client.publish(random_adapter(client.targets()), "other-control").version == 1
        client.close()
    assert len(server.processes()) == 6


def test_scores_take_few_bytes_on_the_wire(client: RolloutClient) -> None:
    client.wire_bytes = 0
    client.explore(range(48), steps=1)
    assert client.wire_bytes / 48 <= 96  # Batches of 4; the budget of 64 is for 24 and more.
