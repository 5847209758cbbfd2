"""What the leader tells the other ranks, and what they read of it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.resolution import Resolution
from heliostat_trainer.learning.updates import Restore, Update
from heliostat_trainer.policy.draws import Draw, Rollout
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.ranks.calls import announced, listen
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.ranks.ranks import Ranks
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.team import Helper, Start
from heliostat_trainer.types import Samples
from heliostat_trainer.workshop import build_workshop
from tests.trainer.fake_server import FakeServer

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_trainer.ranks.calls import Call, Message

PROMPTS = Conditioning(
    torch.arange(12.0).view(3, 2, 2).bfloat16(), torch.arange(3.0).view(3, 1), torch.ones(3, 2)
)
ASKED = {"seeds": [7, 8, 9], "rows": [2, 0, 2], "steps": 4}
"""Of rows 2 and 0: others are told these two alone."""
SENT = Conditioning(PROMPTS.tokens[[0, 2]], PROMPTS.pooled[[0, 2]], torch.ones(2, 2))
SAMPLES = Samples(3, "a cat", (1, 2), torch.rand(2, 4), np.array([0.5, 1.0]))


class OneByOne(Ranks):
    """The leader's process first, and then another's."""

    def broadcast(self, call, tensors):
        if call:
            self.said = call, dict(tensors)
        return self.said


def told(call: Call) -> Message:
    ranks = OneByOne()
    with announced(ranks, call):
        return listen(ranks)


def halved(conditioning: Conditioning) -> Conditioning:
    """Stands for the cast to what a rank computes in."""
    return conditioning.to(torch.float16)


def assert_same(ours: object, theirs: object) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    elif isinstance(ours, Conditioning | Samples):
        for field in fields(ours):
            assert_same(getattr(ours, field.name), getattr(theirs, field.name))
    elif isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("null", [None, Conditioning(torch.ones(1, 2, 2), torch.ones(1, 1))])
def test_a_draw_arrives_with_the_rows_that_it_needs(null: Conditioning | None) -> None:
    how = {"guidance": 3.0, "score_after": 2, "resolution_px": (832, 1216)}
    message = told(Draw(PolicyName.EMA, conditioning=PROMPTS, null=null, **ASKED, **how))
    read = Draw.read(message, halved)
    assert_same(read.conditioning, halved(SENT))
    assert_same(read.null, null and halved(null))
    assert (read.who, read.seeds, read.rows) == (PolicyName.EMA, [7, 8, 9], [1, 0, 1])
    assert (read.steps, read.guidance, read.score_after) == (4, 3.0, 2)
    assert read.resolution_px == (832, 1216)


@pytest.mark.parametrize("size", [None, 512, (832, 1216)])
def test_a_rollout_arrives_with_the_rows_that_it_needs(size: Resolution | None) -> None:
    asked = Rollout(conditioning=PROMPTS, resolution_px=size, **ASKED)
    read = Rollout.read(told(asked), halved)
    assert read.resolution_px == size
    assert_same(read.conditioning, halved(SENT))
    assert (read.seeds, read.rows, read.steps) == ([7, 8, 9], [1, 0, 1], 4)


def test_an_update_arrives_with_what_is_replayed() -> None:
    read = Update.read(told(Update([SAMPLES], PROMPTS, 5, [SAMPLES])), halved)
    assert_same(read.conditioning, halved(PROMPTS))
    assert len(read.samples) == 2
    for samples in read.samples:
        assert_same(samples, SAMPLES)
    assert (read.step, read.replayed) == (5, ())


def test_a_checkpoint_arrives_whole() -> None:
    read = Restore.read(told(Restore({"a/b": torch.arange(3)}, 7)))
    assert read.step == 7
    assert list(read.tensors) == ["a/b"]
    assert_same(read.tensors["a/b"], torch.arange(3))


def test_the_start_arrives_as_json_carries_it(toml: Path) -> None:
    start = Start(load_config(toml), {"a.to_q": (4, 6)}, "float32")
    assert Start.read(told(start)) == start


def test_a_call_that_no_other_rank_makes_is_not_passed_over(toml: Path, checkpoint: Path) -> None:
    config, targets = load_config(toml), FakeServer(checkpoint).info().lora_targets
    ranks = OneByOne()
    workshop = build_workshop(config, targets, ranks, Interrupts())
    with announced(ranks, Start(config, targets, "float32")):
        pass
    with pytest.raises(ValueError, match="calls for 'start'"):
        Helper(ranks, workshop.artist, workshop.learner).help()
