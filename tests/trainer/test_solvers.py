"""`recipe.solver` draws all that a run draws, and what other solvers drew is not compared with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.evaluation.results import pair, read_evaluations
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.policy.policy import PolicyName
from tests.trainer.test_loop import make_trainer, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_trainer.settings.config import TrainConfig
    from tests.trainer.fake_server import FakeServer

    Configure = Callable[..., TrainConfig]

DPM2M = ("--recipe.solver", "dpm2m")


def test_it_explores_and_redraws(configure: Configure, server: FakeServer) -> None:
    drawn = {}
    for solver in Solver:
        config = configure("--run.name", solver, "--recipe.solver", solver)
        artist = make_trainer(config, server).parts.artist
        conditioning = artist.prepare(server.encode(["a red cat"]))
        one = ([7], conditioning, [0])
        drawn[solver] = [artist.draw(PolicyName.OLD, *one, steps) for steps in (3, 4)]
        assert torch.equal(artist.rollout(*one, 4)[0], drawn[solver][1])
    euler, dpm2m = drawn.values()
    assert torch.equal(euler[0], dpm2m[0])
    assert not torch.equal(euler[1], dpm2m[1])
    run(configure(*DPM2M), server)
    assert {request.solver for request in server.explored} == {Solver.DPM2M}


def test_evaluations_pair_only_if_one_solver_drew_them(
    configure: Configure, server: FakeServer
) -> None:
    found = []
    for solver in Solver:
        config = configure(
            *("--run.name", solver, "--run.steps", "1", "--recipe.solver", solver),
            *("--evaluation.steps", "4"),
        )
        run(config, server)
        found.append(read_evaluations(config.run.path / "evaluation"))
    (base, trained), (other_base, _) = found
    assert pair(trained, base)
    assert other_base.solver is Solver.DPM2M
    assert other_base.rewards != base.rewards
    assert not pair(trained, other_base)


def test_a_run_of_before_there_was_a_choice_goes_on_as_it_was(
    configure: Configure, server: FakeServer
) -> None:
    config = configure("--run.steps", "1")
    run(config, server)
    forget(RunFolder(config.run.path).run_file, lambda content: content["config"]["recipe"])
    for results in config.run.path.glob("evaluation/*/results.json"):
        forget(results, lambda content: content[0])
    base, trained = read_evaluations(config.run.path / "evaluation")
    assert base.solver is Solver.EULER
    longer = configure("--run.steps", "2")
    run(longer, server, resume=True)
    *_, newest = read_evaluations(longer.run.path / "evaluation")
    assert newest.step == 2
    assert pair(newest, base)
    assert pair(newest, trained)


def forget(path: Path, where: Callable[[object], dict[str, object]]) -> None:
    """Leave the settings out that a version of before did not write."""
    content = json.loads(path.read_text())
    part = where(content)
    assert part.pop("solver") == "euler"
    part.pop("score_after", None)
    path.write_text(json.dumps(content))
