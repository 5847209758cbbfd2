"""The report of a run beside another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.errors import FilesError
from heliostat_trainer.compare import Counting, compare_runs, read_beside
from heliostat_trainer.compare.beside import RECORDING
from heliostat_trainer.errors import CompareError, RunFolderError
from heliostat_trainer.pages.figures import GREY
from heliostat_trainer.report import write_report
from tests.benchmarks.demo_baseline import record_run
from tests.trainer.compare.runs import leave_run
from tests.trainer.compare.test_page import words_of
from tests.trainer.report.test_report import PROMPTS

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = {"rewards": {"demo_judge": 0.5}, "proxy_rewards": {"demo_judge": 0.4}}
PLAIN = ("--recipe.name", "diffusionnft", "--recipe.keep_pairs", "12")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return leave_run(tmp_path / "mine", {10: 0.2, 20: 0.4}, lines=LINES)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return leave_run(tmp_path / "plain", {20: 0.2}, *PLAIN, step_s=50, lines=LINES)


def test_both_runs_are_drawn_over_steps_and_over_evaluations(mine: Path, plain: Path) -> None:
    alone = write_report(mine).read_text()
    assert GREY not in alone
    page = write_report(mine, beside=read_beside(mine, plain)).read_text()
    assert page.count("<svg") == alone.count("<svg") + 3  # of the trained reward two, and heldout
    figures = page.split("<svg")[1:]
    assert [GREY in figure for figure in figures] == [True] * 6 + [False] * (len(figures) - 6)
    assert sum("<!-- plain, samples trained on -->" in figure for figure in figures) == 2
    assert sum("<!-- plain -->" in figure for figure in figures) == 4
    assert sum("BF16-equivalent evaluations, NVFP4 1/2.4 -->" in figure for figure in figures) == 3


def test_both_gains_what_they_took_and_where_the_others_was_reached(
    mine: Path, plain: Path
) -> None:
    beside = read_beside(mine, plain)
    text = words_of(write_report(mine, beside=beside).read_text())
    assert "mine heliostat, 4 of 24 20 " in text
    assert "plain diffusionnft, 24 of 24 20 " in text
    comparison = compare_runs([plain, mine], Counting())
    shares = []
    for unit in comparison.units:
        ratio = comparison.cost(comparison.groups[1], "demo_judge", unit, 1.0).ratio
        assert ratio is not None
        shares.append(f"{100 * ratio.mean:.0f} % of plain’s {unit.name}")
    assert shares[0] == "50 % of plain’s training steps"
    assert shares[-1] == "10 % of plain’s seconds of training"
    assert f"mine reached plain’s gain by demo_judge after {'; '.join(shares)}." in text
    assert "+0.4000 ± 0.0000" in text
    assert "+0.2000 ± 0.0000" in text
    assert "recorded" not in text


def test_a_gain_that_was_not_reached_or_made_is_said(mine: Path, plain: Path) -> None:
    assert read_beside(plain, mine).sentences == [
        "plain did not reach mine’s gain by demo_judge",
        "plain did not reach mine’s gain by heldout",
    ]
    worse = leave_run(mine.parent / "worse", {20: -0.1})
    assert read_beside(mine, worse).sentences[0] == "worse gained nothing by demo_judge"


def test_further_prompts_of_the_other_run_are_left_out(mine: Path, plain: Path) -> None:
    few = leave_run(mine.parent / "few", {20: 0.4}, prompts=PROMPTS, lines=LINES)
    for path in few.glob("evaluation/*/results.json"):
        (result,) = json.loads(path.read_text())
        for key in ("prompts", "seeds", "diversity"):
            result[key] = result[key][:1]
        for key in ("rewards", "statistics"):
            result[key] = {name: rows[:1] for name, rows in result[key].items()}
        path.write_text(json.dumps([result]))
    beside = read_beside(few, plain)
    assert [len(each.prompts) for each in beside.other.progress] == [1, 1]
    assert beside.other.progress[0].means["demo_judge"].mean == pytest.approx(0.2)
    assert beside.sentences[0].startswith("few reached plain’s gain by demo_judge after 50 % ")
    assert "few" in write_report(few, beside=beside).read_text()
    with pytest.raises(CompareError, match="few was evaluated with other prompts, seeds than"):
        read_beside(plain, few)


def test_a_recorded_runs_seconds_are_not_compared(mine: Path, plain: Path) -> None:
    recording = {"machine": "a <fast> CPU, 2 cores", "date": "2026-02-03", "command": "make it"}
    (plain / RECORDING).write_text(json.dumps(recording))
    beside = read_beside(mine, plain)
    assert all("seconds" not in sentence for sentence in beside.sentences)
    page = write_report(mine, beside=beside).read_text()
    assert "<fast>" not in page
    assert (
        "plain was recorded on a <fast> CPU, 2 cores, trainer in bfloat16, on 2026-02-03, by make it ."
        " Steps and evaluations compare between machines; seconds do not."
    ) in words_of(page)
    (plain / RECORDING).write_text("{}")
    with pytest.raises(RunFolderError, match=RECORDING):
        read_beside(mine, plain)


def test_what_does_not_compare_is_one_sentence(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere is no run folder"):
        read_beside(mine, tmp_path / "nowhere")
    with pytest.raises(CompareError, match="mine is the run itself"):
        read_beside(mine, mine.parent / "." / "mine")
    other = leave_run(tmp_path / "other", {20: 0.2}, denoising_steps=40)
    with pytest.raises(CompareError, match=r"other denoising steps \(40, not 20\) than mine"):
        read_beside(mine, other)


def test_damage_is_said_once(mine: Path, plain: Path) -> None:
    for folder in (mine, plain):
        with (folder / "metrics.jsonl").open("a") as file:
            file.write("[]\n")
    said: list[str] = []
    beside = read_beside(mine, plain, said.append)
    page = write_report(mine, say=said.append, beside=beside).read_text()
    assert [sentence.partition(",")[0] for sentence in said] == [
        str(folder / "metrics.jsonl") for folder in (plain, mine)
    ]
    assert all(page.count(sentence) == 1 for sentence in said)


def test_runs_of_one_setting_are_two_all_the_same(mine: Path) -> None:
    twin = leave_run(mine.parent / "twin", {20: 0.4}, seed=1)
    assert [row.label for row in read_beside(mine, twin).rows] == ["mine", "twin"]


def test_a_run_that_was_trained_can_be_recorded(
    trained: Callable[[int], Path], tmp_path: Path
) -> None:
    run, record = trained(2), tmp_path / "baseline"
    record_run(run, record)
    beside = read_beside(run, record)
    own, other = beside.rows
    assert own.costs == other.costs
    assert [gain.mean for gain in own.gains] == pytest.approx(
        [gain.mean for gain in other.gains], abs=1e-3
    )
    assert "was recorded on" in write_report(run, tmp_path / "r.html", beside=beside).read_text()
    record_run(run, record)  # anew
    (record / "thesis.txt").write_text("mine")
    with pytest.raises(FilesError, match="give another folder with --out"):
        record_run(run, record)
