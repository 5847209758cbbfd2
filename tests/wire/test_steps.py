"""A step is read as it was written, and what is no number to show is left out."""

from __future__ import annotations

import math
from dataclasses import fields, replace

from google.protobuf.message import Message

from heliostat_proto import control_pb2 as messages
from heliostat_wire.steps import Decision, Fidelity, Phase, Shape, StepReport

REPORT = StepReport(
    step=7,
    version=6,
    seconds={phase: 0.25 * place for place, phase in enumerate(Phase, 1)},
    shape=Shape(prompts=4, candidates=24, keep_pairs=3, score_after=4),
    explore_steps=6,
    kept_spread=0.125,
    fidelity=Fidelity(0.9, 0.75, 0.7, 3.5, 20.5, 1.5),
    decision=Decision(9, Shape(3, 12, 2, 5), "it teaches more a second"),
)


def read_back(report: StepReport) -> StepReport:
    return StepReport.read(messages.StepReport.FromString(report.message().SerializeToString()))


def test_all_of_it_is_read_as_it_was_written() -> None:
    assert read_back(REPORT) == REPORT
    bare = replace(REPORT, fidelity=None, decision=None)
    assert read_back(bare) == bare
    for field in fields(REPORT):  # else what is forgotten on both sides would be found equal
        assert getattr(REPORT, field.name), field.name


def test_no_field_of_the_message_is_left_unwritten() -> None:
    def unset(message: Message) -> list[str]:
        written = {field.name for field, _ in message.ListFields()}
        return sorted(set(message.DESCRIPTOR.fields_by_name) - written)

    written = REPORT.message()
    parts = (written, written.shape, written.fidelity, written.decision, written.decision.shape)
    assert [unset(part) for part in parts] == [[]] * len(parts)


def test_what_is_no_number_or_no_phase_of_ours_is_left_out() -> None:
    told = REPORT.message()
    told.seconds.update({"explore": math.nan, "score": -1.0, "watch": math.inf, "dance": 3.0})
    told.kept_spread = math.inf
    told.fidelity.rho = math.nan
    read = StepReport.read(told)
    left = set(Phase) - {Phase.EXPLORE, Phase.SCORE, Phase.WATCH}
    assert set(read.seconds) == left
    assert (read.kept_spread, read.fidelity) == (0.0, None)
