"""The control plane's answers as protobuf messages."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from heliostat_proto import control_pb2
from heliostat_server.experiments.terms import ShareChange
from heliostat_wire.info import ServerInfo as ToldInfo

if TYPE_CHECKING:
    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_server.control.operations import ServerInfo
    from heliostat_server.control.publisher import Published
    from heliostat_server.experiments.terms import Event, Experiment


def info_message(info: ServerInfo) -> control_pb2.InfoResponse:
    """What the server is."""
    description = info.description
    # Of a name that two have, the later holds: what may wait is the experiment's, not all experiments'.
    said = {
        **dict(description.engine),
        **dict(description.limits),
        **dict(description),
        **dict(info),
        "server_version": info.version,
    }
    return ToldInfo(**{field.name: said[field.name] for field in fields(ToldInfo)}).message()


def published_message(published: Published) -> control_pb2.PublishResponse:
    """A version that came to be."""
    return control_pb2.PublishResponse(
        version=published.version,
        sha256=published.sha256,
        bound_modules=published.bound_modules,
        target_modules=published.target_modules,
    )


def rest_message(given: GivenBack) -> control_pb2.RestResponse:
    """What the models have given back."""
    return control_pb2.RestResponse(memory_bytes=given.memory_bytes, seconds=given.seconds)


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
