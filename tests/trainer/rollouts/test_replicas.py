"""Several servers as one, against real gRPC endpoints of which some go and come back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import torch

from heliostat_engines.decoders import DecoderName
from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.errors import ConfigError, PatienceEndedError, ServerRefusedError
from heliostat_trainer.rollouts import replicas as module
from heliostat_trainer.rollouts.connection import Caller
from heliostat_trainer.rollouts.replicas import Replicas, in_turn
from tests.trainer.rollouts.fake_wire import WireServer
from tests.trainer.rollouts.test_client import ADMIN, adapter, check, requests

if TYPE_CHECKING:
    from collections.abc import Iterator


class Running:
    """Wire servers on one store, and the trainer's view of them."""

    def __init__(self, count: int, patience_s: float = 5.0) -> None:
        self._stack = ExitStack()
        started = {wire.url: wire for wire in (self._start() for _ in range(count))}
        self.wires = [started[url] for url in in_turn(list(started), "mine")]
        """The first of them is what a run asks first."""
        for wire in self.wires:
            wire.published = self.wires[0].published
        self.said: list[str] = []
        self.servers = self._stack.enter_context(
            Replicas(
                [wire.url for wire in self.wires],
                Caller(
                    "mine",
                    tokens=ADMIN,
                    patience_s=patience_s,
                    groups_in_flight=2,
                    say=self.said.append,
                ),
            )
        )

    def _start(self, port: int = 0) -> WireServer:
        wire = WireServer(port)
        self._stack.callback(wire.stop)
        return wire

    def slow_down(self) -> None:
        """Every batch takes a while, so that no replica draws all before the others begin."""
        for wire in self.wires:
            wire.faults.streams = [lambda _: time.sleep(0.05)] * 100

    def bring_back(self, number: int) -> None:
        """Start a stopped one again, at its old address and on the same store."""
        published = self.wires[number].published
        self.wires[number] = self._start(self.wires[number].port)
        self.wires[number].published = published

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def two() -> Iterator[Running]:
    replicas = Running(2)
    yield replicas
    replicas.close()


def drawn_by(wire: WireServer) -> set[str]:
    return {prompt for prompt, _, _ in wire.asked}


def test_runs_that_name_the_same_servers_do_not_all_ask_the_same_one_first() -> None:
    urls = [f"grpc://server-{number}:8600" for number in range(8)]
    first = Counter(in_turn(urls, f"run-{number}")[0] for number in range(800))
    assert set(first) == set(urls)
    assert max(first.values()) < 2 * 800 / 8
    with ExitStack() as stack:
        opened = [
            stack.enter_context(Replicas(urls, Caller(f"run-{number}", tokens=ADMIN)))
            for number in range(20)
        ]
        assert len({each._there()[0].url for each in opened}) > 1


def test_a_run_keeps_its_order_whichever_servers_come_and_go() -> None:
    urls = [f"grpc://server-{number}:8600" for number in range(8)]
    order = in_turn(urls, "mine")
    assert in_turn(urls[::-1], "mine") == order
    assert in_turn(urls[1:], "mine") == [url for url in order if url != urls[0]]


def test_whoever_has_room_draws(two: Running) -> None:
    two.slow_down()
    published = two.servers.publish(adapter())
    asked = requests(8)
    check(list(two.servers.explore(asked, published)), asked)
    both = [drawn_by(wire) for wire in two.wires]
    assert all(both)
    assert not both[0] & both[1]
    assert {version for wire in two.wires for _, _, version in wire.asked} == {1}


def test_a_replica_lost_in_a_step_costs_only_what_it_has_not_answered(two: Running) -> None:
    two.slow_down()
    published = two.servers.publish(adapter())
    asked = requests(10)
    groups = two.servers.explore(asked, published)
    first = [next(groups) for _ in range(3)]
    two.wires[1].stop()
    check([*first, *groups], asked)
    lost, other = (drawn_by(two.wires[number]) for number in (1, 0))
    assert len(lost & other) <= 2  # those in flight
    assert all(seeds for _, seeds, _ in two.wires[0].asked)
    assert [line for line in two.said if "is gone" in line] == [two.said[0]]
    assert two.wires[1].url in two.said[0]


def test_what_was_answered_of_a_group_is_not_drawn_again(two: Running) -> None:
    two.wires[0].stop()
    two.wires[1].faults.streams = [
        lambda _: None,
        lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "it goes"),
    ]
    check(list(two.servers.explore(requests(1))), requests(1))
    assert [len(seeds) for _, seeds, _ in two.wires[1].asked] == [6, 4]  # a batch of 2 was there


def test_one_that_comes_back_is_used_again(two: Running) -> None:
    two.slow_down()
    published = two.servers.publish(adapter())
    two.wires[1].stop()
    check(list(two.servers.explore(requests(3), published)), requests(3))
    two.bring_back(1)
    two.slow_down()
    check(list(two.servers.explore(requests(12), published)), requests(12))
    assert drawn_by(two.wires[1])
    assert any("is back" in line for line in two.said)


def test_one_that_comes_back_within_a_step_takes_part(two: Running) -> None:
    two.wires[0].faults.streams = [lambda _: time.sleep(0.3)] * 100
    published = two.servers.publish(adapter())
    two.wires[1].stop()
    groups = two.servers.explore(requests(12), published)
    first = [next(groups)]
    two.bring_back(1)
    check([*first, *groups], requests(12))
    assert drawn_by(two.wires[1])


def test_patience_runs_once_all_are_gone(two: Running) -> None:
    two.slow_down()
    published = two.servers.publish(adapter())
    groups = two.servers.explore(requests(8), published)
    first = [next(groups)]
    for wire in two.wires:
        wire.stop()
    rest = iter(groups)
    two.bring_back(0)
    check([*first, *rest], requests(8))


def test_all_gone_for_too_long_is_one_sentence() -> None:
    replicas = Running(2, patience_s=0.5)
    for wire in replicas.wires:
        wire.stop()
    for action in (
        replicas.servers.info,
        lambda: replicas.servers.publish(adapter()),
        lambda: list(replicas.servers.explore(requests(2))),
        lambda: replicas.servers.score(torch.zeros(3, 2, 2), ["p"] * 3, ["judge"]),
    ):
        with pytest.raises(PatienceEndedError) as error:
            action()
        assert all(wire.url in str(error.value) for wire in replicas.wires)
        assert "server.patience_s" in str(error.value)
    replicas.close()


def test_what_any_can_do_goes_to_one_that_is_there(two: Running) -> None:
    assert two.servers.info().batch == 2
    two.wires[0].stop()
    assert two.servers.publish(adapter()).version == 1
    assert len(two.servers.encode(["a", "bc"])) == 2
    assert two.servers.info().latest_version == 1


def test_one_that_is_lost_is_asked_what_it_serves_once_until_it_is_heard_of_again(
    two: Running,
) -> None:
    two.wires[1].faults.info = "unreachable"
    for _ in range(3):
        assert two.servers.info().batch == 2
    assert (two.wires[0].infos, two.wires[1].infos) == (3, 1)
    two.wires[1].faults.info = ""
    two.slow_down()
    check(list(two.servers.explore(requests(12))), requests(12))
    assert any("is back" in line for line in two.said)
    two.wires[1].rewards = ["judge", "ocr"]
    before = two.wires[1].infos
    assert two.servers.info().rewards == ("judge",)
    assert two.wires[1].infos == before + 1


def test_all_are_asked_what_they_serve_while_none_is_there(two: Running) -> None:
    for wire in two.wires:
        wire.faults.info = "unreachable"
    threading.Timer(0.5, lambda: setattr(two.wires[1].faults, "info", "")).start()
    assert two.servers.info().batch == 2


def test_one_that_cannot_decode_as_asked_for_the_first_time_is_left_out(two: Running) -> None:
    latents, prompts = torch.arange(20.0).view(20, 1, 1).expand(20, 2, 2), ["p"] * 20
    two.wires[1].decoders = ["full"]
    two.servers.score(latents, prompts, ["judge"])
    assert all(wire.scored for wire in two.wires)
    two.wires[1].scored.clear()
    scores = two.servers.score(latents, prompts, ["judge"], decoder=DecoderName.TINY)
    np.testing.assert_array_equal(scores.rewards[:, 0], np.arange(20.0))
    assert not two.wires[1].scored
    assert [line for line in two.said if "left out: it (version 1) decodes with full alone" in line]


def test_one_that_has_learnt_the_decoder_asked_for_is_asked_anew_and_takes_part(
    two: Running,
) -> None:
    latents, prompts = torch.zeros(40, 2, 2), ["p"] * 40
    two.wires[1].decoders = ["full"]
    two.servers.score(latents, prompts, ["judge"])
    two.wires[1].decoders = ["full", "tiny"]
    two.servers.score(latents, prompts, ["judge"], decoder=DecoderName.TINY)
    assert all(wire.decoded_with[-1] == "tiny" for wire in two.wires)
    assert not two.said


def test_scoring_is_spread_and_survives_a_loss(two: Running) -> None:
    latents = torch.arange(40.0).view(40, 1, 1).expand(40, 2, 2)
    prompts = [f"p{row}" for row in range(40)]
    scores = two.servers.score(latents, prompts, ["judge"], return_images=True)
    np.testing.assert_array_equal(scores.rewards[:, 0], np.arange(40.0))
    assert scores.images is not None
    assert len(scores.images) == 40
    assert all(wire.scored for wire in two.wires)
    two.wires[0].stop()
    scores = two.servers.score(latents, prompts, ["judge"], decoder=DecoderName.TINY)
    assert two.wires[1].decoded_with[-1] == "tiny"
    np.testing.assert_array_equal(scores.rewards[:, 0], np.arange(40.0))


def test_what_is_known_of_one_that_is_lost_does_not_bring_it_back(
    two: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRY_AGAIN_S", 0.0)
    latents, prompts = torch.zeros(40, 2, 2), ["p"] * 40
    two.servers.score(latents, prompts, ["judge"])
    two.wires[1].stop()
    check(list(two.servers.explore(requests(6))), requests(6))
    two.servers.score(latents, prompts, ["judge"])
    assert len(two.said) == 1
    assert "is gone" in two.said[0]


def test_replicas_that_differ_are_one_sentence(two: Running) -> None:
    two.wires[1].precision = "bf16"
    with pytest.raises(ConfigError, match=r"differ in precision \(bf16 and nvfp4\)"):
        two.servers.info()


def test_replicas_compute_alike_as_far_as_they_say(two: Running) -> None:
    two.wires[0].compute_dtype = "float32"
    two.servers.info()
    two.wires[1].compute_dtype = "bfloat16"
    with pytest.raises(ConfigError, match="differ in compute_dtype"):
        two.servers.info()


def test_replicas_decode_alike_unless_they_are_asked_for_another_decoder(two: Running) -> None:
    two.wires[0].decoders, two.wires[1].decoders = ["full", "tiny"], ["full"]
    assert two.servers.info().decoders == ("full",)
    two.wires[1].decoders = []  # older than the field: it does not say
    assert two.servers.info().decoders == ()
    two.wires[1].decoders = ["tiny"]
    with pytest.raises(ConfigError, match="differ in decoders"):
        two.servers.info()


def test_replicas_may_keep_the_same_weights_in_other_places(two: Running) -> None:
    two.wires[0].checkpoint, two.wires[1].checkpoint = "/a/weights", "/b/weights"
    for wire in two.wires:
        wire.weights_digest = "aa"
    assert two.servers.info().weights_digest == "aa"
    two.wires[1].weights_digest = "bb"
    with pytest.raises(ConfigError, match="differ in checkpoint"):
        two.servers.info()


def test_one_that_comes_later_must_be_like_the_others(two: Running) -> None:
    two.slow_down()
    two.wires[1].stop()
    two.servers.info()
    two.bring_back(1)
    two.wires[1].precision = "bf16"
    with pytest.raises(ConfigError, match="differ in precision"):
        list(two.servers.explore(requests(20)))


@pytest.mark.parametrize(
    ("asked", "lacks"),
    [
        ({"score_after": 1}, "(version 1) scores after all steps only"),
        ({"solver": Solver.DPM2M}, "(version 1) draws with euler alone"),
        ({"resolution_px": (832, 1216)}, "(version 1) draws 64 px images alone"),
    ],
)
def test_an_older_one_that_comes_later_is_left_out_where_it_is_of_no_use(
    two: Running, asked: dict[str, Any], lacks: str
) -> None:
    two.slow_down()
    two.wires[1].stop()
    two.servers.info()
    two.bring_back(1)
    two.slow_down()
    two.wires[1].scores_early, two.wires[1].solvers, two.wires[1].sizes = False, ["euler"], []
    plain = requests(12)
    check(list(two.servers.explore(plain)), plain)
    assert drawn_by(two.wires[1])
    two.wires[1].asked.clear()
    for _ in range(2):
        wanted = requests(12, **asked)
        check(list(two.servers.explore(wanted)), wanted)
    assert not two.wires[1].asked
    (sentence,) = [line for line in two.said if "left out" in line]
    assert sentence == (
        f"the rollout server at {two.wires[1].url} is left out: it {lacks}: start a newer one there"
    )
    assert two.servers.info().scores_early  # of those that serve
    two.wires[1].scores_early, two.wires[1].solvers = True, ["euler", "dpm2m"]
    two.wires[1].sizes = two.wires[0].sizes
    two.slow_down()
    check(list(two.servers.explore(wanted)), wanted)
    assert two.wires[1].asked


def test_what_not_all_can_do_is_not_offered(two: Running) -> None:
    two.wires[0].rewards = ["judge", "ocr"]
    assert two.servers.info().rewards == ("judge",)
    assert two.servers.info().max_queued_images is None
    assert two.servers.info().sizes == (64, (832, 1216))
    two.wires[1].sizes = [(64, 64), (1216, 832)]
    assert two.servers.info().sizes == (64,)
    two.wires[0].max_queued_images = 64
    assert two.servers.info().max_queued_images == 64
    assert (two.servers.info().scores_early, two.servers.info().solvers) == (True, tuple(Solver))
    two.wires[1].scores_early, two.wires[1].solvers = False, []
    assert (two.servers.info().scores_early, two.servers.info().solvers) == (False, ("euler",))


def test_one_with_a_store_of_its_own_is_given_the_adapter_and_asked_for_its_own_version(
    two: Running,
) -> None:
    two.slow_down()
    two.wires[1].published = []
    two.servers.publish(adapter(fill=2.0))
    published = two.servers.publish(adapter())
    check(list(two.servers.explore(requests(8), published)), requests(8))
    asked = [{version for _, _, version in wire.asked} for wire in two.wires]
    assert asked == [{2}, {1}]
    assert two.wires[1].published[0].sha256 == published.sha256


def test_what_one_refuses_is_raised(two: Running) -> None:
    for wire in two.wires:
        wire.faults.nan = True
    with pytest.raises(ServerRefusedError, match="mend the reward model"):
        list(two.servers.explore(requests(4)))


@pytest.mark.slow
def test_whoever_stops_reading_leaves_no_thread_drawing(two: Running) -> None:
    two.slow_down()
    groups = two.servers.explore(requests(50))
    next(groups)
    groups.close()  # type: ignore[attr-defined]
    time.sleep(2.5)
    counts = [len(wire.asked) for wire in two.wires]
    time.sleep(0.5)
    assert [len(wire.asked) for wire in two.wires] == counts
    assert sum(counts) < 50
    assert not two.said
