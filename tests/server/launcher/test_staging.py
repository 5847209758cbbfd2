from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

import pytest

from heliostat_engines.errors import FilesError, HardwareError, ResolutionError
from heliostat_engines.families import get_family
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.machine.hardware import Gpu
from heliostat_engines.precisions import MapName, Precision
from heliostat_server.launcher import staging
from heliostat_server.launcher.staging import (
    STAGED,
    control_ports,
    latent_axes,
    model_settings,
    stage_models,
    triton_ports,
)
from heliostat_server.processes.ports import free_ports
from heliostat_server.processes.state_folder import StateFolder, TritonPorts
from heliostat_server.rewards.definitions import Success
from heliostat_server.settings import AskedLimits, ModelSettings, ServeSettings, SharedSettings
from heliostat_server.triton.installation import BACKENDS
from tests.server.processes.test_state_folder import record


def test_what_is_not_set_is_the_familys() -> None:
    family = get_family("demo")
    models = model_settings(ServeSettings(), family, device="cpu", redis="redis://r")
    assert (models.checkpoint, models.resolution_px) == (
        family.default_checkpoint,
        family.default_resolution_px,
    )
    assert models.limits.batch == family.explore_batch
    assert latent_axes(family, models) == 4


def test_a_runtime_that_compiles_needs_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    settings = ServeSettings(runtime="torch-compile", device="cpu")
    with pytest.raises(HardwareError, match=r"^--runtime torch-compile: .* set --runtime torch$"):
        stage_models(settings, get_family("demo"), StateFolder(tmp_path), "redis://r", "d")
    assert not list(tmp_path.iterdir())


def test_other_sizes_are_those_that_the_family_draws() -> None:
    family = get_family("sd3.5-large")
    limits = AskedLimits.model_validate({"resolutions_px": ["832x1216"]})
    models = model_settings(ServeSettings(limits=limits), family, device="cpu", redis="r")
    assert models.resolutions == (1024, (832, 1216))
    assert latent_axes(family, models) == 4
    wrong = AskedLimits.model_validate({"resolutions_px": ["830x1216"]})
    models = model_settings(ServeSettings(limits=wrong), family, device="cpu", redis="r")
    with pytest.raises(ResolutionError, match=r"set in limits.resolutions_px \[832, 1216\]"):
        latent_axes(family, models)


def test_what_is_set_holds_and_each_start_has_a_token_of_its_own() -> None:
    settings = ServeSettings(
        checkpoint="weights", resolution_px=128, slots=3, limits=AskedLimits(batch=5)
    )
    family = get_family("demo")
    first, second = (
        model_settings(settings, family, device="gpu", redis="r", admin_digest="d")
        for _ in range(2)
    )
    assert (first.checkpoint, first.resolution_px, first.slots) == ("weights", 128, 3)
    assert (first.limits.batch, first.admin_digest, first.device) == (5, "d", "gpu")
    assert first.internal_token != second.internal_token


def test_what_the_models_share_with_the_server_reaches_them_as_it_was_given() -> None:
    settings = ServeSettings(
        precision=Precision.BF16,
        precision_map=MapName.WIDE,
        engine=Path("engine"),
        max_rank=3,
        slots=4,
        keep_versions=5,
        rewards={"good": Success(kind="success", reward="ocr", at_least=0.5)},
    )
    models = model_settings(settings, get_family("demo"), device="cpu", redis="r")
    settled = {"family", "checkpoint", "resolution_px", "precision", "device", "limits"}
    for name in SharedSettings.model_fields.keys() - settled:
        assert getattr(models, name) == getattr(settings, name), name
    assert models == ModelSettings.model_validate_json(models.model_dump_json())


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((9, 0), Precision.FP8), ((12, 0), Precision.NVFP4)],
)
def test_a_precision_that_is_not_set_is_what_the_card_multiplies(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: Precision
) -> None:
    monkeypatch.setattr(staging, "find_gpu", lambda: Gpu("a card", capability, 1, 1))
    family = get_family("demo")

    def precision_of(settings: ServeSettings, device: Literal["cpu", "gpu"]) -> Precision:
        return model_settings(settings, family, device=device, redis="r").precision

    assert precision_of(ServeSettings(), "gpu") is precision
    assert precision_of(ServeSettings(), "cpu") is Precision.NVFP4
    assert precision_of(ServeSettings(precision=Precision.BF16), "gpu") is Precision.BF16


def test_tritons_ports_are_the_last_times_if_they_are_free() -> None:
    last = TritonPorts(**dict(zip(("grpc", "metrics"), free_ports(2), strict=True)))
    asked = ServeSettings(metrics_port=0)
    assert triton_ports(asked, record(ports=last)) == last
    with socket.create_server(("127.0.0.1", last.grpc)):
        moved = triton_ports(asked, record(ports=last))
    assert moved.grpc != last.grpc
    assert moved.metrics == last.metrics
    assert triton_ports(ServeSettings(), None).metrics is None


def test_the_planes_ports_are_found_in_its_addresses() -> None:
    grpc, http = free_ports(2)
    last = record(control=f"127.0.0.1:{grpc}", http=f"https://127.0.0.1:{http}")
    assert control_ports(ServeSettings(port=0, http_port=0), last) == (grpc, http)
    chosen = free_ports(1)[0]
    assert control_ports(ServeSettings(port=chosen, http_port=0), last) == (chosen, http)


def test_models_and_backends_of_others_are_left(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.claim()
    for folder, layout in ((state.models, STAGED), (state.backends, BACKENDS)):
        with atomic_folder(folder, layout) as draft:
            (draft / "ours").touch()
        (folder / "mine").touch()
        with pytest.raises(FilesError, match="holds mine"), atomic_folder(folder, layout):
            pass
        assert (folder / "mine").exists()
