"""The client against real gRPC endpoints that fail to order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
import torch

from heliostat_engines.adapters import AdapterFiles, pack_adapter
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import SecretError
from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.errors import (
    PatienceEndedError,
    ServerRefusedError,
    TokenRefusedError,
)
from heliostat_trainer.rewards import Normalise, RewardSum
from heliostat_trainer.rollouts import client as module
from heliostat_trainer.rollouts.client import RolloutClient
from heliostat_trainer.rollouts.connection import Caller
from heliostat_trainer.rollouts.service import Told
from heliostat_trainer.rollouts.tokens import GivenTokens, RunTokens
from heliostat_trainer.types import Group, GroupRequest
from heliostat_wire.steps import StepReport
from tests.trainer.rollouts.fake_wire import WireServer, reward_of
from tests.wire.test_steps import REPORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADMIN = GivenTokens("admin")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def client(wire: WireServer, said: list[str]) -> Iterator[RolloutClient]:
    with RolloutClient.at(
        wire.url, Caller("mine", tokens=ADMIN, patience_s=5, groups_in_flight=2, say=said.append)
    ) as it:
        yield it


def adapter(rank: int = 2, fill: float = 1.0) -> AdapterFiles:
    return pack_adapter({"a.to_q": (torch.full((rank, 4), fill), torch.ones(6, rank))}, alpha=4)


def requests(count: int = 5, seeds: int = 6, **more) -> list[GroupRequest]:
    return [
        GroupRequest(
            row,
            f"p{row}",
            tuple(range(100 * row, 100 * row + seeds)),
            2,
            RewardSum.single("judge"),
            **more,
        )
        for row in range(count)
    ]


def check(groups: list[Group], asked: list[GroupRequest]) -> None:
    assert sorted(group.request.row for group in groups) == [one.row for one in asked]
    for group in groups:
        assert [one.seed for one in group.candidates] == list(group.request.seeds)
        assert [one.reward for one in group.candidates] == [
            reward_of(s) for s in group.request.seeds
        ]


def abort(context) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "going away")


def test_several_rewards_come_in_the_order_asked_for_and_are_combined(
    client: RolloutClient,
) -> None:
    reward = RewardSum(("judge", "other"), (1.0, -0.25), Normalise.NONE)
    (group,) = client.explore([replace(requests(1)[0], reward=reward)])
    truth = np.array([reward_of(seed) for seed in group.request.seeds], np.float32)
    assert group.parts is not None
    np.testing.assert_array_equal(group.parts, np.stack([truth, 2 * truth], axis=1))
    np.testing.assert_allclose(group.rewards, truth / 2, rtol=1e-6)


def test_info_is_read(client: RolloutClient) -> None:
    info = client.info()
    assert info.lora_targets == {"a.to_q": (4, 6)}
    assert (info.batch, info.max_rank, info.rewards) == (2, 8, ("judge",))
    assert (info.max_queued_images, info.most_candidates) == (None, 100)


def test_a_size_is_asked_for_where_it_is_not_the_servers_own(
    client: RolloutClient, wire: WireServer
) -> None:
    assert client.info().sizes == (64, (832, 1216))
    for size in ((832, 1216), 64, None):
        list(client.explore(requests(1, resolution_px=size)))
    asked = [(spec.get("widthPx"), spec.get("heightPx")) for spec in wire.specs]
    assert asked == [(832, 1216), (None, None), (None, None)]


@pytest.mark.parametrize(("queued", "most"), [(64, 64), (1000, 100)])
def test_a_request_is_no_larger_than_what_may_wait(
    client: RolloutClient, wire: WireServer, queued: int, most: int
) -> None:
    wire.max_queued_images = queued
    assert client.info().most_candidates == most


def test_groups_arrive_whole_and_at_once(client: RolloutClient, wire: WireServer) -> None:
    published = client.publish(adapter())
    assert (published.version, published.sha256) == (1, adapter().sha256)
    asked = requests()
    check(list(client.explore(asked, published)), asked)
    assert {version for _, _, version in wire.asked} == {1}


def test_a_large_adapter_travels_in_chunks(client: RolloutClient, wire: WireServer) -> None:
    wide = {"a.to_q": (torch.ones(8, 200_000), torch.ones(6, 8))}
    files = pack_adapter(wide, alpha=8)
    client.publish(files)
    assert wire.published[0] == files


def test_latents_come_in_the_order_of_the_seeds(client: RolloutClient) -> None:
    for group in client.explore(requests(2, return_latents=True)):
        assert group.latents is not None
        assert group.latents[:, 0, 0].tolist() == [float(seed) for seed in group.request.seeds]


def test_before_the_first_publish_the_base_model_draws(
    client: RolloutClient, wire: WireServer
) -> None:
    list(client.explore(requests(1)))
    assert wire.asked[0][2] == 0


def test_scores_go_in_batches_with_their_prompts(client: RolloutClient, wire: WireServer) -> None:
    latents = torch.arange(5.0).view(5, 1, 1, 1)
    scores = client.score(latents, list("abcde"), ["judge", "judge"], return_images=True)
    assert scores.rewards.tolist() == [[float(row)] * 2 for row in range(5)]
    assert wire.scored == [["a", "b"], ["c", "d"], ["e"]]
    assert scores.images is not None
    assert scores.images.shape == (5, 4, 4, 3)
    client.score(latents[:1], ["a"], ["judge"], decoder=DecoderName.TINY)
    assert wire.decoded_with == [None, None, None, "tiny"]


def test_large_images_are_scored_in_smaller_batches(
    client: RolloutClient, wire: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SCORE_BYTES", 3 * 64**2)
    latents = torch.arange(3.0).view(3, 1, 1, 1)
    scores = client.score(latents, list("abc"), ["judge"], return_images=True)
    assert scores.rewards[:, 0].tolist() == [0, 1, 2]
    client.score(latents, list("abc"), ["judge"])
    assert wire.scored == [["a"], ["b"], ["c"], ["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("limits", "counts"),
    [
        ({}, [1, 64, 64, 21]),
        ({"MAX_ENCODE_BYTES": 10 * 8}, [1, *[10] * 14, 9]),
        ({"MAX_ENCODE_BYTES": 1, "MAX_ENCODE_PROMPTS": 9}, [1] * 150),
    ],
)
def test_many_prompts_are_encoded_a_few_at_a_time(
    limits: dict[str, int],
    counts: list[int],
    client: RolloutClient,
    wire: WireServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(module, name, value)
    prompts = ["x" * (1 + number) for number in range(150)]
    conditioning = client.encode(prompts)
    assert conditioning.pooled[:, 0].tolist() == list(range(1, 151))
    assert [len(part) for part in wire.encoded] == counts
    assert [prompt for part in wire.encoded for prompt in part] == prompts


def test_prompts_are_checked_a_part_at_a_time(
    client: RolloutClient, wire: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CHECK_PROMPTS", 4)
    prompts = [f"{'bad' if number > 2 else 'good'} {number}" for number in range(10)]
    refused = client.refused_prompts(prompts, ["judge"])
    assert refused.count == 7
    assert [one.prompt for one in refused.first] == [prompts[at] for at in (3, 4, 5, 8, 9)]
    assert [len(part) for part in wire.checked] == [4, 4, 2]
    monkeypatch.setattr(module, "MAX_CHECK_BYTES", 13)
    client.refused_prompts(prompts, ["judge"])
    assert [len(part) for part in wire.checked[3:]] == [2, 2, 2, 2, 2]


def test_a_server_that_cannot_check_prompts_is_not_asked(
    client: RolloutClient, wire: WireServer
) -> None:
    wire.checks_prompts = False
    assert client.refused_prompts(["bad"], ["judge"]).count == 0
    assert not wire.checked


def test_how_to_draw_is_said_only_where_it_is_not_as_ever(
    client: RolloutClient, wire: WireServer
) -> None:
    assert (client.info().scores_early, client.info().solvers) == (True, ("euler", "dpm2m"))
    list(client.explore(requests(1)))
    list(
        client.explore(
            requests(1, score_after=1, solver=Solver.DPM2M, decoder=DecoderName.TINY),
        )
    )
    asked = [
        (spec.get("scoreAfter"), spec.get("solver"), spec.get("decoder")) for spec in wire.specs
    ]
    assert asked == [(None, None, None), (1, "dpm2m", "tiny")]
    assert client.info().decoders == ("full", "tiny")
    wire.scores_early, wire.solvers, wire.decoders = False, [], []
    assert (client.info().scores_early, client.info().solvers) == (False, ("euler",))
    assert client.info().decoders == ()


def test_embeddings_are_read(client: RolloutClient) -> None:
    conditioning = client.encode(["a", "abc"])
    assert conditioning.tokens[:, 0, 0].tolist() == [1.0, 3.0]
    assert conditioning.mask is None


@pytest.mark.parametrize(
    "fault",
    [
        abort,
        lambda _: "Stub process 'explore_0' is not healthy.",
        lambda _: "[UNAVAILABLE] the server's model score is not there just now",
        lambda _: "a sentence that nobody foresaw",
        lambda _: "Request for unknown model: 'explore' has no available versions",
    ],
)
def test_only_unanswered_batches_are_asked_again(
    client: RolloutClient, wire: WireServer, fault, said: list[str]
) -> None:
    asked = requests(1)
    wire.faults.streams = [lambda _: None, fault, fault]
    check(list(client.explore(asked)), asked)
    assert [seeds for _, seeds, _ in wire.asked] == [(0, 1, 2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5)]
    assert "server.patience_s" in said[0]


def test_a_full_queue_postpones_that_group_alone(
    client: RolloutClient, wire: WireServer, said: list[str]
) -> None:
    asked = requests(3, seeds=2)

    def full(_) -> str:
        return "[RESOURCE_EXHAUSTED retry-after=1 request=0] 96 images wait, ask again in 1 s"

    wire.faults.streams = [full]
    started = time.monotonic()
    groups = list(client.explore(asked))
    check(groups, asked)
    assert time.monotonic() - started > 1
    assert [group.request.row for group in groups] == [1, 2, 0]
    assert [prompt for prompt, *_ in wire.asked] == ["p0", "p1", "p2", "p0"]
    assert said == [
        "waiting for room in the rollout server's queue: 96 images wait, ask again in 1 s"
    ]


def test_a_server_that_moved_to_another_port_is_found(
    client: RolloutClient, wire: WireServer
) -> None:
    asked = requests()
    groups = client.explore(asked)
    first = next(groups)
    wire.start_triton()
    check([first, *groups], asked)
    assert client.score(torch.ones(1, 1), ["x"], ["judge"]).rewards[0, 0] == 1


def test_a_server_that_says_where_it_is_now_is_asked_there_at_once(
    client: RolloutClient, wire: WireServer, said: list[str]
) -> None:
    client.encode(["a"])
    wire.start_triton()
    client.info()
    client.encode(["b"])
    assert wire.encoded == [["a"], ["b"]]
    assert said == []


def test_a_whole_restart_is_waited_for(wire: WireServer, said: list[str]) -> None:
    with RolloutClient.at(
        wire.url, Caller("mine", tokens=ADMIN, patience_s=20, groups_in_flight=1, say=said.append)
    ) as client:
        asked = requests()
        groups = client.explore(asked, client.publish(adapter()))
        got = [next(groups)]
        wire.stop()
        revived: list[WireServer] = []

        def revive() -> None:
            time.sleep(1.0)
            revived.append(WireServer(wire.port))

        thread = threading.Thread(target=revive)
        thread.start()
        try:
            got += groups
            check(got, asked)
            thread.join()
            assert revived[0].published == [adapter()]
        finally:
            thread.join()
            revived[0].stop()


def test_a_server_that_lost_its_state_gets_the_adapter_again(
    client: RolloutClient, wire: WireServer
) -> None:
    older, newer = (
        client.publish(adapter(fill=0.5)),
        client.publish(adapter(), Told("fewer of them")),
    )
    assert wire.tuned == ["", "fewer of them"]
    wire.forget()
    asked = requests(2)
    check(list(client.explore(asked, newer)), asked)
    assert wire.published == [adapter()]
    assert wire.asked[-1][2] == 1
    check(list(client.explore(asked, older)), asked)
    assert wire.published == [adapter(), adapter(fill=0.5)]
    assert wire.asked[-1][2] == 2
    assert wire.tuned[2:] == ["fewer of them"] * 2  # the latest, whatever goes with it


def test_the_step_that_an_adapter_comes_from_goes_with_it(
    client: RolloutClient, wire: WireServer
) -> None:
    client.publish(adapter(fill=0.5))
    client.publish(adapter(), Told(step=REPORT))
    assert [step and StepReport.read(step) for step in wire.steps] == [None, REPORT]


def test_a_lost_version_is_never_mistaken_for_a_new_one_of_its_number(
    client: RolloutClient, wire: WireServer
) -> None:
    older = client.publish(adapter(fill=0.5))
    wire.forget()
    newer = client.publish(adapter())
    assert older.version == newer.version == 1
    list(client.explore(requests(1), older))
    assert wire.published == [adapter(), adapter(fill=0.5)]
    assert wire.asked[-1][2] == 2


def test_exploring_goes_on_in_a_thread_while_others_are_asked(
    client: RolloutClient, wire: WireServer
) -> None:
    asked, published = requests(8), client.publish(adapter())
    with ThreadPoolExecutor(1) as pool:
        wire.faults.streams = [lambda _: time.sleep(0.05)] * 24
        exploring = pool.submit(lambda: list(client.explore(asked, published)))
        while not exploring.done():
            assert client.score(torch.ones(1, 1), ["x"], ["judge"]).rewards[0, 0] == 1
        client.publish(adapter(fill=0.5))
        check(exploring.result(), asked)
    assert {version for _, _, version in wire.asked} == {1}


def test_scoring_is_retried_while_the_model_restarts(
    client: RolloutClient, wire: WireServer
) -> None:
    client.info()
    wire.faults.score = ["Stub process 'score_0' is not healthy."] * 2
    assert client.score(torch.ones(1, 1), ["x"], ["judge"]).rewards[0, 0] == 1


def test_a_dead_model_behind_a_live_server_exhausts_patience(wire: WireServer) -> None:
    with RolloutClient.at(wire.url, Caller("mine", tokens=ADMIN, patience_s=1)) as client:
        client.info()
        wire.faults.score = ["Stub process 'score_0' is not healthy."] * 100
        with pytest.raises(PatienceEndedError, match=r"within 1 s .*not healthy"):
            client.score(torch.ones(1, 1), ["x"], ["judge"])
        wire.faults.streams = [lambda _: "Stub process 'explore_0' is not healthy."] * 100
        with pytest.raises(PatienceEndedError, match=r"raise server.patience_s"):
            list(client.explore(requests(1)))


def test_what_a_scorer_refuses_ends_the_rollout_in_its_words_whatever_they_are(
    wire: WireServer, client: RolloutClient, said: list[str]
) -> None:
    words = "the scorer mine refuses: status 422: the image does not answer; try again in a year"
    wire.faults.score.append(f"[INTERNAL] {words}")
    with pytest.raises(ServerRefusedError, match=words):
        client.score(torch.ones(1, 2, 2), ["x"], ["judge"])
    wire.faults.streams.append(lambda _: f"[INTERNAL] {words}")
    with pytest.raises(ServerRefusedError, match=words):
        list(client.explore(requests(1)))
    assert not said


def test_a_server_that_cannot_go_on_is_waited_for_and_never_called_absent(
    wire: WireServer,
) -> None:
    full = "the server's store is full: raise its maxmemory"
    with RolloutClient.at(wire.url, Caller("mine", tokens=ADMIN, patience_s=1)) as client:
        client.info()
        wire.faults.score = [f"[UNAVAILABLE] {full}"] * 2
        assert len(client.score(torch.ones(1, 2, 2), ["x"], ["judge"]).rewards) == 1
        wire.faults.control = full
        with pytest.raises(PatienceEndedError, match=f"could not go on within 1 s: {full}") as e:
            client.publish(adapter())
    assert "heliostat serve" not in str(e.value)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_server_on_this_machine_is_asked_by_no_proxy(
    variable: str, wire: WireServer, client: RolloutClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert client.info().batch == 2
    check(list(client.explore(requests(2), client.publish(adapter()))), requests(2))
    assert len(client.score(torch.ones(1, 2, 2), ["x"], ["judge"]).rewards) == 1


def test_a_proxy_on_the_way_to_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:9")
    with (
        RolloutClient.at("grpc://gpu.invalid:8600", Caller(tokens=ADMIN, patience_s=0.2)) as client,
        pytest.raises(PatienceEndedError, match="proxy of the variable https_proxy") as error,
    ):
        client.info()
    assert "secret" not in str(error.value)


def test_nobody_there_is_one_sentence(said: list[str]) -> None:
    with (
        RolloutClient.at(
            "127.0.0.1:9", Caller("mine", tokens=ADMIN, patience_s=0.5, say=said.append)
        ) as client,
        pytest.raises(PatienceEndedError, match="heliostat serve"),
    ):
        client.info()
    assert len(said) == 1


def test_refusals_are_raised_at_once_in_the_servers_words(
    client: RolloutClient, wire: WireServer
) -> None:
    with pytest.raises(ServerRefusedError, match="too large a rank"):
        client.publish(adapter(rank=9))
    wire.faults.streams = [lambda _: "[INVALID_ARGUMENT] recipe says: steps 99 is more than 9"]
    with pytest.raises(ServerRefusedError, match="steps 99 is more than 9"):
        list(client.explore(requests(1)))
    assert len(wire.asked) == 1


def test_answers_of_another_version_are_an_error(client: RolloutClient, wire: WireServer) -> None:
    published = client.publish(adapter())
    wire.faults.version_shift = 1
    with pytest.raises(ServerRefusedError, match=r"asked for adapter version 1, .* drew with 2"):
        list(client.explore(requests(1), published))


def test_a_nan_reward_is_an_error(client: RolloutClient, wire: WireServer) -> None:
    wire.faults.nan = True
    with pytest.raises(ServerRefusedError, match="reward judge of seed 0 for 'p0' is nan"):
        list(client.explore(requests(1)))
    with pytest.raises(ServerRefusedError, match="reward judge for 'x' is nan"):
        client.score(torch.full((1, 1), float("nan")), ["x"], ["judge"])


def test_an_abandoned_exploration_closes_its_stream(
    client: RolloutClient, wire: WireServer
) -> None:
    before = threading.active_count()
    groups = client.explore(requests())
    next(groups)
    groups.close()  # type: ignore[attr-defined]
    assert client.info().batch == 2
    deadline = time.monotonic() + 5
    while threading.active_count() > before + 8 and time.monotonic() < deadline:
        time.sleep(0.05)


def test_another_service_at_the_url_is_named(wire: WireServer) -> None:
    with (
        RolloutClient.at(
            f"127.0.0.1:{wire.triton_port}", Caller("mine", tokens=ADMIN, patience_s=5)
        ) as client,
        pytest.raises(
            ServerRefusedError, match=r"is not heliostat's control plane: set server\.url"
        ),
    ):
        client.info()


def test_the_first_token_that_the_server_takes_opens_the_experiment(
    wire: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("revoked")
    (tmp_path / "given").write_text("admin\n")
    monkeypatch.setenv("HELIOSTAT_TOKEN", "another server's")
    tokens = RunTokens(tmp_path / "token", tmp_path / "given", lambda: pytest.fail("not needed"))
    with RolloutClient.at(wire.url, Caller("mine", tokens=tokens)) as client:
        client.info()
    assert (tmp_path / "token").read_text() == "of-mine"
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    with RolloutClient.at(wire.url, Caller("mine", tokens=RunTokens(tmp_path / "token"))) as client:
        client.info()


def test_a_token_is_read_as_people_have_it(
    wire: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line end in the variable, a byte-order mark in the file, and a damaged file of ours."""
    monkeypatch.setenv("HELIOSTAT_TOKEN", " admin\r\n")
    with RolloutClient.at(wire.url, Caller("mine", tokens=RunTokens(tmp_path / "token"))) as client:
        client.info()
    monkeypatch.delenv("HELIOSTAT_TOKEN")
    given = tmp_path / "given"
    given.write_bytes(b"\xef\xbb\xbfadmin\r\n")
    for damaged in (b"", b"\xff\x00", b"one\ntwo"):
        (tmp_path / "token").write_bytes(damaged)
        with RolloutClient.at(
            wire.url, Caller("mine", tokens=RunTokens(tmp_path / "token", given))
        ) as client:
            client.info()
        assert (tmp_path / "token").read_text() == "of-mine"


@pytest.mark.parametrize("token", ["sécret", "sec\nret", "sec\x07ret", " \n"])
def test_a_token_that_cannot_be_sent_is_named_and_not_printed(
    wire: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    def refusal(tokens: RunTokens) -> str:
        with (
            RolloutClient.at(wire.url, Caller("mine", tokens=tokens)) as client,
            pytest.raises(SecretError) as error,
        ):
            client.info()
        return str(error.value)

    given = tmp_path / "given"
    given.write_text(token)
    from_file = refusal(RunTokens(tmp_path / "run" / "token", given))
    monkeypatch.setenv("HELIOSTAT_TOKEN", token)
    from_variable = refusal(RunTokens(tmp_path / "run" / "token"))
    assert from_file.startswith(f"server.token_file: {given} is ")
    assert from_variable.startswith("HELIOSTAT_TOKEN is ")
    for sentence in (from_file, from_variable):
        assert "\n" not in sentence
        assert "sec" not in sentence
        assert "ret" not in sentence


def test_a_token_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"\xff\xfes\x00")
    with pytest.raises(SecretError, match=r"server.token_file: .*given, line 1: this is not UTF-8"):
        next(RunTokens(tmp_path / "run" / "token", given).candidates())
    with pytest.raises(SecretError, match=r"server.token_file: cannot read .*none: No such file"):
        next(RunTokens(tmp_path / "run" / "token", tmp_path / "none").candidates())


def test_without_a_token_the_sentence_says_where_to_put_one(wire: WireServer) -> None:
    with (
        RolloutClient.at(wire.url, Caller("mine")) as client,
        pytest.raises(TokenRefusedError, match=r"HELIOSTAT_TOKEN or server\.token_file"),
    ):
        client.info()


def test_a_token_that_is_refused_is_told_in_the_servers_words(wire: WireServer) -> None:
    with (
        RolloutClient.at(wire.url, Caller("mine", tokens=GivenTokens("no", "neither"))) as client,
        pytest.raises(TokenRefusedError, match="not valid here"),
    ):
        client.info()


def test_a_token_that_is_revoked_meanwhile_is_replaced_if_another_one_opens(
    client: RolloutClient, wire: WireServer
) -> None:
    asked = requests()
    groups = client.explore(asked, client.publish(adapter()))
    got = [next(groups)]
    wire.given = "anew"
    check([*got, *groups], asked)
    client.info()
    wire.given, wire.tokens = "again", set()
    with pytest.raises(TokenRefusedError, match="not valid here"):
        client.info()
