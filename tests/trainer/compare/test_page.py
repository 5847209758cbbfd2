"""The page: what it states, and that it carries all that it shows."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from heliostat_engines.errors import FilesError
from heliostat_trainer.compare import Counting, compare_runs, write_page
from heliostat_trainer.report import write_report
from heliostat_trainer.report.page import SIGN
from heliostat_trainer.settings.config import TrainConfig
from tests.trainer.compare.runs import leave_run
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import run

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = {10: 0.1, 20: 0.2}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    mine = ("--lora.rank", "8")
    return [
        leave_run(tmp_path / "base-0", OURS),
        leave_run(tmp_path / "base-1", {10: 0.1, 20: 0.21}, seed=1),
        leave_run(tmp_path / "mine-0", {10: 0.2, 20: 0.3}, *mine),
        leave_run(tmp_path / "mine-1", {10: 0.2, 20: 0.31}, *mine, seed=1),
    ]


def page_of(*runs: Path, **counting: object) -> str:
    path = runs[0].parent / "compare.html"
    write_page(compare_runs(runs, Counting(**counting)), path)  # type: ignore[arg-type]
    return path.read_text()


def words_of(page: str) -> str:
    text = re.sub(r"<(svg|style)\b.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", text))


@pytest.mark.slow
def test_the_page_states_results_differences_and_costs(runs: list[Path]) -> None:
    text = words_of(page_of(*runs, price_per_hour=3.5))
    assert "4 runs in 2 settings; base is what the others are measured by" in text
    assert "2 held-out prompts with 2 seeds each, 20 steps, no guidance" in text
    assert "● base 2 20 3.3 0.5800 +0.2050 ± 0.0635" in text
    assert "● mine 2 20 3.3 0.6800 +0.3050 ± 0.0635" in text
    assert "base: base-0 (seed 0), base-1 (seed 1)." in text
    assert "setting ● base ● mine lora.rank 32 8" in text
    assert "50 % ● base 10.2 (" in text
    assert "● mine 5.13 (3.76 to 6.99) 0.501× (0.486 to 0.516)" in text
    assert "money at 3.5 an hour" in text
    assert "explore 2.00 2.00" in text


@pytest.mark.slow
def test_what_was_not_reached_is_said(runs: list[Path]) -> None:
    text = words_of(page_of(runs[2], runs[0]))
    assert "mine-0’s gain" in text
    assert "● base-0 not reached not reached not reached not reached" in text
    worse = leave_run(runs[0].parent / "worse", {20: -0.2}, "--lora.rank", "4")
    text = words_of(page_of(worse, runs[0]))
    assert "worse gained nothing by demo_judge: there is no gain to tell the cost of." in text


def test_the_page_carries_all_that_it_shows_and_escapes_prompts(runs: list[Path]) -> None:
    page = page_of(*runs, nvfp4_speedups=(2.4,))
    assert page.count("data:image/png;base64,") == 2 * 3  # prompts; base model and two settings
    assert page.count("<svg") == 2 * 3 + 1 + 2  # rewards by units; time; brightness, diversity
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<apple>" not in page
    assert "a red &lt;apple&gt;" in page


def test_every_setting_is_drawn_however_many_there_are(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / f"run-{rank}", {20: 0.1}, "--lora.rank", str(rank))
        for rank in range(1, 9)
    ]
    page = page_of(*runs)
    figure = page[page.index("<svg") : page.index("</svg>")]
    assert all(f"<!-- run-{rank} -->" in figure for rank in range(1, 9))


@pytest.mark.slow
def test_numbers_of_training_are_drawn_where_they_are_kept(tmp_path: Path) -> None:
    first = leave_run(tmp_path / "a", OURS)
    page = page_of(first, leave_run(tmp_path / "b", OURS, "--lora.rank", "8"))
    assert "velocity norm" not in page
    lines = {"velocity_norm": 1.05, "latent_diversity": "much"}
    page = page_of(first, leave_run(tmp_path / "c", OURS, "--lora.rank", "8", lines=lines))
    assert "velocity norm, training samples" in page
    assert "latent diversity" not in page


@pytest.mark.parametrize("damage", ["gone", "cut", "of another form"])
@pytest.mark.slow
def test_pictures_that_are_damaged_are_said_and_left_out(runs: list[Path], damage: str) -> None:
    path = runs[2] / "evaluation" / "step-000020" / "images.safetensors"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        save_file({"ema/guidance_1": torch.zeros(3)}, path)
    said: list[str] = []
    page = runs[0].parent / "page.html"
    write_page(compare_runs(runs, Counting()), page, said.append)
    (sentence,) = said
    assert str(path) in sentence
    assert sentence.endswith("its pictures are left out")
    assert page.read_text().count("data:image/png") == 2 * 2


def test_runs_without_metrics_or_pictures_can_be_looked_at(runs: list[Path]) -> None:
    for folder in runs:
        (folder / "metrics.jsonl").unlink()
        for path in folder.glob("evaluation/*/images.safetensors"):
            path.unlink()
    page = page_of(*runs)
    text = words_of(page)
    assert "● base 2 20 –" in text
    assert "Pictures" not in text
    assert "Where the time goes" not in text


@pytest.mark.slow
def test_the_page_takes_no_other_files_place(runs: list[Path]) -> None:
    comparison = compare_runs(runs, Counting())
    thesis, report = (runs[0].parent / name for name in ("thesis.html", "report.html"))
    thesis.write_text("<title>My thesis</title>")
    report.write_text(f"<title>base-0{SIGN}")
    for out in (thesis, report, runs[0]):
        with pytest.raises(FilesError, match="give another file with --out"):
            write_page(comparison, out)
    page = runs[0].parent / "page.html"
    for _ in range(2):
        write_page(comparison, page)
    with pytest.raises(FilesError, match="heliostat did not write it"):
        write_report(runs[0], page)


@pytest.mark.slow
def test_runs_that_were_trained_compare(
    configure: Callable[..., TrainConfig], server: FakeServer
) -> None:
    folders = []
    for name, words in (("sol", ()), ("base", ("--recipe.name", "diffusionnft"))):
        config = configure("--run.name", name, "--run.steps", "2", *words)
        run(config, server)
        folders.append(config.run.path)
    text = words_of(page_of(*folders))
    assert "setting ● sol ● base recipe.name sol_rl diffusionnft" in text
    assert "● sol 1 2 0." in text
    assert "Pictures: the same prompts and seeds base model ● sol, 2 steps ● base, 2 steps" in text
