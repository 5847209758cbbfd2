"""`recipe.explore_decoder` decodes what is explored, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.folder.layout import RunFolder
from tests.trainer.test_loop import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig
    from tests.trainer.fake_server import FakeServer

    Configure = Callable[..., TrainConfig]

TINY = ("--run.steps", "1", "--recipe.explore_decoder", "tiny")


@pytest.mark.slow
def test_redraws_evaluations_and_pictures_are_decoded_in_full(
    configure: Configure, server: FakeServer
) -> None:
    run(configure(*TINY), server)
    assert {request.decoder for request in server.explored} == {DecoderName.TINY}
    assert set(server.decoded_with) == {DecoderName.FULL}


@pytest.mark.slow
def test_what_the_trainer_explores_is_decoded_as_the_server_would(
    configure: Configure, server: FakeServer
) -> None:
    run(configure(*TINY, "--recipe.name", "bf16_explore"), server)
    assert set(server.decoded_with) == {DecoderName.FULL, DecoderName.TINY}


@pytest.mark.slow
def test_candidates_that_are_trained_on_are_decoded_in_full(
    configure: Configure, server: FakeServer
) -> None:
    run(configure(*TINY, "--recipe.name", "naive_quant"), server)
    assert {request.decoder for request in server.explored} == {DecoderName.FULL}


@pytest.mark.slow
def test_a_run_of_before_there_was_a_choice_goes_on_in_full(
    configure: Configure, server: FakeServer
) -> None:
    config = configure("--run.steps", "1")
    run(config, server)
    path = RunFolder(config.run.path).run_file
    content = json.loads(path.read_text())
    assert content["config"]["recipe"].pop("explore_decoder") == "full"
    path.write_text(json.dumps(content))
    run(configure("--run.steps", "2"), server, resume=True)
    assert {request.decoder for request in server.explored} == {DecoderName.FULL}
