"""Arrays travel to Triton and back as its own client packs them."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import InferInput, InferResult, service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from heliostat_wire.kserve import datatype_of, from_raw, infer_request, read_outputs, to_raw
from heliostat_wire.names import Model, Tensor
from heliostat_wire.tensors import encode_inputs


def test_texts_are_packed_as_tritons_own_client_packs_them() -> None:
    texts = encode_inputs(["a red cat", "", "größer"])[Tensor.PROMPTS]
    raw = to_raw(texts)
    assert raw == serialize_byte_tensor(texts).item()
    assert deserialize_bytes_tensor(raw).tolist() == texts.tolist()
    assert from_raw(raw, "BYTES", [3]).tolist() == texts.tolist()


@pytest.mark.parametrize(
    ("dtype", "datatype"), [(np.int64, "INT64"), (np.float32, "FP32"), (np.uint8, "UINT8")]
)
def test_numbers_keep_type_and_shape(dtype: type, datatype: str) -> None:
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    assert datatype_of(array) == datatype
    read = from_raw(to_raw(array), datatype, array.shape)
    assert read.dtype == dtype
    assert read.tolist() == array.tolist()


def test_a_request_has_the_inputs_that_tritons_own_client_makes() -> None:
    arrays = {"SEEDS": np.array([3, 5]), **encode_inputs(["größer"])}
    request = infer_request(Model.EXPLORE, arrays)
    assert request.model_name == "explore"
    for tensor, raw, (name, array) in zip(
        request.inputs, request.raw_input_contents, arrays.items(), strict=True
    ):
        theirs = InferInput(name, list(array.shape), datatype_of(array))
        theirs.set_data_from_numpy(array)
        assert tensor == theirs._get_tensor()
        assert raw == theirs._get_content()


def test_an_answer_is_read_as_tritons_own_client_reads_it() -> None:
    answer = service_pb2.ModelInferResponse()
    written = {"REWARDS": np.array([[0.5], [2]], np.float32), "REPORT": np.array([b"{}"], object)}
    for name, array in written.items():
        answer.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        answer.raw_output_contents.append(to_raw(array))
    read = read_outputs(answer)
    assert list(read) == list(written)
    for name, array in read.items():
        theirs = InferResult(answer).as_numpy(name)
        assert array.dtype == theirs.dtype
        assert array.tolist() == theirs.tolist()
