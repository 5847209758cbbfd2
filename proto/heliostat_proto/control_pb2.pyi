from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InfoRequest(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    def __init__(self, experiment: _Optional[str] = ...) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("server_version", "rollout_address", "engine", "rewards", "limits", "latest_version")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    rollout_address: str
    engine: EngineInfo
    rewards: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    latest_version: int
    def __init__(self, server_version: _Optional[str] = ..., rollout_address: _Optional[str] = ..., engine: _Optional[_Union[EngineInfo, _Mapping]] = ..., rewards: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., latest_version: _Optional[int] = ...) -> None: ...

class EngineInfo(_message.Message):
    __slots__ = ("family", "checkpoint", "runtime", "precision", "nvfp4_linears", "linears", "lora_targets", "max_rank", "resolution_px")
    class LoraTargetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: LinearShape
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[LinearShape, _Mapping]] = ...) -> None: ...
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    NVFP4_LINEARS_FIELD_NUMBER: _ClassVar[int]
    LINEARS_FIELD_NUMBER: _ClassVar[int]
    LORA_TARGETS_FIELD_NUMBER: _ClassVar[int]
    MAX_RANK_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_PX_FIELD_NUMBER: _ClassVar[int]
    family: str
    checkpoint: str
    runtime: str
    precision: str
    nvfp4_linears: int
    linears: int
    lora_targets: _containers.MessageMap[str, LinearShape]
    max_rank: int
    resolution_px: int
    def __init__(self, family: _Optional[str] = ..., checkpoint: _Optional[str] = ..., runtime: _Optional[str] = ..., precision: _Optional[str] = ..., nvfp4_linears: _Optional[int] = ..., linears: _Optional[int] = ..., lora_targets: _Optional[_Mapping[str, LinearShape]] = ..., max_rank: _Optional[int] = ..., resolution_px: _Optional[int] = ...) -> None: ...

class LinearShape(_message.Message):
    __slots__ = ("in_features", "out_features")
    IN_FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUT_FEATURES_FIELD_NUMBER: _ClassVar[int]
    in_features: int
    out_features: int
    def __init__(self, in_features: _Optional[int] = ..., out_features: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("batch", "max_steps", "max_seeds", "max_prompt_chars", "max_adapter_bytes")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEEDS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    batch: int
    max_steps: int
    max_seeds: int
    max_prompt_chars: int
    max_adapter_bytes: int
    def __init__(self, batch: _Optional[int] = ..., max_steps: _Optional[int] = ..., max_seeds: _Optional[int] = ..., max_prompt_chars: _Optional[int] = ..., max_adapter_bytes: _Optional[int] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: AdapterHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[AdapterHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class AdapterHeader(_message.Message):
    __slots__ = ("experiment", "sha256", "config", "tensor_bytes")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    sha256: str
    config: bytes
    tensor_bytes: int
    def __init__(self, experiment: _Optional[str] = ..., sha256: _Optional[str] = ..., config: _Optional[bytes] = ..., tensor_bytes: _Optional[int] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("version", "sha256", "bound_modules", "target_modules")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BOUND_MODULES_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    version: int
    sha256: str
    bound_modules: int
    target_modules: int
    def __init__(self, version: _Optional[int] = ..., sha256: _Optional[str] = ..., bound_modules: _Optional[int] = ..., target_modules: _Optional[int] = ...) -> None: ...
