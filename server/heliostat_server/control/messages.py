"""The control plane's answers as protobuf messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_proto import control_pb2
from heliostat_server.experiments.terms import ShareChange
from heliostat_wire.version import OURS

if TYPE_CHECKING:
    from heliostat_server.control.operations import ServerInfo
    from heliostat_server.control.publisher import Published
    from heliostat_server.experiments.terms import Event, Experiment


def info_message(info: ServerInfo) -> control_pb2.InfoResponse:
    """What the server is."""
    description = info.description
    engine, limits = description.engine, description.limits
    targets = {
        name: control_pb2.LinearShape(in_features=shape[0], out_features=shape[1])
        for name, shape in engine.lora_targets.items()
    }
    return control_pb2.InfoResponse(
        server_version=info.version,
        rollout_address=info.rollout_address,
        engine=control_pb2.EngineInfo(
            family=engine.family,
            checkpoint=engine.checkpoint,
            runtime=engine.runtime,
            precision=engine.precision,
            compute_dtype=engine.compute_dtype,
            nvfp4_linears=engine.nvfp4_linears,
            linears=engine.linears,
            lora_targets=targets,
            max_rank=engine.max_rank,
            resolution_px=description.resolution_px,
            weights_digest=engine.weights_digest,
        ),
        rewards=description.rewards,
        limits=control_pb2.Limits(
            **limits.model_dump(include=set(control_pb2.Limits.DESCRIPTOR.fields_by_name))
        ),
        latest_version=info.latest_version,
        checks_prompts=description.checks_prompts,
        scores_early=description.scores_early,
        solvers=description.solvers,
        max_queued_images=info.max_queued_images,
        decoders=description.decoders,
        wire_version=OURS.version,
        oldest_wire_version=OURS.oldest,
    )


def published_message(published: Published) -> control_pb2.PublishResponse:
    """A version that came to be."""
    return control_pb2.PublishResponse(
        version=published.version,
        sha256=published.sha256,
        bound_modules=published.bound_modules,
        target_modules=published.target_modules,
    )


def experiment_message(experiment: Experiment) -> control_pb2.Experiment:
    """All that is known of an experiment."""
    return control_pb2.Experiment(
        name=experiment.name,
        created=experiment.created.isoformat(),
        share=control_pb2.Share(**experiment.share.model_dump()),
        latest_version=experiment.latest_version,
        versions=[control_pb2.Version(**version.model_dump()) for version in experiment.versions],
        usage=control_pb2.Usage(**experiment.usage.model_dump()),
        tuned=experiment.tuned,
    )


def event_message(event: Event) -> control_pb2.Event:
    """Something that was done."""
    return control_pb2.Event(**event.model_dump() | {"at": event.at.isoformat()})


def share_change(message: control_pb2.ShareChange) -> ShareChange:
    """The terms that a request sets. Raises pydantic.ValidationError."""
    return ShareChange.model_validate({field.name: value for field, value in message.ListFields()})
