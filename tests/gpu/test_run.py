"""The whole run at tiny sizes on a CPU; how parts end, and that what is done is not done again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from heliostat_engines.families.family import Size
from heliostat_engines.precisions import Precision
from tests.gpu.run import DONE, FAILED, LATE, Part, parts, run_all

GOOD = (sys.executable, "-c", "print('fine')")


def test_a_part_that_fails_or_is_late_leaves_its_sentence_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    sleeping = (sys.executable, "-c", "import time; time.sleep(60)")
    records = run_all(
        [
            Part("bad", 60, (sys.executable, "-c", "import sys; sys.exit('too <small>')")),
            Part("slow", 6, sleeping),
            Part("open", 6, sleeping, is_open_ended=True),
            Part("good", 60, GOOD),
        ],
        tmp_path,
        120,
    )
    assert [record.outcome for record in records] == [FAILED, LATE, DONE, DONE]
    assert records[0].sentence == "too <small>"
    assert "too &lt;small&gt;" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "good.json").read_text())["sentence"] == "fine"


def test_a_late_parts_workers_end_with_it(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    worker = f"""
import time
while True:
    with open({str(beats)!r}, "a") as file:
        file.write(".")
    time.sleep(0.05)
"""
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    run_all([Part("late", 6, (sys.executable, "-c", parent, worker))], tmp_path, 60)
    beaten = beats.stat().st_size
    time.sleep(0.5)
    assert beats.stat().st_size == beaten > 0


def test_what_is_done_is_not_done_again_and_the_time_of_all_is_kept(tmp_path: Path) -> None:
    run_all([Part("good", 60, GOOD)], tmp_path, 60)
    other = (sys.executable, "-c", "print('again')")
    again, late = run_all([Part("good", 60, other), Part("more", 60, GOOD)], tmp_path, 1)
    assert again.sentence == "fine"
    assert (late.outcome, late.sentence) == (LATE, "no time was left for it")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_a_cpu_it_runs_to_its_end(tmp_path: Path) -> None:
    """Each model takes a step; one of them in every precision tells of all."""
    names = {"step-flux", "step-sd3.5-large", "step-sana", "precisions-sana"}
    asked = [part for part in parts(Size.TINY, "cpu", tmp_path) if part.name in names]
    assert {part.name for part in asked} == names
    records = run_all(asked, tmp_path, 1800)
    assert {record.outcome for record in records} == {DONE}, [each.sentence for each in records]
    found = {record.part: record.results for record in records}
    for family in ("flux", "sd3.5-large", "sana"):
        step = found[f"step-{family}"]
        assert step["measured of told"] == pytest.approx(1, abs=0.1)
        assert all(seconds > 0 for seconds in step["seconds"].values())
    arms = found["precisions-sana"]
    assert set(arms) == set(Precision)
    assert all(arm["with LoRA"]["images a second"] > 0 for arm in arms.values())
    assert arms["bf16"]["with LoRA"] != arms["bf16"]["without LoRA"]
    assert "step-flux" in (tmp_path / "index.html").read_text()
    assert len(json.loads((tmp_path / "all.json").read_text())) == len(asked)
