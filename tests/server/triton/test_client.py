"""What the control plane makes of the errors that Triton, or a model within it, answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from heliostat_engines.errors import HeliostatError
from heliostat_proto.rollout_pb2 import RolloutSpec
from heliostat_server.errors import ModelError, NotFoundError, RequestError, UnavailableError
from heliostat_server.triton.client import TritonClient, TritonEndpoint
from tests.trainer.rollouts.fake_wire import WireServer

if TYPE_CHECKING:
    from collections.abc import Iterator

LATENTS = np.zeros((1, 2, 2), np.float32)


@pytest.fixture
def wire() -> Iterator[WireServer]:
    with WireServer() as server:
        yield server


@pytest.fixture
def client(wire: WireServer) -> Iterator[TritonClient]:
    with TritonClient(TritonEndpoint(f"127.0.0.1:{wire.triton_port}"), "admin") as client:
        yield client


def draw(client: TritonClient) -> None:
    client.draw(RolloutSpec(experiment="e", prompt="x", rewards=["judge"]), [1, 2], 5.0)


@pytest.mark.parametrize(
    ("told", "kind", "sentence"),
    [
        ("[NOT_FOUND] there is no version 3", NotFoundError, "^there is no version 3$"),
        ("[INVALID_ARGUMENT] no steps", RequestError, "^no steps$"),
        ("[INTERNAL] a reward is NaN", ModelError, "^a reward is NaN$"),
        ("Stub process 'x_0' is not healthy.", UnavailableError, "'x_0' is not healthy.*try again"),
        ("words that nobody foresaw", UnavailableError, "nobody foresaw"),
    ],
)
def test_an_error_is_what_its_code_says_and_without_one_the_engine_is_not_there(
    wire: WireServer, client: TritonClient, told: str, kind: type[HeliostatError], sentence: str
) -> None:
    wire.faults.score = [told]
    with pytest.raises(kind, match=sentence):
        client.decode(LATENTS, "x", 5.0)
    wire.faults.streams = [lambda _: told]
    with pytest.raises(kind, match=sentence):
        draw(client)


def test_latents_come_in_the_order_of_the_seeds(client: TritonClient) -> None:
    spec = RolloutSpec(experiment="e", prompt="x", rewards=["judge"])
    assert client.draw(spec, [7, 3, 5], 5.0)[:, 0, 0].tolist() == [7, 3, 5]


def test_a_server_that_is_gone_is_not_there(wire: WireServer, client: TritonClient) -> None:
    wire.stop()
    with pytest.raises(UnavailableError, match="try again in a few seconds"):
        client.decode(LATENTS, "x", 5.0)
