"""What does not fit the server is said before anything is drawn, with the place to mend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heliostat_trainer.errors import ConfigError, ServerRefusedError
from heliostat_trainer.prompts.places import place_of
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.rewards import RewardSum
from heliostat_trainer.rollouts import handshake
from heliostat_trainer.rollouts.client import RolloutClient
from heliostat_trainer.rollouts.connection import Caller
from heliostat_trainer.rollouts.handshake import (
    check_against_server,
    check_decisions,
    checkpoint_warnings,
)
from heliostat_trainer.rollouts.tokens import GivenTokens
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.tuning import Decision, Shape
from heliostat_trainer.types import GroupRequest
from heliostat_wire.version import WireVersion
from tests.trainer.conftest import HELDOUT, PROMPTS
from tests.trainer.test_loop import run

if TYPE_CHECKING:
    from tests.trainer.fake_server import FakeServer
    from tests.trainer.rollouts.fake_wire import WireServer

Configure = Callable[..., TrainConfig]


def test_a_prompt_that_a_reward_refuses_is_named_before_the_first_step(
    configure: Configure, server: FakeServer
) -> None:
    config = configure()
    server.refuses = {"warmth": PROMPTS[1]}
    with pytest.raises(
        ConfigError, match=r"prompts\.train: .*train\.txt, line 2: the reward warmth"
    ):
        run(config, server)
    assert not server.explored
    assert not server.scored
    assert server.version == 0


def test_a_held_out_prompt_is_checked_by_all_rewards_and_a_train_prompt_by_those_trained_on(
    configure: Configure, server: FakeServer
) -> None:
    server.refuses = {"contrast": HELDOUT[0]}
    with pytest.raises(
        ConfigError, match=r"prompts\.heldout: .*heldout\.txt, line 1: the reward con"
    ):
        run(configure(), server)
    server.refuses = {"contrast": PROMPTS[0]}
    run(configure("--run.steps", "1"), server)


def test_how_many_more_are_refused_is_said(configure: Configure, server: FakeServer) -> None:
    server.refuses = {"warmth": " "}
    refused = sum(" " in prompt for prompt in PROMPTS)
    with pytest.raises(ConfigError, match=rf"and so with {refused - 1} more"):
        run(configure(), server)


def test_a_prompt_that_is_too_long_is_named_by_file_and_line(
    configure: Configure, server: FakeServer
) -> None:
    config = configure()
    prompts = read_prompt_sets(config)
    long = max(prompts.train, key=len)
    line = PROMPTS.index(long) + 1
    info = replace(server.info(), max_prompt_chars=len(long) - 1)
    sentence = rf"train\.txt, line {line}: the server takes .* {len(long) - 1} characters, this one"
    with pytest.raises(ConfigError, match=sentence):
        check_against_server(config, info, prompts, 64)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"batch": 3}, "in multiples of 3 .* recipe.candidates = 9 or 12, or have these limits"),
        ({"max_seeds": 9}, "and up to 9: begin a run with recipe.candidates = 8, or have"),
        ({"batch": 3, "max_seeds": 11}, "recipe.candidates = 9, or have"),
        (
            {"max_queued_images": 9},
            r"up to 9 \(max_queued_images, the experiment's or the server's\): begin .* = 8,",
        ),
        ({"batch": 16, "max_seeds": 12}, "and up to 12: have these limits changed on the server$"),
    ],
)
def test_a_number_of_candidates_that_is_not_drawn_is_said_in_one_way(
    configure: Configure, server: FakeServer, limits: dict[str, int], said: str
) -> None:
    config = configure("--recipe.candidates", "10")
    info = replace(server.info(), **{"batch": 2} | limits)
    decided = Decision(5, Shape(prompts=2, candidates=10, keep_pairs=2, score_after=1), "")
    fitting = replace(info, batch=5, max_seeds=10, max_queued_images=None)
    check_decisions([decided], 5, fitting)
    told = []
    for check in (
        lambda: check_against_server(config, info, read_prompt_sets(config), 64),
        lambda: check_decisions([decided], 5, info),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            check()
        told.append(str(error.value).partition(", but ")[2])
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", "# a cat\n\n  a cat \r\na dog\n", 3),
        ("b.txt", "\ufeffa cat\n", 1),
        ("c.jsonl", '{"prompt": "a dog"}\n\n{"prompt": " a cat", "metadata": 1}\n', 3),
        ("d.jsonl", '{"prompt": "a\\u0020cat"}', 1),
    ],
)
def test_a_prompts_place_is_its_file_and_line(
    tmp_path: Path, name: str, content: str, line: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert place_of("a cat", path) == f"{path}, line {line}"
    assert place_of("no such prompt", path) == str(path)
    assert place_of("a cat", tmp_path / "gone.txt") == str(tmp_path / "gone.txt")


def test_a_server_without_the_decoder_is_refused_whoever_explores(
    configure: Configure, server: FakeServer
) -> None:
    sentence = (
        r"recipe\.explore_decoder = 'tiny', but the server \(version 0\) decodes with full alone: "
        "leave it out, or start a newer server that finds one in its checkpoint's folder vae_tiny"
    )
    for decoders in ((), ("full",)):
        server.decoders = decoders
        for recipe in ("sol_rl", "bf16_explore"):
            config = configure("--recipe.name", recipe, "--recipe.explore_decoder", "tiny")
            with pytest.raises(ConfigError, match=sentence):
                check_against_server(config, server.info(), read_prompt_sets(config), 64)
        for settings in ((), ("--recipe.name", "naive_quant", "--recipe.explore_decoder", "tiny")):
            config = configure(*settings)
            check_against_server(config, server.info(), read_prompt_sets(config), 64)


def test_a_server_that_has_a_tiny_decoder_alone_serves_runs_that_name_none(
    configure: Configure, server: FakeServer
) -> None:
    info = replace(server.info(), decoders=("tiny",))
    for settings in ((), ("--recipe.explore_decoder", "tiny")):
        config = configure(*settings)
        check_against_server(config, info, read_prompt_sets(config), 64)


def test_weights_are_told_apart_by_digest_not_by_path(server: FakeServer) -> None:
    info = replace(server.info(), checkpoint="/there/weights", weights_digest="aa")
    assert checkpoint_warnings("/here/weights", "aa", info) == ()
    (sentence,) = checkpoint_warnings("/there/weights", "bb", info)
    assert "the server explores with other weights (/there/weights)" in sentence
    assert "set model.checkpoint" in sentence


def test_without_a_digest_on_either_side_names_are_compared(server: FakeServer) -> None:
    for theirs, ours in (("", "aa"), ("aa", ""), ("", "")):
        info = replace(server.info(), checkpoint="/there/weights", weights_digest=theirs)
        assert checkpoint_warnings("/there/weights", ours, info) == ()
        (sentence,) = checkpoint_warnings("/here/weights", ours, info)
        assert "make sure that they hold the same weights" in sentence


def test_the_server_says_the_digest_of_what_it_loaded(server: FakeServer) -> None:
    assert len(server.engine.describe().weights_digest) == 64


@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        (WireVersion(3, 2), (0, 0), "the server .* is older than heliostat here"),
        (WireVersion(3, 2), (9, 4), "heliostat here is older than the server"),
    ],
)
def test_a_server_whose_wire_is_not_understood_is_refused(
    wire: WireServer,
    monkeypatch: pytest.MonkeyPatch,
    ours: WireVersion,
    theirs: tuple[int, int],
    says: str,
) -> None:
    monkeypatch.setattr(handshake, "OURS", ours)
    wire.wire_version, wire.oldest_wire_version = theirs
    with (
        RolloutClient.at(wire.url, Caller("mine", GivenTokens("admin"))) as client,
        pytest.raises(ServerRefusedError, match=f"{wire.url}: {says}"),
    ):
        client.info()


def test_a_newer_server_that_understands_us_is_used(
    wire: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "OURS", WireVersion(3, 2))
    wire.wire_version, wire.oldest_wire_version = 9, 3
    with RolloutClient.at(wire.url, Caller("mine", GivenTokens("admin"))) as client:
        assert client.info().family == "demo"


def test_a_server_that_is_replaced_by_one_that_is_not_understood_is_refused(
    wire: WireServer,
) -> None:
    with RolloutClient.at(wire.url, Caller("mine", GivenTokens("admin"))) as client:
        client.info()
        wire.wire_version = wire.oldest_wire_version = 9
        with pytest.raises(ServerRefusedError, match="update heliostat here"):
            list(client.explore([GroupRequest(0, "p", (1, 2), 2, RewardSum.single("judge"))]))
