"""One rollout server as the trainer sees it: one URL, everything else learnt from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from tritonclient.utils import InferenceServerException

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.parts import parts
from heliostat_engines.resolution import pixels
from heliostat_proto.rollout_pb2 import PromptReport, ScoreSpec
from heliostat_trainer.errors import ServerRefusedError
from heliostat_trainer.rollouts.connection import Connection
from heliostat_trainer.rollouts.control import ControlPlane, PublishedAdapters
from heliostat_trainer.rollouts.exploration import Backlog, Exploration
from heliostat_trainer.rollouts.failures import triton_error
from heliostat_trainer.rollouts.patience import Patience
from heliostat_trainer.rollouts.service import (
    NOTHING_TOLD,
    RefusedPrompt,
    RefusedPrompts,
    ScoreRequest,
    Scores,
)
from heliostat_trainer.rollouts.stream import StreamSource
from heliostat_trainer.rollouts.wire import Outputs, infer_inputs
from heliostat_wire.names import Model, Tensor
from heliostat_wire.specs import read_json_element, spec_name
from heliostat_wire.tensors import encode_inputs, read_conditioning, score_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_trainer.rollouts.connection import Caller
    from heliostat_trainer.rollouts.service import Told
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter, ServerInfo
    from heliostat_wire.tensors import Arrays

REWARDS_LOAD_S = 600.0
"""The first who asks for rewards waits until their weights are read, and judges have been tried."""
MAX_SCORE_BYTES = 256 * 2**20
"""Of latents and images in a request."""
MAX_ENCODE_BYTES = 64 * 2**20
"""Of embeddings in an answer: seven prompts of FLUX's width."""
MAX_ENCODE_PROMPTS = 64
FLOAT_BYTES = 4
MAX_CHECK_BYTES = 2**20
MAX_CHECK_PROMPTS = 1000
"""Of prompts in a request that asks which of them are refused."""


class RolloutClient:
    """A `RolloutService` over gRPC. Close it, or use it as a context manager.

    What fails for now is asked again for `patience_s`; what was answered before is kept, and the
    rollout address is read anew. What the server refuses is raised at once, in its words.
    If it comes back without our adapters (its state was lost), they are published again.
    The first call opens the experiment with the first of the tokens that the server takes.
    """

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._connection = control.connection

    @classmethod
    def at(cls, url: str, caller: Caller) -> Self:
        """Of the server at a URL. Raises ConfigError."""
        waiting = Patience(caller.patience_s, url, caller.say)
        return cls(ControlPlane(Connection.to(url, caller, waiting), PublishedAdapters()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        self._connection.close()

    def info(self) -> ServerInfo:
        """Model, limits and rewards, asked anew."""
        return self._connection.patiently(self._control.info)

    def publish(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> PublishedAdapter:
        """Make an adapter the experiment's next version, and one that `explore` can draw with."""
        self._control.published.keep(files, told)
        return self._connection.patiently(lambda: self._control.publish(files))

    def rest(self) -> GivenBack:
        """Have a server on the trainer's card give its memory back, until the next request."""
        return self._connection.patiently(self._control.rest)

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter | None = None
    ) -> Iterator[Group]:
        """Draw and reward groups under one of the three adapters last published (None: base model).

        Several groups are in flight; each is yielded when all its candidates are there. May run
        beside the other methods in another thread: it has a connection of its own.
        """
        yield from self.explore_from(Backlog(requests), adapter)

    def explore_from(
        self, backlog: Backlog, adapter: PublishedAdapter | None = None
    ) -> Iterator[Group]:
        """As `explore`, with groups of a backlog that others may take from too.

        If the server stays of no use, what it was asked for goes back there.
        """
        control = self._control.anew()
        source = StreamSource(control, adapter)
        with control.connection as connection:
            exploration = Exploration(backlog, source, connection.caller)
            try:
                while exploration.wait_for_work():
                    group = connection.patiently(
                        lambda: source.unless_forgotten(exploration.next_group)
                    )
                    if group is not None:
                        yield group
            finally:
                exploration.give_back()

    def score(
        self,
        latents: torch.Tensor,
        prompts: Sequence[str],
        rewards: Sequence[str],
        *,
        return_images: bool = False,
        decoder: DecoderName = DecoderName.FULL,
    ) -> Scores:
        """Rewards[B, R] of clean latents[B, ...], one prompt each; images uint8[B, H, W, 3]."""
        return self.score_all(ScoreRequest(latents, prompts, rewards, return_images, decoder))

    def score_all(self, request: ScoreRequest) -> Scores:
        """As `score`, in parts that the server takes."""
        info = self._known_info()
        size = request.latents[:1].numel() * FLOAT_BYTES
        if request.return_images:
            size += 3 * max(map(pixels, info.sizes))
        each = parts([size] * len(request), MAX_SCORE_BYTES, info.batch)
        return Scores.concat([self._score(request.take(rows)) for rows in each])

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Text embeddings, a row a prompt, in float32; asked for a few prompts at a time."""
        if not prompts:
            return self._encode(prompts)
        first, others = self._encode(prompts[:1]), prompts[1:]
        sizes = [first.bytes] * len(others)
        most = min(MAX_ENCODE_PROMPTS, self._known_info().max_seeds)
        rest = parts(sizes, MAX_ENCODE_BYTES, most)
        return Conditioning.concat([first, *(self._encode(others[rows]) for rows in rest)])

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        return read_conditioning(self._infer(Model.TEXT_ENCODER, lambda: encode_inputs(prompts)))

    def refused_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> RefusedPrompts:
        """Which of the prompts the rewards refuse; none where the server cannot tell."""
        info = self._known_info()
        if not info.checks_prompts:
            return RefusedPrompts()
        first: list[RefusedPrompt] = []
        count = 0
        sizes = [len(prompt.encode()) for prompt in prompts]
        for rows in parts(sizes, MAX_CHECK_BYTES, min(MAX_CHECK_PROMPTS, info.max_seeds)):
            part = prompts[rows]
            report = self._check_prompts(part, rewards)
            count += report.refused
            first += [RefusedPrompt(part[one.prompt], one.reason) for one in report.refusals]
        return RefusedPrompts(tuple(first), count)

    def _check_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> PromptReport:
        spec = ScoreSpec(prompts=prompts, rewards=rewards, check_prompts=True)
        answer = self._infer(Model.SCORE, lambda: score_inputs(spec), REWARDS_LOAD_S)
        return read_json_element(answer[Tensor.REPORT], PromptReport())

    def _score(self, request: ScoreRequest) -> Scores:
        spec = ScoreSpec(
            prompts=request.prompts,
            rewards=request.rewards,
            return_images=request.return_images,
            decoder=spec_name(request.decoder),
        )
        array = request.latents.detach().float().cpu().numpy()
        answer = self._infer(Model.SCORE, lambda: score_inputs(spec, array))
        values = answer[Tensor.REWARDS].astype(np.float64)
        for row, column in np.argwhere(~np.isfinite(values)):
            raise ServerRefusedError(
                f"reward {request.rewards[column]} for {request.prompts[row]!r} is "
                f"{values[row, column]}: mend the reward model on the server"
            )
        return Scores(values, answer[Tensor.IMAGES] if request.return_images else None)

    def _infer(
        self, model: Model, inputs: Callable[[], Arrays], timeout_s: float | None = None
    ) -> Outputs:
        def ask() -> Outputs:
            address = (self._control.known_info() or self._control.info()).rollout_address
            triton, access = self._connection.triton(address), self._connection.opened()
            try:
                result = triton.infer(
                    model.value,
                    infer_inputs(inputs()),
                    client_timeout=timeout_s or self._connection.caller.silence_s,
                    headers=access.headers,
                )
                return Outputs.of(result)
            except InferenceServerException as error:
                raise triton_error(error, address) from error

        return self._connection.patiently(ask)

    def _known_info(self) -> ServerInfo:
        # What is known already is no sign that the server is there.
        return self._control.known_info() or self.info()
