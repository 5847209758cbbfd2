"""The server's two gRPC endpoints in the test's own process, with faults to order."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np
from google.protobuf.json_format import MessageToJson
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor

from heliostat_engines.adapters import AdapterFiles, parse_adapter
from heliostat_proto import control_pb2, control_pb2_grpc, rollout_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 2


def reward_of(seed: int) -> float:
    return float(seed % 97)


@dataclass
class Faults:
    """What goes wrong; each entry is used up by the answer that it spoils."""

    streams: list[Callable[[Any], str | None]] = field(default_factory=list)
    """Called before each rollout batch: raise or abort, or return an in-band error."""
    score: list[str] = field(default_factory=list)
    control: str = ""
    """What every publish is answered with, as one that cannot be taken just now."""
    info: str = ""
    """What is answered instead of what it serves, as of one that cannot be reached."""
    version_shift: int = 0
    nan: bool = False
    silent: bool = False


class WireServer:
    """Control plane and KServe endpoint on free ports of the loopback."""

    def __init__(self, control_port: int = 0) -> None:
        self.faults = Faults()
        self.precision = "nvfp4"
        self.compute_dtype = ""
        self.checkpoint = ""
        self.weights_digest = ""
        self.rewards = ["judge"]
        self.checks_prompts = True
        self.scores_early = True
        self.solvers = ["euler", "dpm2m"]
        self.max_queued_images = 0
        self.decoders = ["full", "tiny"]
        self.sizes = [(64, 64), (832, 1216)]
        self.wire_version = self.oldest_wire_version = 0
        self.loading = ""
        """What Info is answered with, as long as there is no engine."""
        self.infos = 0
        self.checked: list[list[str]] = []
        self.tokens = {"admin"}
        self.given = "of"
        self.published: list[AdapterFiles] = []
        self.tuned: list[str] = []
        self.steps: list[control_pb2.StepReport | None] = []
        self.asked: list[tuple[str, tuple[int, ...], int]] = []
        self.specs: list[dict[str, Any]] = []
        self.scored: list[list[str]] = []
        self.decoded_with: list[str | None] = []
        self.encoded: list[list[str]] = []
        self._triton: grpc.Server | None = None
        self.start_triton()
        self._control = grpc.server(ThreadPoolExecutor(4))
        control_pb2_grpc.add_ControlServicer_to_server(_Control(self), self._control)
        self.port = self._control.add_insecure_port(f"127.0.0.1:{control_port}")
        self._control.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start_triton(self) -> None:
        """Start the KServe endpoint, or move it to another port."""
        if self._triton is not None:
            self._triton.stop(0).wait()
        self._triton = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_KServe(self), self._triton)
        self.triton_port = self._triton.add_insecure_port("127.0.0.1:0")
        self._triton.start()

    def forget(self) -> None:
        """Lose the published adapters, as a server with fresh state has."""
        self.published = []

    def check(self, context: Any) -> str:
        """The token that was sent; one of `tokens`, or one given for an experiment."""
        token = str(dict(context.invocation_metadata()).get("authorization")).split(" ")[-1]
        if token not in self.tokens and not token.startswith(f"{self.given}-"):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this token is not valid here")
        return token

    def stop(self) -> None:
        self._control.stop(0).wait()
        if self._triton is not None:
            self._triton.stop(0).wait()


class _Control(control_pb2_grpc.ControlServicer):
    def __init__(self, server: WireServer) -> None:
        self._server = server

    def Open(self, request, context):  # noqa: N802
        token = self._server.check(context)
        own = f"{self._server.given}-{request.experiment}"
        return control_pb2.OpenResponse(token=own if token in self._server.tokens else "")

    def Info(self, _, context):  # noqa: N802
        self._server.check(context)
        self._server.infos += 1
        if self._server.loading:
            unavailable(context, self._server.loading)
        if self._server.faults.info:
            context.abort(grpc.StatusCode.UNAVAILABLE, self._server.faults.info)
        return control_pb2.InfoResponse(
            server_version="1",
            rollout_address=f"127.0.0.1:{self._server.triton_port}",
            engine=control_pb2.EngineInfo(
                family="demo",
                precision=self._server.precision,
                compute_dtype=self._server.compute_dtype,
                checkpoint=self._server.checkpoint,
                weights_digest=self._server.weights_digest,
                max_rank=8,
                resolution_px=64,
                lora_targets={"a.to_q": control_pb2.LinearShape(in_features=4, out_features=6)},
            ),
            rewards=self._server.rewards,
            limits=control_pb2.Limits(batch=BATCH, max_steps=9, max_seeds=100),
            latest_version=len(self._server.published),
            checks_prompts=self._server.checks_prompts,
            scores_early=self._server.scores_early,
            solvers=self._server.solvers,
            max_queued_images=self._server.max_queued_images,
            decoders=self._server.decoders,
            sizes=[
                control_pb2.ImageSize(width_px=width, height_px=height)
                for width, height in self._server.sizes
            ],
            wire_version=self._server.wire_version,
            oldest_wire_version=self._server.oldest_wire_version,
        )

    def GetExperiment(self, request, context):  # noqa: N802
        self._server.check(context)
        published = enumerate(self._server.published, start=1)
        versions = [control_pb2.Version(version=n, sha256=each.sha256) for n, each in published]
        return control_pb2.Experiment(name=request.experiment, versions=versions)

    def Publish(self, request_iterator, context):  # noqa: N802
        self._server.check(context)
        parts = list(request_iterator)
        if self._server.faults.control:
            unavailable(context, self._server.faults.control)
        header = parts[0].header
        files = AdapterFiles(header.config, b"".join(part.chunk for part in parts[1:]))
        if len(files.tensors) != header.tensor_bytes or files.sha256 != header.sha256:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the adapter did not arrive whole")
        if parse_adapter(files).rank > 8:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the adapter has too large a rank")
        self._server.published.append(files)
        self._server.tuned.append(header.tuned)
        self._server.steps.append(header.step if header.HasField("step") else None)
        return control_pb2.PublishResponse(
            version=len(self._server.published),
            sha256=files.sha256,
            bound_modules=1,
            target_modules=1,
        )


class _KServe(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, server: WireServer) -> None:
        self._server = server

    def ModelReady(self, *_):  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelStreamInfer(self, request_iterator, context):  # noqa: N802
        for request in request_iterator:
            self._server.check(context)
            yield from self._explore(request, context)

    def _explore(self, request: Any, context: Any) -> Iterator[Any]:
        spec = json.loads(read_bytes(request, "SPEC")[0])["rollout"]
        seeds = np.frombuffer(read_raw(request, "SEEDS"), np.int64)
        version = int(spec.get("version", 0))
        self._server.specs.append(spec)
        self._server.asked.append((spec["prompt"], tuple(seeds.tolist()), version))
        if version > len(self._server.published):
            yield service_pb2.ModelStreamInferResponse(
                error_message=f"[NOT_FOUND] experiment {spec['experiment']} has no version {version}"
            )
            return
        for start in range(0, len(seeds), BATCH):
            if self._server.faults.streams:
                error = self._server.faults.streams.pop(0)(context)
                if error is not None:
                    yield service_pb2.ModelStreamInferResponse(error_message=error)
                    return
            while self._server.faults.silent and context.is_active():
                time.sleep(0.05)
            yield self._answer(request, spec, seeds[start : start + BATCH], version)
        last = service_pb2.ModelStreamInferResponse()
        last.infer_response.id = request.id
        last.infer_response.parameters["triton_final_response"].bool_param = True
        yield last

    def _answer(self, request: Any, spec: dict[str, Any], seeds: Any, version: int) -> Any:
        answer = service_pb2.ModelStreamInferResponse()
        response = answer.infer_response
        response.id = request.id
        columns = 1 + np.arange(len(spec["rewards"]))
        rewards = np.array([reward_of(int(seed)) * columns for seed in seeds], np.float32)
        if self._server.faults.nan:
            rewards[0] = np.nan
        add(response, "SEEDS", seeds, "INT64")
        add(response, "REWARDS", rewards, "FP32")
        shifted = np.array([version + self._server.faults.version_shift])
        add(response, "VERSION", shifted, "INT64")
        if spec.get("returnLatents"):
            latents = np.broadcast_to(seeds[:, None, None], (len(seeds), 2, 2))
            add(response, "LATENTS", latents.astype(np.float32), "FP32")
        return answer

    def ModelInfer(self, request, context):  # noqa: N802
        self._server.check(context)
        if self._server.faults.score:
            context.abort(grpc.StatusCode.INTERNAL, self._server.faults.score.pop(0))
        response = service_pb2.ModelInferResponse(id=request.id)
        if request.model_name == "text_encoder":
            prompts = read_bytes(request, "PROMPTS")
            self._server.encoded.append(prompts)
            lengths = np.array([[[float(len(prompt))]] for prompt in prompts], np.float32)
            add(response, "TOKENS", lengths, "FP32")
            add(response, "POOLED", lengths[:, 0], "FP32")
            return response
        spec = json.loads(read_bytes(request, "SPEC")[0])
        if spec.get("checkPrompts"):
            self._server.checked.append(spec["prompts"])
            bad = [place for place, text in enumerate(spec["prompts"]) if "bad" in text]
            refusals = [rollout_pb2.PromptRefusal(prompt=place, reason="bad") for place in bad]
            report = rollout_pb2.PromptReport(refusals=refusals[:2], refused=len(bad))
            text = MessageToJson(report).encode()
            response.outputs.add(name="REPORT", datatype="BYTES", shape=[1])
            response.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
            return response
        self._server.scored.append(spec["prompts"])
        self._server.decoded_with.append(spec.get("decoder"))
        latents = np.frombuffer(read_raw(request, "LATENTS"), np.float32)
        latents = latents.reshape(request.inputs[1].shape)
        columns = [latents.reshape(len(latents), -1).mean(axis=1)] * len(spec["rewards"])
        add(response, "REWARDS", np.stack(columns, axis=1), "FP32")
        if spec.get("returnImages"):
            add(response, "IMAGES", np.zeros((len(latents), 4, 4, 3), np.uint8), "UINT8")
        return response


def unavailable(context: Any, sentence: str) -> None:
    """Say, as the control plane does, that something is not there at the moment."""
    context.set_trailing_metadata((("heliostat-code", "UNAVAILABLE"),))
    context.abort(grpc.StatusCode.UNAVAILABLE, sentence)


def read_raw(request: Any, name: str) -> bytes:
    names = [tensor.name for tensor in request.inputs]
    raw: bytes = request.raw_input_contents[names.index(name)]
    return raw


def read_bytes(request: Any, name: str) -> list[str]:
    return [text.decode() for text in deserialize_bytes_tensor(read_raw(request, name))]


def add(response: Any, name: str, values: Any, datatype: str) -> None:
    array = np.ascontiguousarray(values)
    response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    response.raw_output_contents.append(array.tobytes())
