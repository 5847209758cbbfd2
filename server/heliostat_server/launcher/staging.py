"""What a server's settings come to: its models' settings, their repository, and ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import structlog

from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import Layout
from heliostat_engines.machine.hardware import choose_device, default_precision, find_gpu
from heliostat_engines.torch_compile import require_compiler
from heliostat_server.experiments.tokens import new_token
from heliostat_server.processes.ports import choose_port
from heliostat_server.processes.state_folder import TritonPorts
from heliostat_server.settings import (
    DEFAULT_HTTP_PORT,
    DEFAULT_PORT,
    ModelSettings,
    SharedSettings,
)
from heliostat_server.triton.repository import COMPILED, FILES, stage_repository

if TYPE_CHECKING:
    from heliostat_engines.families.family import Family
    from heliostat_server.processes.state_folder import ServerRecord, StateFolder
    from heliostat_server.settings import ServeSettings

STAGED = Layout(
    kind="a server's model repository",
    advice="move what is not heliostat's out of the server's state folder",
    required=FILES,
    patterns=COMPILED,
)


def model_settings(
    settings: ServeSettings,
    family: Family,
    *,
    device: Literal["cpu", "gpu"],
    redis: str,
    admin_digest: str = "",
) -> ModelSettings:
    """What the models are to do: what the server was given of it, and settled what it was not: by family or device.

    Args:
        settings: the server's, with what an engine decides filled in.
        family: theirs.
        device: where the models run.
        redis: URL with its password.
        admin_digest: of the administrator's token.
    """
    gpu = find_gpu() if device == "gpu" else None
    capability = None if gpu is None else gpu.capability
    resolution_px = settings.resolution_px or family.default_resolution_px
    shared = {name: getattr(settings, name) for name in SharedSettings.model_fields}
    settled = {
        "family": family.name,
        "checkpoint": settings.checkpoint or family.default_checkpoint,
        "resolution_px": resolution_px,
        "precision": settings.precision or default_precision(capability),
        "device": device,
        "limits": settings.limits.of(family.explore_batch, resolution_px),
        "threads": settings.thread_settings(),
        "redis": redis,
        "admin_digest": admin_digest,
        "internal_token": new_token(),
    }
    return ModelSettings.model_validate(shared | settled)


def latent_axes(family: Family, models: ModelSettings) -> int:
    """Axes of a batch of latents. Raises ResolutionError: the family does not draw some image."""
    for size in models.limits.resolutions_px[1:]:
        family.resolutions.check(family.name, size, "in limits.resolutions_px")
    return 1 + len(family.latent_shape(models.resolution_px))


def stage_models(
    settings: ServeSettings, family: Family, state: StateFolder, redis: str, admin_digest: str
) -> None:
    """Write the models' repository and settings into the state folder.

    Raises:
        HardwareError: there is no such device, or no compiler for it.
        FilesError: they cannot be written.
    """
    asked = {"gpu": "cuda"}.get(settings.device, settings.device)
    device = choose_device(asked, f"--device {settings.device}")
    if settings.runtime == "torch-compile":
        require_compiler(device, "--runtime torch-compile", "set --runtime torch")
    models = model_settings(
        settings,
        family,
        device="cpu" if device == "cpu" else "gpu",
        redis=redis,
        admin_digest=admin_digest,
    )
    with atomic_folder(state.models, STAGED) as draft:
        axes = latent_axes(family, models)
        stage_repository(draft, state.models, state.model_settings, models, axes)


def triton_ports(settings: ServeSettings, previous: ServerRecord | None) -> TritonPorts:
    """Those asked for, else the last time's if they are free, so that clients find us again."""
    ports = previous.ports if previous else None
    last = (ports.grpc, ports.metrics) if ports else (None, None)
    rollout = choose_port(settings.rollout_port, None, last[0], settings.host)
    if settings.metrics_port is None:
        return TritonPorts(grpc=rollout)
    metrics = choose_port(settings.metrics_port, None, last[1], settings.host)
    return TritonPorts(grpc=rollout, metrics=metrics)


def control_ports(settings: ServeSettings, previous: ServerRecord | None) -> tuple[int, int]:
    """Of gRPC and HTTP: those asked for, else the usual, the last time's, or any that is free."""
    last = [_port_of(previous.control), _port_of(previous.http)] if previous else [None, None]
    control = choose_port(settings.port, DEFAULT_PORT, last[0], settings.host)
    http = choose_port(settings.http_port, DEFAULT_HTTP_PORT, last[1], settings.host)
    if settings.port is None and control != DEFAULT_PORT:
        structlog.get_logger("server").warning(
            "the default port is taken", port=DEFAULT_PORT, instead=control
        )
    return control, http


def _port_of(address: str | None) -> int | None:
    """The port of host:port, or of a URL that ends so."""
    return int(address.rpartition(":")[2]) if address else None
