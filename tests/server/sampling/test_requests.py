from __future__ import annotations

import json

import pytest

from heliostat_engines.decoders import DecoderName
from heliostat_engines.sampling.solvers import Solver
from heliostat_server.errors import RequestError
from heliostat_server.sampling.requests import Load, Rollout, parse_explore
from heliostat_server.settings import LimitSettings

LIMITS = LimitSettings(batch=48, max_steps=20, max_seeds=480, max_prompt_chars=50)
REWARDS = ("colourfulness", "jpeg_compressibility")
ROLLOUT = {"experiment": "e", "prompt": "a cat", "steps": 6, "rewards": ["colourfulness"]}
DECODERS = tuple(DecoderName)
SEEDS = list(range(96))


def parse(seeds: list[int] | None = None, **changes: object) -> Rollout:
    spec = json.dumps({"rollout": ROLLOUT | changes}).encode()
    request = parse_explore(spec, SEEDS if seeds is None else seeds, LIMITS, REWARDS, DECODERS)
    assert isinstance(request, Rollout)
    return request


def test_reads_a_rollout() -> None:
    assert parse(version="3", guidance=2.5, returnLatents=True) == Rollout(
        "e", 3, "a cat", 6, 2.5, ("colourfulness",), True, tuple(SEEDS)
    )


def test_a_rollout_costs_the_steps_that_are_evaluated() -> None:
    whole, early = parse(), parse(scoreAfter=4)
    assert (whole.score_after, whole.evaluated_steps, whole.nfes) == (0, 6, 6)
    assert (early.steps, early.evaluated_steps, early.nfes) == (6, 4, 4)
    assert parse(scoreAfter=4, guidance=3).nfes == 8
    assert parse(scoreAfter=6).nfes == 6


def test_the_solver_is_eulers_unless_named() -> None:
    assert parse().solver is parse(solver="euler").solver is Solver.EULER
    assert parse(solver="dpm2m").solver is Solver.DPM2M


def test_the_decoder_is_the_servers_first_unless_named() -> None:
    assert parse().decoder is parse(decoder="full").decoder is DecoderName.FULL
    assert parse(decoder="tiny").decoder is DecoderName.TINY
    spec = json.dumps({"rollout": ROLLOUT}).encode()
    compiled = parse_explore(spec, SEEDS, LIMITS, REWARDS, (DecoderName.TINY,))
    assert isinstance(compiled, Rollout)
    assert compiled.decoder is DecoderName.TINY


def test_the_size_is_the_servers_own_unless_named_and_costs_by_its_pixels() -> None:
    limits = LIMITS.model_copy(update={"resolutions_px": (1024, (512, 1024))})

    def sized(**changes: object) -> Rollout:
        spec = json.dumps({"rollout": ROLLOUT | changes}).encode()
        request = parse_explore(spec, SEEDS, limits, REWARDS, DECODERS)
        assert isinstance(request, Rollout)
        return request

    for own in ({}, {"widthPx": 1024, "heightPx": 1024}):
        assert (sized(**own).resolution_px, sized(**own).relative_size) == (1024, 1.0)
    other = sized(widthPx=512, heightPx=1024)
    assert (other.resolution_px, other.relative_size) == ((512, 1024), 0.5)
    for wrong in ({"widthPx": 1024, "heightPx": 512}, {"widthPx": 512}, {"heightPx": -1}):
        with pytest.raises(
            RequestError, match="ask for 1024 or 512x1024, or start the server with"
        ):
            sized(**wrong)
    assert (parse().resolution_px, parse().relative_size) == (None, 1.0)
    with pytest.raises(RequestError, match="ask for neither width_px nor height_px"):
        parse(widthPx=512, heightPx=512)


def test_no_guidance_is_a_guidance_of_one() -> None:
    assert parse().guidance == 1.0
    assert parse(guidance=1).guidance == 1.0


def test_reads_a_load() -> None:
    spec = json.dumps({"load": {"sha256": "0a" * 32}}).encode()
    assert parse_explore(spec, [], LIMITS, REWARDS, DECODERS) == Load("0a" * 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "x" * 51}, "51 characters, the server takes up to 50"),
        ({"steps": 0}, "0 steps: ask for 1 to 20"),
        ({"steps": 21}, "21 steps: ask for 1 to 20"),
        ({"solver": "heun"}, "solver is 'heun': give euler or dpm2m"),
        ({"decoder": "small"}, "no decoder 'small' here: give full or tiny, or leave decoder out"),
        ({"scoreAfter": 7}, "score_after is 7: give 1 to 6, the rollout's steps, or 0 for all"),
        ({"scoreAfter": -1}, "score_after is -1: give 1 to 6"),
        ({"version": -1}, "version -1 is negative"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"guidance": "NaN"}, "guidance is nan"),
        ({"guidance": "Infinity"}, "guidance is inf"),
        ({"rewards": ["colorfulness"]}, "did you mean 'colourfulness'.* has .*jpeg_compress"),
        ({"rewards": ["colourfulness"] * 2}, "asked for twice"),
        ({"rewards": []}, "no rewards and no latents"),
        ({"experiment": ""}, "no experiment name"),
        ({"experiment": "a/b"}, "no experiment name"),
        ({"stpes": 6}, "no field named .stpes"),
    ],
)
def test_refuses_with_what_to_change(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(**changes)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "no seeds"),
        (list(range(100)), "100 seeds are no multiple .* 48: ask for 96 or 144 candidates"),
        (list(range(7)), "7 seeds are no multiple .* 48: ask for 48 candidates"),
        (list(range(528)), "528 seeds in one rollout, the server takes up to 480"),
        ([1] * 48, "given twice"),
        ([-1, *range(47)], r"seed -1 is out of range"),
    ],
)
def test_refuses_seeds_with_what_to_change(seeds: list[int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(seeds)


@pytest.mark.parametrize("spec", [b"", b"{", b"\xff", b"[]", b"{}", b'{"rollout": 3}'])
def test_refuses_what_is_no_spec(spec: bytes) -> None:
    with pytest.raises(RequestError, match="SPEC"):
        parse_explore(spec, [], LIMITS, REWARDS, DECODERS)


def test_refuses_a_load_that_names_no_digest() -> None:
    with pytest.raises(RequestError, match="no SHA-256"):
        parse_explore(b'{"load": {"sha256": "../x"}}', [], LIMITS, REWARDS, DECODERS)
