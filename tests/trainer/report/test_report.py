from __future__ import annotations

import html
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from heliostat_engines.errors import FilesError
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.evaluation.results import Evaluation, prompt_interval
from heliostat_trainer.exploring.fidelity import PUBLISHED
from heliostat_trainer.policy.policy import PolicyName
from heliostat_trainer.report import write_report

PROMPTS = ("a red <apple>", "two bees")
REWARDS = ("judge", "heldout")


def evaluation(step: int, policy: PolicyName, guidance: float, offset: float) -> Evaluation:
    values = np.array([[0.1, 0.3], [0.5, 0.6]]) + offset
    return Evaluation(
        step=step,
        policy=policy,
        guidance=guidance,
        denoising_steps=20,
        prompts=PROMPTS,
        seeds=((1, 2), (3, 4)),
        rewards={name: values.tolist() for name in REWARDS},
        means={name: prompt_interval(values) for name in REWARDS},
        statistics={"brightness": values.tolist()},
        diversity=[0.2, 0.3],
    )


def keep(folder: Path, step: int, evaluations: list[Evaluation]) -> None:
    place = folder / "evaluation" / f"step-{step:06d}"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps([asdict(e) for e in evaluations]))
    images = {
        f"{e.policy}/guidance_{e.guidance:g}": torch.full((2, 2, 8, 8, 3), 200, dtype=torch.uint8)
        for e in evaluations
    }
    save_file(images, place / "images.safetensors")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    config = {
        "model": {"family": "demo"},
        "recipe": {"name": "sol_rl", "explore_ahead": 1, "candidates": 96, "keep_pairs": 12},
        "reward": {"name": "judge", "heldout": ["heldout"]},
    }
    (folder / "run.json").write_text(json.dumps({"config": config}))
    lines = [
        {
            "step": step,
            "seconds": {"explore": 2.0, "optimise": 1.0},
            "proxy_reward_mean": 0.1 * step,
            "server_busy": 0.9,
            "trainer_busy": 0.8,
            "version_lag": step - 1,
            "reward_mean": 0.2 * step,
            "elapsed_s": 60.0 * step,
        }
        for step in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    base = [
        evaluation(0, PolicyName.BASE, 1.0, 0.0),
        evaluation(0, PolicyName.BASE, 3.0, 0.1),
    ]
    keep(folder, 0, base)
    keep(folder, 2, [evaluation(2, PolicyName.EMA, 1.0, 0.25)])
    return folder


def test_the_page_states_results_samplers_and_gains(run: Path) -> None:
    page = write_report(run).read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<(svg).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL))
    assert "base model, 20 steps, no guidance base model, 20 steps, guidance 3" in text
    assert "NFE an image 20 40 20 judge (trained on) 0.3750" in text
    assert text.count("0.4750") == text.count("0.6250") == 2
    assert "+0.2500" in text
    assert "2 training steps in 2.0 minutes" in text
    assert "the rollout server was busy for 90 %, the trainer for 80 %" in text
    assert "0.5 updates older" in text


def test_the_page_carries_all_it_shows_and_escapes_prompts(run: Path) -> None:
    page = write_report(run).read_text()
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<svg") == 6
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<apple>" not in page


@pytest.mark.slow
def test_a_watched_run_shows_how_exploration_ranks_beside_what_was_published(run: Path) -> None:
    assert "rank as BF16 does" not in write_report(run).read_text()
    path = run / "metrics.jsonl"
    figures = [asdict(PUBLISHED), None, asdict(replace(PUBLISHED, rho=0.9, overlap=0.65))]
    line = json.loads(path.read_text().splitlines()[0])
    lines = [
        {**line, "step": step, "fidelity": figure, "explore_steps": 6 + (step > 2)}
        for step, figure in enumerate(figures, start=1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(run).read_text()
    assert page.count("<svg") == 7
    text = re.sub(r"\s+", " ", page)
    assert "Means over 2 watched steps, of 96 candidates a prompt: rho 0.913, tau-b 0.798." in text
    assert "overlap with the true ones by 70 %, have the mean true ranks 9.0 and 88.0" in text
    assert "Explored with 6 denoising steps, 7 from step 3 on." in text
    early = [line | {"explore_steps": 6, "score_after": 4 + (line["step"] > 2)} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in early))
    text = re.sub(r"\s+", " ", write_report(run).read_text())
    assert "Explored with 4 of 6 denoising steps, 5 of 6 from step 3 on." in text


def test_a_solver_other_than_eulers_is_named(run: Path) -> None:
    assert "20 steps, no guidance" in write_report(run).read_text()
    for path in run.glob("evaluation/*/results.json"):
        results = json.loads(path.read_text())
        path.write_text(json.dumps([result | {"solver": "dpm2m"} for result in results]))
    page = write_report(run).read_text()
    assert "20 steps of dpm2m, no guidance" in page
    assert "20 steps, no guidance" not in page


def test_alarms_are_listed_and_marked(run: Path) -> None:
    text = re.sub(r"\s+", " ", write_report(run).read_text())
    assert "step 2: brightness of held-out images went from 0.375 at the base model to 0.6" in text
    path = run / "evaluation" / "step-000002" / "results.json"
    (result,) = json.loads(path.read_text())
    same = asdict(evaluation(2, PolicyName.EMA, 1.0, 0.01))["statistics"]
    path.write_text(json.dumps([result | {"statistics": same}]))
    assert "No guard has raised an alarm" in write_report(run).read_text()


def test_a_run_that_has_only_begun_can_be_looked_at(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    (run / "evaluation" / "step-000002" / "results.json").unlink()
    assert "0 training steps" in write_report(run).read_text()


def test_the_page_takes_no_other_files_place(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "thesis.html"
    page.write_text("<title>My thesis</title>")
    for out in (page, tmp_path, run):
        with pytest.raises(FilesError, match="give another file with --out"):
            write_report(run, out)
    assert page.read_text() == "<title>My thesis</title>"
    for _ in range(2):
        assert write_report(run, tmp_path / "page.html").exists()


def test_what_is_damaged_is_said_and_the_rest_is_shown(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    first, *rest = metrics.read_bytes().splitlines(keepends=True)
    broken = [b'{"step": 2, "elap\n', b"\xff\xfe\n", b"[]\n", b'{"step": "2"}\n']
    metrics.write_bytes(b"".join([first, *broken, *rest, b'{"step": 9, "half of a line']))
    later = run / "evaluation" / "step-000002" / "results.json"
    later.write_text(later.read_text()[:-9])
    (run / "showcase").mkdir()
    (run / "showcase" / "showcase.json").write_text("{}")
    said: list[str] = []
    page = write_report(run, say=said.append).read_text()
    assert said[:4] == [f"{metrics}, line {n} is damaged, and left out" for n in (2, 3, 4, 5)]
    assert f"{later}, line 1, column" in said[4]
    assert f"{run / 'showcase' / 'showcase.json'}" in said[5]
    assert len(said) == 6
    assert f"{1 + len(rest)} training steps" in page
    assert all(
        html.escape(problem, quote=True).replace("&#x27;", "&#39;") in page for problem in said
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{\n "config": {\n', "line 3, column 1: this is not JSON"),
        (b"{}", "is damaged: it lacks 'config'"),
        (b'{"config": []}', "is damaged"),
        (b"\xff", "line 1: this is not UTF-8 text"),
    ],
)
def test_damaged_settings_are_one_sentence(run: Path, content: bytes, sentence: str) -> None:
    (run / "run.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=sentence) as error:
        write_report(run)
    assert str(run / "run.json") in str(error.value)
    assert "resume the run, which writes it anew" in str(error.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no run folder"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text(
        json.dumps({"config": {"reward": {"name": "judge", "heldout": []}}})
    )
    with pytest.raises(RunFolderError, match="no evaluation yet"):
        write_report(tmp_path)
