"""Where an export may go: it takes nothing's place but an export's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from heliostat_engines.errors import FilesError
from heliostat_engines.families import get_family
from heliostat_engines.families.precision import is_lora_target, named_linears
from heliostat_engines.files.ownership import MARKER
from heliostat_trainer.export import DIFFUSERS_FILE, Format, export_run
from tests.crashes import Crash, crashing_at, snapshot
from tests.trainer.export.test_formats import settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERY_FORMAT = pytest.mark.parametrize("kind", list(Format))


@pytest.fixture
def run(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run folder of the demo family, with one checkpoint."""
    family, checkpoint = get_family("demo"), tiny_checkpoint("demo")
    place = tmp_path / "runs" / "tiny" / "checkpoints" / "step-000002"
    place.mkdir(parents=True)
    tensors = {}
    for module, linear in named_linears(family.load_transformer(str(checkpoint), torch.float32)):
        if is_lora_target(module, family.lora_targets):
            tensors[f"ema/{module}.lora_A"] = torch.ones(4, linear.in_features)
            tensors[f"ema/{module}.lora_B"] = torch.ones(linear.out_features, 4)
    save_file(tensors, place / "tensors.safetensors")
    (place / "state.json").write_text(json.dumps({"state": {"step": 2, "best_step": None}}))
    folder = tmp_path / "runs" / "tiny"
    (folder / "run.json").write_text(json.dumps({"config": settings(family, checkpoint)}))
    return folder


@EVERY_FORMAT
def test_a_folder_with_anything_else_is_refused_and_left(
    run: Path, kind: Format, tmp_path: Path
) -> None:
    loras = tmp_path / "loras"
    loras.mkdir()
    (loras / "other.safetensors").write_bytes(b"x")
    before = snapshot(tmp_path)
    words = (
        "loras holds other.safetensors, which is not of an export that heliostat made: give --out"
    )
    with pytest.raises(FilesError, match=words):
        export_run(run, kind, loras)
    assert snapshot(tmp_path) == before


@EVERY_FORMAT
def test_no_run_no_parent_no_link_and_no_file_is_a_place(
    run: Path, kind: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = snapshot(tmp_path)
    places = [run, run.parent, tmp_path / "link", tmp_path / "file", run / "checkpoints"]
    places += [tmp_path / "empty", run / "checkpoints" / "step-000002", tmp_path / "file" / "below"]
    for place in places:
        with pytest.raises(FilesError, match="give --out"):
            export_run(run, kind, place)
    assert snapshot(tmp_path) == before


@EVERY_FORMAT
def test_an_export_replaces_an_export_until_something_is_put_there(
    run: Path, kind: Format, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for former in (kind, *Format, kind):
        export_run(run, former, out)
    whole = snapshot(out)
    assert MARKER in whole
    (out / "mine.txt").write_text("x")
    with pytest.raises(FilesError, match=r"holds mine\.txt"):
        export_run(run, Format.DIFFUSERS, out)
    assert snapshot(out) == {**whole, "mine.txt": b"x"}


@EVERY_FORMAT
def test_exports_of_before_there_were_markers_are_replaced(run: Path, kind: Format) -> None:
    out = export_run(run, kind).path
    folder = out if out.is_dir() else out.parent
    (folder / MARKER).unlink()
    export_run(run, kind)
    assert (folder / MARKER).exists()
    (folder / MARKER).unlink()
    (folder / "holiday.jpg").write_text("x")
    with pytest.raises(FilesError, match=r"holiday\.jpg"):
        export_run(run, kind)


def test_another_tools_folder_of_the_same_names_is_not_ours(run: Path, tmp_path: Path) -> None:
    peft = tmp_path / "peft"
    peft.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (peft / name).write_text("x")
    comfyui = tmp_path / "comfyui"
    comfyui.mkdir()
    for name in ("tiny.safetensors", "README.md"):
        (comfyui / name).write_text("x")
    before = snapshot(tmp_path)
    for kind, out in ((Format.DIFFUSERS, peft), (Format.COMFYUI, comfyui)):
        with pytest.raises(FilesError, match="give --out"):
            export_run(run, kind, out)
    assert snapshot(tmp_path) == before


def test_an_export_that_dies_leaves_the_old_one(run: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbour").write_text("x")
    out = export_run(run, Format.DIFFUSERS, tmp_path / "out").path
    old = snapshot(out)
    neighbours = {name: data for name, data in snapshot(tmp_path).items() if name[:3] != "out"}
    for step in range(0, 60, 3):
        try:
            with crashing_at(step):
                export_run(run, Format.DIFFUSERS, out)
        except (Crash, FilesError):
            pass
        assert snapshot(out).keys() == old.keys()
        assert {DIFFUSERS_FILE, "adapter_config.json"} < old.keys()
        assert neighbours.items() <= snapshot(tmp_path).items()
