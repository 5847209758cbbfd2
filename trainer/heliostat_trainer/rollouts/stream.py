"""The stream to a server's model `explore`: requests over gRPC out, batches of answers in."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tritonclient.utils import InferenceServerException

from heliostat_engines.resolution import width_height
from heliostat_proto.rollout_pb2 import ExploreSpec, RolloutSpec
from heliostat_trainer.errors import ServerGoneError, ServerRefusedError
from heliostat_trainer.rollouts.connection import CONTROL_TIMEOUT_S
from heliostat_trainer.rollouts.failures import triton_error
from heliostat_trainer.rollouts.wire import Outputs, infer_inputs
from heliostat_wire.names import Model
from heliostat_wire.specs import spec_name
from heliostat_wire.tensors import DrawnBatch, explore_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.rollouts.control import ControlPlane
    from heliostat_trainer.rollouts.patience import Waiting
    from heliostat_trainer.rollouts.wire import Access
    from heliostat_trainer.types import GroupRequest, PublishedAdapter

T = TypeVar("T")


@dataclass(frozen=True)
class Behaviour:
    """What the server is asked to draw with."""

    experiment: str
    version: int
    """0: the base model."""
    own_px: Resolution
    """Size of the images unless another is asked for, which older servers do not know."""


@dataclass(frozen=True)
class Answer:
    """One finished batch: seeds[B], rewards[B, R], latents[B, ...] if asked for."""

    row: int
    seeds: NDArray[np.int64]
    rewards: NDArray[np.float64]
    """rewards[B, R]."""
    latents: torch.Tensor | None
    version: int
    final: bool


class RolloutStream:
    """A bidirectional stream to the model `explore`; answers queue up until they are read."""

    def __init__(
        self, address: str, behaviour: Behaviour, access: Access, waiting: Waiting
    ) -> None:
        """waiting: is told whenever the server answers."""
        self.address = address
        self.behaviour = behaviour
        self._waiting = waiting
        self._answers: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = (
            queue.SimpleQueue()
        )
        self._client = access.triton(address)
        self._client.start_stream(
            lambda result, error: self._answers.put((result, error)), headers=access.headers
        )

    def ask(self, request: GroupRequest, seeds: Sequence[int]) -> None:
        """Queue a request for some of a group's seeds."""
        own_px = self.behaviour.own_px
        other_px = request.resolution_px if request.resolution_px != own_px else None
        width_px, height_px = width_height(other_px or 0)
        spec = ExploreSpec(
            rollout=RolloutSpec(
                experiment=self.behaviour.experiment,
                version=self.behaviour.version,
                prompt=request.prompt,
                steps=request.steps,
                score_after=request.score_after or 0,
                solver=spec_name(request.solver),
                decoder=spec_name(request.decoder),
                rewards=request.reward.names,
                return_latents=request.return_latents,
                width_px=width_px,
                height_px=height_px,
            )
        )
        try:
            self._client.async_stream_infer(
                Model.EXPLORE.value,
                infer_inputs(explore_inputs(spec, seeds)),
                request_id=str(request.row),
                enable_empty_final_response=True,
            )
        except InferenceServerException as error:
            raise triton_error(error, self.address) from error

    def next(self, timeout_s: float) -> Answer | None:
        """The next answer, or None if none came in time.

        Raises:
            AskAgainError: the stream broke.
            ServerBusyError: one request has to be asked again later; the others are drawn.
            ServerRefusedError: the server refuses a request, in its words.
        """
        try:
            result, error = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if error is not None:
            raise triton_error(error, self.address)
        answer = _decode(result)
        if len(answer.seeds):
            self._waiting.answered()
        return answer

    def close(self) -> None:
        """Cancel what is still being drawn and close the connection."""
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


class StreamSource:
    """Opens streams that draw with an adapter, wherever the server is and whatever it has lost."""

    def __init__(self, control: ControlPlane, adapter: PublishedAdapter | None) -> None:
        """adapter: one that was published over `control`; None: the base model."""
        self._control = control
        self._adapter = adapter

    def open(self) -> RolloutStream:
        """A stream to the server as it is now; an adapter that it has lost is published again.

        Raises AskAgainError, ServerRefusedError.
        """
        control, connection = self._control, self._control.connection
        info = control.info()
        version = 0
        if self._adapter is not None:
            version = control.version(self._adapter, info) or self._publish_again(self._adapter)
        self._require_ready(info.rollout_address)
        behaviour = Behaviour(control.experiment, version, info.resolution_px)
        return RolloutStream(
            info.rollout_address, behaviour, connection.opened(), connection.waiting
        )

    def probe(self, stream: RolloutStream) -> None:
        """Raises AskAgainError: the stream's server is gone without a word, or cannot go on."""
        address = self._control.info().rollout_address
        if address != stream.address:
            raise ServerGoneError(f"the server moved from {stream.address} to {address}")
        self._require_ready(address)

    def unless_forgotten(self, action: Callable[[], T]) -> T:
        """Turn the refusal of a version that the server has lost into one worth asking again.

        The server's words do not tell which refusals these are, so it is asked whether it still has the
        version. It has lost it with its state: what draws next opens a stream, and that publishes again.
        """
        try:
            return action()
        except ServerRefusedError as refusal:
            adapter, control = self._adapter, self._control
            if adapter is None or control.version(adapter, control.info()) is not None:
                raise
            raise ServerGoneError(f"its state was lost: {refusal}") from refusal

    def _publish_again(self, adapter: PublishedAdapter) -> int:
        return self._control.publish(self._control.published.files(adapter.sha256)).version

    def _require_ready(self, address: str) -> None:
        client = self._control.connection.opened().triton(address)
        try:
            ready = client.is_model_ready(Model.EXPLORE.value, client_timeout=CONTROL_TIMEOUT_S)
        except InferenceServerException as error:
            raise triton_error(error, address) from error
        finally:
            client.close()
        if not ready:
            raise ServerGoneError(f"the model {Model.EXPLORE.value!r} is not ready")


def _decode(result: Any) -> Answer:
    response = result.get_response()
    final = response.parameters["triton_final_response"].bool_param
    if not response.outputs:
        nothing = np.zeros(0)
        return Answer(int(response.id), nothing.astype(np.int64), nothing, None, 0, final)
    batch = DrawnBatch.read(Outputs.of(result))
    return Answer(
        row=int(response.id),
        seeds=batch.seeds,
        rewards=batch.rewards.astype(np.float64),
        latents=batch.latents,
        version=batch.version,
        final=final,
    )
