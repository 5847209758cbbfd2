"""A bare KServe and control-plane client: what the wire says, with gRPC status codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from heliostat_proto import control_pb2, control_pb2_grpc
from heliostat_wire.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from heliostat_engines.adapters import AdapterFiles

DTYPES = {"INT64": np.int64, "FP32": np.float32, "UINT8": np.uint8}


class StreamError(Exception):
    """An error within a stream: the code and the sentence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        refusal = Refusal.read(text)
        self.code = None if refusal is None else refusal.code
        self.sentence = text if refusal is None else refusal.sentence


class RolloutClient:
    """Talks to one server; counts the bytes of its messages."""

    def __init__(self, rollout: str, control: str, token: str = "") -> None:
        self._metadata = [("authorization", f"Bearer {token}")]
        self._channels = [grpc.insecure_channel(address) for address in (rollout, control)]
        self._triton: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channels[0])
        self._control: Any = control_pb2_grpc.ControlStub(self._channels[1])
        self.wire_bytes = 0
        self._opened: set[str] = set()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def info(self, experiment: str = "") -> control_pb2.InfoResponse:
        return self._control.Info(
            control_pb2.InfoRequest(experiment=experiment), timeout=10, metadata=self._metadata
        )

    def targets(self) -> dict[str, tuple[int, int]]:
        targets = self.info().engine.lora_targets
        return {name: (shape.in_features, shape.out_features) for name, shape in targets.items()}

    def publish(
        self,
        files: AdapterFiles,
        experiment: str = "e",
        timeout_s: float = 60,
        chunk_bytes: int = 65536,
        **header: object,
    ) -> control_pb2.PublishResponse:
        parts = iter_publish_parts(files, experiment, chunk_bytes, **header)
        if experiment not in self._opened:
            self.open(experiment)
            self._opened.add(experiment)
        return self._control.Publish(parts, timeout=timeout_s, metadata=self._metadata)

    def open(self, experiment: str) -> str:
        """A token of an experiment, which is made if it is not there."""
        return self.ask("Open", control_pb2.OpenRequest(experiment=experiment)).token

    def ask(self, method: str, request: object) -> Any:
        """Call the control plane."""
        return getattr(self._control, method)(request, timeout=30, metadata=self._metadata)

    def start_explore(
        self,
        seeds: Sequence[int],
        timeout_s: float = 60,
        request_id: str = "",
        request_timeout_us: int = 0,
        **spec: object,
    ) -> Any:
        rollout = {
            "experiment": "e",
            "prompt": "a red cat",
            "steps": 2,
            "rewards": ["colourfulness"],
        }
        request = service_pb2.ModelInferRequest(model_name="explore", id=request_id)
        if request_timeout_us:
            request.parameters["timeout"].int64_param = request_timeout_us
        _add_bytes(request, "SPEC", [json.dumps({"rollout": rollout | spec}).encode()])
        _add(request, "SEEDS", np.array(seeds, np.int64))
        self.wire_bytes += request.ByteSize()
        return self._triton.ModelStreamInfer(
            iter([request]), timeout=timeout_s, metadata=self._metadata
        )

    def explore(self, seeds: Sequence[int], **spec: object) -> list[dict[str, np.ndarray]]:
        return list(self.iter_explore(seeds, **spec))

    def iter_explore(self, seeds: Sequence[int], **spec: Any) -> Iterator[dict[str, np.ndarray]]:
        for answer in self.start_explore(seeds, **spec):
            self.wire_bytes += answer.ByteSize()
            if answer.error_message:
                raise StreamError(answer.error_message)
            if answer.infer_response.outputs:
                yield _outputs(answer.infer_response)

    def rewards(self, seeds: Sequence[int], **spec: object) -> np.ndarray:
        """rewards[N, R], batches joined in their order."""
        return np.concatenate([answer["REWARDS"] for answer in self.explore(seeds, **spec)])

    def score(self, latents: np.ndarray, **spec: object) -> dict[str, np.ndarray]:
        request = service_pb2.ModelInferRequest(model_name="score")
        _add_bytes(request, "SPEC", [json.dumps(spec).encode()])
        _add(request, "LATENTS", latents)
        return _outputs(self._triton.ModelInfer(request, timeout=60, metadata=self._metadata))

    def encode(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        request = service_pb2.ModelInferRequest(model_name="text_encoder")
        _add_bytes(request, "PROMPTS", [prompt.encode() for prompt in prompts])
        return _outputs(self._triton.ModelInfer(request, timeout=60, metadata=self._metadata))


def publish_parts(
    files: AdapterFiles, experiment: str, chunk_bytes: int = 65536, **header: object
) -> list[control_pb2.PublishRequest]:
    """The messages of a Publish; `header` overrides fields of the header."""
    return list(iter_publish_parts(files, experiment, chunk_bytes, **header))


def iter_publish_parts(
    files: AdapterFiles, experiment: str, chunk_bytes: int = 65536, **header: object
) -> Iterator[control_pb2.PublishRequest]:
    """The same, one at a time."""
    fields = {
        "experiment": experiment,
        "sha256": files.sha256,
        "config": files.config,
        "tensor_bytes": len(files.tensors),
    }
    yield control_pb2.PublishRequest(header=control_pb2.AdapterHeader(**fields | header))
    for start in range(0, len(files.tensors), chunk_bytes):
        yield control_pb2.PublishRequest(chunk=files.tensors[start : start + chunk_bytes])


def _add(request: Any, name: str, values: np.ndarray) -> None:
    datatype = next(datatype for datatype, dtype in DTYPES.items() if values.dtype == dtype)
    request.inputs.add(name=name, datatype=datatype, shape=values.shape)
    request.raw_input_contents.append(np.ascontiguousarray(values).tobytes())


def _add_bytes(request: Any, name: str, elements: Sequence[bytes]) -> None:
    request.inputs.add(name=name, datatype="BYTES", shape=[len(elements)])
    packed = b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    request.raw_input_contents.append(packed)


def _outputs(response: Any) -> dict[str, np.ndarray]:
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(list(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
