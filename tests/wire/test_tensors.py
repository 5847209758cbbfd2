"""What one side writes the other reads, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.sampling.solvers import Solver
from heliostat_proto.rollout_pb2 import LoadReport, ScoreSpec
from heliostat_wire.specs import json_element, read_json_element, spec_name
from heliostat_wire.tensors import (
    DrawnBatch,
    conditioning_arrays,
    read_conditioning,
    score_inputs,
)


@pytest.mark.parametrize("masked", [True, False])
def test_embeddings_are_read_as_they_were_written(masked: bool) -> None:
    mask = torch.tensor([[1, 1, 0]]) if masked else None
    written = Conditioning(torch.randn(1, 3, 4), torch.randn(1, 0), mask)
    read = read_conditioning(conditioning_arrays(written))
    assert torch.equal(read.tokens, written.tokens)
    assert torch.equal(read.pooled, written.pooled)
    assert (read.mask is None) is not masked
    if masked:
        assert torch.equal(read.mask, mask)


@pytest.mark.parametrize("with_latents", [True, False])
def test_a_batch_is_read_as_it_was_written(with_latents: bool) -> None:
    latents = torch.randn(2, 3, 4) if with_latents else None
    written = DrawnBatch(np.array([5, 7]), np.array([[1.5], [2]], np.float32), 3, latents)
    arrays = written.arrays()
    assert list(arrays)[:3] == ["SEEDS", "REWARDS", "VERSION"]
    read = DrawnBatch.read(arrays)
    assert read.version == 3
    assert read.seeds.tolist() == [5, 7]
    assert read.rewards.tolist() == [[1.5], [2]]
    assert (read.latents is not None) is with_latents
    if with_latents:
        assert torch.equal(read.latents, latents)
        assert read.latents.data_ptr() != latents.data_ptr()


def test_a_message_is_read_by_an_older_side_too() -> None:
    report = LoadReport(bound_modules=3, target_modules=4)
    assert read_json_element(json_element(report), LoadReport()) == report
    newer = np.array([b'{"boundModules": 3, "ofTomorrow": 1}'], np.object_)
    assert read_json_element(newer, LoadReport()).bound_modules == 3


def test_what_is_not_asked_for_is_not_sent() -> None:
    assert list(score_inputs(ScoreSpec(prompts=["a"]))) == ["SPEC"]
    assert [spec_name(choice) for choice in (Solver.EULER, DecoderName.FULL)] == ["", ""]
    assert spec_name(DecoderName.TINY) == "tiny"
