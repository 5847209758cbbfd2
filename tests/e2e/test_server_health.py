"""`heliostat health` asks the parts that a state folder's server started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.launcher.health import find_problem
from heliostat_server.processes.ports import free_ports
from heliostat_server.processes.state_folder import StateFolder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import ServerHarness


def copy_with(server: ServerHarness, folder: Path, **changes: object) -> StateFolder:
    """A state folder whose record says something else."""
    state = StateFolder(folder)
    state.write_record(server.record.model_copy(update=changes))
    return state


def test_a_server_that_answers_is_well(server: ServerHarness) -> None:
    assert find_problem(StateFolder(server.settings.state)) is None


def test_the_start_tells_which_models_are_still_loading(server: ServerHarness) -> None:
    loading = [told for told in server.told if told.endswith("of 3 models loaded)")]
    assert loading[0] == "load text_encoder, score, explore (0 of 3 models loaded)"
    assert server.record.doing == ""


def test_each_part_is_asked(server: ServerHarness, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    nowhere = f"127.0.0.1:{port}"
    assert find_problem(copy_with(server, tmp_path)) is None
    triton = find_problem(copy_with(server, tmp_path, rollout=nowhere))
    assert triton == f"Triton does not answer at {nowhere}"
    http = find_problem(copy_with(server, tmp_path, http=f"http://{nowhere}"))
    assert http is not None
    assert "/v1/health does not answer" in http


def test_one_that_starts_is_not_well_yet(server: ServerHarness, tmp_path: Path) -> None:
    problem = find_problem(copy_with(server, tmp_path, ready=False))
    assert problem == "it is still starting, or has ended"
