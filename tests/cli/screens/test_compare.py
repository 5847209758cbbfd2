"""`heliostat compare`: tables here, a page and numbers in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_engines.errors import HeliostatError
from heliostat_trainer.forecast.work import NVFP4_SPEEDUPS
from tests.trainer.compare.runs import leave_run


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    mine = ("--lora.rank", "8")
    return [
        str(leave_run(tmp_path / "base-0", {20: 0.2})),
        str(leave_run(tmp_path / "base-1", {20: 0.21}, seed=1)),
        str(leave_run(tmp_path / "mine-0", {20: 0.4}, *mine)),
        str(leave_run(tmp_path / "mine-1", {20: 0.42}, *mine, seed=1)),
    ]


def compare(*words: str) -> str:
    result = CliRunner().invoke(app, ["compare", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_tables_a_page_and_numbers(runs: list[str], tmp_path: Path) -> None:
    page, numbers = tmp_path / "out" / "page.html", tmp_path / "numbers.json"
    for _ in range(2):  # what we wrote may be written anew
        words = ("--out", str(page), "--json", str(numbers), "--price-per-hour", "3.6")
        text = compare(*runs, *words)
    assert "base 2 20 3.3 0.5800 +0.2050 ± 0.0635" in text
    assert "lora.rank 32 8" in text
    assert "50% base 10 " in text
    assert " 0.5× " in text
    assert text.endswith(f"Comparison: {page}")
    assert "<svg" in page.read_text()
    content = json.loads(numbers.read_text())
    assert content["differences"] == [{"setting": "lora.rank", "values": [32, 8]}]
    first, mine = content["groups"]
    assert first["runs"] == runs[:2]
    assert mine["seeds"] == [0, 1]
    assert mine["costs"]["money at 3.6 an hour"] == pytest.approx([0, 0.2])
    half = next(
        entry
        for entry in mine["rewards"]["demo_judge"]["to_gain"]
        if (entry["fraction"], entry["unit"]) == (0.5, "training steps")
    )
    assert half["cost"]["mean"] == pytest.approx(20 * 0.1025 / 0.41)
    assert half["ratio"]["mean"] == pytest.approx(0.5)
    assert half["ratio"]["low"] < 0.5 < half["ratio"]["high"]


def test_speed_ups_and_reward_can_be_chosen(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = compare(*runs, "--nvfp4-speedup", "2", "--nvfp4-speedup", "3", "--reward", "heldout")
    assert "evaluations, NVFP4 1/2 " in text
    assert "evaluations, NVFP4 1/3 " in text
    assert "1/2.4" not in text
    assert "demo_judge," not in text
    assert (tmp_path / "compare.html").exists()


def test_the_help_names_what_nvfp4_counts_as() -> None:
    text = compare("--help")
    assert all(f"{speedup:g}" in text for speedup in NVFP4_SPEEDUPS.values())


@pytest.mark.parametrize(
    ("count", "words", "sentence"),
    [
        (1, (), "is one run: name another one to compare it with"),
        (4, ("--reward", "beauty"), "--reward beauty: not all of these runs were evaluated by it"),
        (4, ("--out", "thesis.html"), "give another file with --out"),
        (4, ("--json", "thesis.html"), "give another file with --json"),
        (4, ("--json", "page", "--out", "page"), "--out and --json both name page"),
    ],
    ids=["one", "reward", "out", "json", "same"],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    runs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    count: int,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.html").write_text("mine")
    with pytest.raises(HeliostatError) as error:
        compare(*runs[:count], *words)
    assert sentence in str(error.value)
    assert (tmp_path / "thesis.html").read_text() == "mine"
    assert not any((tmp_path / name).exists() for name in ("compare.html", "page"))


@pytest.mark.parametrize(
    "words", [("--price-per-hour", "nan"), ("--nvfp4-speedup", "0"), ("--image-nfes", "-1")]
)
def test_numbers_that_count_nothing_are_refused(runs: list[str], words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["compare", *runs, *words])
    assert result.exit_code != 0
    assert words[0] in result.output + str(result.exception)


def test_a_report_beside_another_run(runs: list[str], tmp_path: Path) -> None:
    lines = {"rewards": {"demo_judge": 0.5}, "proxy_rewards": {"demo_judge": 0.5}}
    run, out = leave_run(tmp_path / "mine", {20: 0.4}, lines=lines), tmp_path / "page.html"
    words = ["report", str(run), "--out", str(out), "--beside"]
    result = CliRunner().invoke(app, [*words, runs[0]], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "mine reached base-0’s gain by demo_judge after 50 % of" in out.read_text()
    out.unlink()
    with pytest.raises(HeliostatError, match="nowhere is no run folder"):
        CliRunner().invoke(app, [*words, "/nowhere"], catch_exceptions=False)
    assert not out.exists()
