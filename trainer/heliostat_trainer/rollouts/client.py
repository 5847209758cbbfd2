"""The rollout server as the trainer sees it: one URL, everything else learnt from there."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import numpy as np
from tritonclient.utils import InferenceServerException

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.parts import parts
from heliostat_proto import control_pb2, control_pb2_grpc
from heliostat_proto.rollout_pb2 import PromptReport, ScoreSpec
from heliostat_trainer.errors import ConfigError, ServerRefusedError, TokenRefusedError
from heliostat_trainer.rollouts.exploration import Backlog, Behaviour, Exploration, RolloutStream
from heliostat_trainer.rollouts.failures import ServerAwayError, control_error, triton_error
from heliostat_trainer.rollouts.handshake import check_wire
from heliostat_trainer.rollouts.patience import Patience
from heliostat_trainer.rollouts.published import PublishedAdapters
from heliostat_trainer.rollouts.service import RefusedPrompt, RefusedPrompts, Scores
from heliostat_trainer.rollouts.tokens import GivenTokens
from heliostat_trainer.rollouts.wire import Access, Outputs, infer_inputs
from heliostat_trainer.settings.server import TLS_SCHEME, server_address
from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter, ServerInfo
from heliostat_wire.names import Model, Tensor
from heliostat_wire.specs import read_json_element, spec_name
from heliostat_wire.tensors import encode_inputs, read_conditioning, score_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch
    from tritonclient.grpc import InferenceServerClient

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_trainer.rollouts.tokens import Tokens
    from heliostat_wire.tensors import Arrays

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
CONTROL_TIMEOUT_S = 10.0
PUBLISH_TIMEOUT_S = 120.0
"""Of an adapter that has arrived: the server tries it before it is a version."""
REWARDS_LOAD_S = 600.0
"""The first who asks for rewards waits until their weights are read, and judges have been tried."""
SLOWEST_UPLOAD = 2**20
"""Bytes a second: a larger adapter has more time to arrive."""
SHORTEST_SILENCE_S = 60.0
MAX_SCORE_BYTES = 256 * 2**20
"""Of latents and images in a request."""
MAX_ENCODE_BYTES = 64 * 2**20
"""Of embeddings in an answer: seven prompts of FLUX's width."""
MAX_ENCODE_PROMPTS = 64
FLOAT_BYTES = 4
MAX_CHECK_BYTES = 2**20
MAX_CHECK_PROMPTS = 1000
"""Of prompts in a request that asks which of them are refused."""


class RolloutServer:
    """A `RolloutService` over gRPC. Close it, or use it as a context manager.

    Transport failures are retried for `patience_s`; what was answered before one is kept, and the
    rollout address is read anew after it. What the server refuses is raised at once, in its words.
    If it comes back without our adapters (its state was lost), they are published again.
    The first call opens the experiment with the first of the tokens that the server takes.
    """

    def __init__(
        self,
        url: str,
        experiment: str = "",
        *,
        tokens: Tokens | None = None,
        authority_file: Path | None = None,
        patience_s: float = 10.0,
        groups_in_flight: int = 4,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._url = url
        self._address = server_address(url)
        self._experiment = experiment
        self._tokens = tokens or GivenTokens()
        self._transport = _transport(url, authority_file)
        self._access: Access | None = None
        self._groups_in_flight = groups_in_flight
        self._silence_s = max(patience_s, SHORTEST_SILENCE_S)
        self._say = say
        self._patience = Patience(patience_s, url, say)
        self._channel: grpc.Channel | None = None
        self._triton: InferenceServerClient | None = None
        self._info: ServerInfo | None = None
        self._published = PublishedAdapters()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._channel is not None:
            self._channel.close()
        if self._triton is not None:
            self._triton.close()
        self._channel = self._triton = self._info = None

    def info(self) -> ServerInfo:
        """Model, limits and rewards, asked anew."""
        return self._patiently(self._read_info)

    def publish(self, files: AdapterFiles, tuned: str = "") -> PublishedAdapter:
        """Make an adapter the experiment's next version, and one that `explore` can draw with.

        tuned: what the run has decided last, for the server to show.
        """
        self._published.keep(files, tuned)
        return self._patiently(lambda: self._publish(files))

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter | None = None
    ) -> Iterator[Group]:
        """Draw and reward groups under one of the three adapters last published (None: base model).

        Several groups are in flight; each is yielded when all its candidates are there. May run
        beside the other methods in another thread: it has connections of its own.
        """
        yield from self.explore_from(Backlog(requests), adapter)

    def explore_from(
        self, backlog: Backlog, adapter: PublishedAdapter | None = None
    ) -> Iterator[Group]:
        """As `explore`, with groups of a backlog that others may take from too.

        If the server stays away, what it was asked for goes back there.
        """
        with self._twin() as twin:
            yield from twin._explore(backlog, adapter)

    def _twin(self) -> RolloutServer:
        """The same server over other connections, and with the same adapters."""
        twin = copy.copy(self)
        twin._channel = twin._triton = twin._info = None
        twin._patience = self._patience.anew()
        return twin

    def _explore(self, backlog: Backlog, adapter: PublishedAdapter | None) -> Iterator[Group]:
        exploration = Exploration(
            backlog,
            lambda: self._open_stream(adapter),
            self._probe,
            groups_in_flight=self._groups_in_flight,
            silence_s=self._silence_s,
            say=self._say,
        )

        def next_group() -> Group | None:
            answers = exploration.answers
            try:
                return exploration.next_group()
            finally:
                if exploration.answers > answers:
                    self._patience.answered()

        try:
            while exploration.wait_for_work():
                group = self._patiently(lambda: self._unless_forgotten(adapter, next_group))
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
        info = self._info or self.info()
        size = latents[:1].numel() * FLOAT_BYTES
        if return_images:
            size += 3 * info.resolution_px**2
        return Scores.concat(
            [
                self._score(
                    latents[rows],
                    prompts[rows],
                    rewards,
                    return_images=return_images,
                    decoder=decoder,
                )
                for rows in parts([size] * len(prompts), MAX_SCORE_BYTES, info.batch)
            ]
        )

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Text embeddings, a row a prompt, in float32; asked for a few prompts at a time."""
        if not prompts:
            return self._encode(prompts)
        first, others = self._encode(prompts[:1]), prompts[1:]
        sizes = [first.bytes] * len(others)
        most = min(MAX_ENCODE_PROMPTS, (self._info or self.info()).max_seeds)
        rest = parts(sizes, MAX_ENCODE_BYTES, most)
        return Conditioning.concat([first, *(self._encode(others[rows]) for rows in rest)])

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        return read_conditioning(self._infer(Model.TEXT_ENCODER, lambda: encode_inputs(prompts)))

    def refused_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> RefusedPrompts:
        """Which of the prompts the rewards refuse; none where the server cannot tell."""
        info = self._info or self.info()
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

    def _score(
        self,
        latents: torch.Tensor,
        prompts: Sequence[str],
        rewards: Sequence[str],
        *,
        return_images: bool,
        decoder: DecoderName,
    ) -> Scores:
        spec = ScoreSpec(
            prompts=prompts,
            rewards=rewards,
            return_images=return_images,
            decoder=spec_name(decoder),
        )
        array = latents.detach().float().cpu().numpy()
        answer = self._infer(Model.SCORE, lambda: score_inputs(spec, array))
        values = answer[Tensor.REWARDS].astype(np.float64)
        for row, column in np.argwhere(~np.isfinite(values)):
            raise ServerRefusedError(
                f"reward {rewards[column]} for {prompts[row]!r} is {values[row, column]}: mend the "
                "reward model on the server"
            )
        return Scores(values, answer[Tensor.IMAGES] if return_images else None)

    def _infer(
        self, model: Model, inputs: Callable[[], Arrays], timeout_s: float | None = None
    ) -> Outputs:
        def ask() -> Outputs:
            address = (self._info or self._read_info()).rollout_address
            access = self._opened()
            if self._triton is None:
                self._triton = access.triton(address)
            try:
                result = self._triton.infer(
                    model.value,
                    infer_inputs(inputs()),
                    client_timeout=timeout_s or self._silence_s,
                    headers=access.headers,
                )
                return Outputs.of(result)
            except InferenceServerException as error:
                raise triton_error(error, address) from error

        return self._patiently(ask)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Retry while the server is away, over fresh connections: its ports may have changed."""

        def attempt() -> T:
            try:
                return action()
            except ServerAwayError:
                self.close()
                raise
            except TokenRefusedError:
                if self._access is None:
                    raise
                # Its state may be new, or the token revoked: there may be another one.
                self.close()
                self._access = None
                return action()

        return self._patience.call(attempt)

    def _unless_forgotten(self, adapter: PublishedAdapter | None, action: Callable[[], T]) -> T:
        """Turn the refusal of a version that the server has lost into one worth asking again."""
        try:
            return action()
        except ServerRefusedError as refusal:
            if adapter is None or self._version(adapter, self._read_info()) is not None:
                raise
            raise ServerAwayError(f"its state was lost: {refusal}") from refusal

    def _open_stream(self, adapter: PublishedAdapter | None) -> RolloutStream:
        info = self._read_info()
        version = 0
        if adapter is not None:
            version = self._version(adapter, info) or self._publish_again(adapter).version
        self._require_ready(info.rollout_address)
        behaviour = Behaviour(self._experiment, version)
        return RolloutStream(info.rollout_address, behaviour, self._opened())

    def _probe(self, stream: RolloutStream) -> None:
        address = self._read_info().rollout_address
        if address != stream.address:
            raise ServerAwayError(f"the server moved from {stream.address} to {address}")
        self._require_ready(address)

    def _require_ready(self, address: str) -> None:
        client = self._opened().triton(address)
        try:
            ready = client.is_model_ready(Model.EXPLORE.value, client_timeout=CONTROL_TIMEOUT_S)
        except InferenceServerException as error:
            raise triton_error(error, address) from error
        finally:
            client.close()
        if not ready:
            raise ServerAwayError(f"the model {Model.EXPLORE.value!r} is not ready")

    def _version(self, adapter: PublishedAdapter, info: ServerInfo) -> int | None:
        """The version under which the server has an adapter; None if it has lost it."""
        self._published.seen(info.latest_version)
        return self._published.version(adapter.sha256)

    def _publish_again(self, adapter: PublishedAdapter) -> PublishedAdapter:
        return self._publish(self._published.files(adapter.sha256))

    def _read_info(self) -> ServerInfo:
        access = self._opened()
        request = control_pb2.InfoRequest(experiment=self._experiment)
        answer = self._ask("Info", request, access, CONTROL_TIMEOUT_S)
        check_wire(answer, self._url)
        self._info = ServerInfo.read(answer, self._address)
        return self._info

    def _publish(self, files: AdapterFiles) -> PublishedAdapter:
        access = self._opened()
        messages = _publish_requests(self._experiment, files, self._published.tuned)
        timeout_s = PUBLISH_TIMEOUT_S + len(files.tensors) / SLOWEST_UPLOAD
        answer = self._ask("Publish", messages, access, timeout_s)
        if answer.sha256 != files.sha256:
            raise ServerRefusedError(
                f"published adapter {files.sha256[:12]}, the server holds {answer.sha256[:12]}"
            )
        adapter = PublishedAdapter(
            self._experiment,
            answer.version,
            answer.sha256,
            answer.bound_modules,
            answer.target_modules,
        )
        self._published.published(adapter)
        return adapter

    def _opened(self) -> Access:
        """What the server is opened with: the first of our tokens that it takes."""
        if self._access is None:
            self._access = self._open()
        return self._access

    def _open(self) -> Access:
        refusal = TokenRefusedError(
            f"no token for the rollout server at {self._url}: give one in HELIOSTAT_TOKEN or "
            "server.token_file, or run `heliostat login` once"
        )
        for token in self._tokens.candidates():
            access = replace(self._transport, token=token)
            try:
                return self._open_with(access)
            except TokenRefusedError as error:
                refusal = error
        raise refusal

    def _open_with(self, access: Access) -> Access:
        if not self._experiment:
            self._ask("Info", control_pb2.InfoRequest(), access, CONTROL_TIMEOUT_S)
            return access
        request = control_pb2.OpenRequest(experiment=self._experiment)
        own = self._ask("Open", request, access, CONTROL_TIMEOUT_S).token
        if not own:
            return access
        self._tokens.keep(own)
        return replace(access, token=own)

    def _ask(self, method: str, request: object, access: Access, timeout_s: float) -> Any:
        """Call the control plane. Raises ServerAwayError, ServerRefusedError."""
        if self._channel is None:
            self._channel = access.channel(self._address)
        stub = control_pb2_grpc.ControlStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            return getattr(stub, method)(request, timeout=timeout_s, metadata=access.metadata)
        except grpc.RpcError as error:
            raise control_error(error, self._url) from error


def _publish_requests(
    experiment: str, files: AdapterFiles, tuned: str
) -> Iterator[control_pb2.PublishRequest]:
    yield control_pb2.PublishRequest(
        header=control_pb2.AdapterHeader(
            experiment=experiment,
            sha256=files.sha256,
            config=files.config,
            tensor_bytes=len(files.tensors),
            tuned=tuned,
        )
    )
    for start in range(0, len(files.tensors), CHUNK_BYTES):
        yield control_pb2.PublishRequest(chunk=files.tensors[start : start + CHUNK_BYTES])


def _transport(url: str, authority_file: Path | None) -> Access:
    """TLS or not, as a URL says. Raises ConfigError."""
    if not url.startswith(f"{TLS_SCHEME}://"):
        return Access()
    if authority_file is None:
        return Access(tls=True)
    try:
        return Access(tls=True, authorities=authority_file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"server.authority_file = {str(authority_file)!r}: {error.strerror}"
        ) from error
