from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenRequest(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    def __init__(self, experiment: _Optional[str] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    def __init__(self, experiment: _Optional[str] = ...) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("server_version", "rollout_address", "engine", "rewards", "limits", "latest_version", "checks_prompts", "scores_early", "solvers", "max_queued_images", "decoders", "wire_version", "oldest_wire_version", "sizes", "sleeps")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKS_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_EARLY_FIELD_NUMBER: _ClassVar[int]
    SOLVERS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    DECODERS_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    OLDEST_WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    SLEEPS_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    rollout_address: str
    engine: EngineInfo
    rewards: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    latest_version: int
    checks_prompts: bool
    scores_early: bool
    solvers: _containers.RepeatedScalarFieldContainer[str]
    max_queued_images: int
    decoders: _containers.RepeatedScalarFieldContainer[str]
    wire_version: int
    oldest_wire_version: int
    sizes: _containers.RepeatedCompositeFieldContainer[ImageSize]
    sleeps: bool
    def __init__(self, server_version: _Optional[str] = ..., rollout_address: _Optional[str] = ..., engine: _Optional[_Union[EngineInfo, _Mapping]] = ..., rewards: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., latest_version: _Optional[int] = ..., checks_prompts: _Optional[bool] = ..., scores_early: _Optional[bool] = ..., solvers: _Optional[_Iterable[str]] = ..., max_queued_images: _Optional[int] = ..., decoders: _Optional[_Iterable[str]] = ..., wire_version: _Optional[int] = ..., oldest_wire_version: _Optional[int] = ..., sizes: _Optional[_Iterable[_Union[ImageSize, _Mapping]]] = ..., sleeps: _Optional[bool] = ...) -> None: ...

class ImageSize(_message.Message):
    __slots__ = ("width_px", "height_px")
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    width_px: int
    height_px: int
    def __init__(self, width_px: _Optional[int] = ..., height_px: _Optional[int] = ...) -> None: ...

class EngineInfo(_message.Message):
    __slots__ = ("family", "checkpoint", "runtime", "precision", "nvfp4_linears", "linears", "lora_targets", "max_rank", "resolution_px", "weights_digest", "compute_dtype")
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
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    family: str
    checkpoint: str
    runtime: str
    precision: str
    nvfp4_linears: int
    linears: int
    lora_targets: _containers.MessageMap[str, LinearShape]
    max_rank: int
    resolution_px: int
    weights_digest: str
    compute_dtype: str
    def __init__(self, family: _Optional[str] = ..., checkpoint: _Optional[str] = ..., runtime: _Optional[str] = ..., precision: _Optional[str] = ..., nvfp4_linears: _Optional[int] = ..., linears: _Optional[int] = ..., lora_targets: _Optional[_Mapping[str, LinearShape]] = ..., max_rank: _Optional[int] = ..., resolution_px: _Optional[int] = ..., weights_digest: _Optional[str] = ..., compute_dtype: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("experiment", "sha256", "config", "tensor_bytes", "tuned", "step")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    TUNED_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    sha256: str
    config: bytes
    tensor_bytes: int
    tuned: str
    step: StepReport
    def __init__(self, experiment: _Optional[str] = ..., sha256: _Optional[str] = ..., config: _Optional[bytes] = ..., tensor_bytes: _Optional[int] = ..., tuned: _Optional[str] = ..., step: _Optional[_Union[StepReport, _Mapping]] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("step", "version", "seconds", "shape", "explore_steps", "kept_spread", "fidelity", "decision")
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    EXPLORE_STEPS_FIELD_NUMBER: _ClassVar[int]
    KEPT_SPREAD_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: int
    seconds: _containers.ScalarMap[str, float]
    shape: StepShape
    explore_steps: int
    kept_spread: float
    fidelity: Fidelity
    decision: StepDecision
    def __init__(self, step: _Optional[int] = ..., version: _Optional[int] = ..., seconds: _Optional[_Mapping[str, float]] = ..., shape: _Optional[_Union[StepShape, _Mapping]] = ..., explore_steps: _Optional[int] = ..., kept_spread: _Optional[float] = ..., fidelity: _Optional[_Union[Fidelity, _Mapping]] = ..., decision: _Optional[_Union[StepDecision, _Mapping]] = ...) -> None: ...

class StepShape(_message.Message):
    __slots__ = ("prompts", "candidates", "keep_pairs", "score_after")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    KEEP_PAIRS_FIELD_NUMBER: _ClassVar[int]
    SCORE_AFTER_FIELD_NUMBER: _ClassVar[int]
    prompts: int
    candidates: int
    keep_pairs: int
    score_after: int
    def __init__(self, prompts: _Optional[int] = ..., candidates: _Optional[int] = ..., keep_pairs: _Optional[int] = ..., score_after: _Optional[int] = ...) -> None: ...

class StepDecision(_message.Message):
    __slots__ = ("step", "shape", "why")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    step: int
    shape: StepShape
    why: str
    def __init__(self, step: _Optional[int] = ..., shape: _Optional[_Union[StepShape, _Mapping]] = ..., why: _Optional[str] = ...) -> None: ...

class Fidelity(_message.Message):
    __slots__ = ("rho", "tau_b", "overlap", "rank_of_best", "rank_of_worst", "spread_gain")
    RHO_FIELD_NUMBER: _ClassVar[int]
    TAU_B_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    RANK_OF_BEST_FIELD_NUMBER: _ClassVar[int]
    RANK_OF_WORST_FIELD_NUMBER: _ClassVar[int]
    SPREAD_GAIN_FIELD_NUMBER: _ClassVar[int]
    rho: float
    tau_b: float
    overlap: float
    rank_of_best: float
    rank_of_worst: float
    spread_gain: float
    def __init__(self, rho: _Optional[float] = ..., tau_b: _Optional[float] = ..., overlap: _Optional[float] = ..., rank_of_best: _Optional[float] = ..., rank_of_worst: _Optional[float] = ..., spread_gain: _Optional[float] = ...) -> None: ...

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

class RestResponse(_message.Message):
    __slots__ = ("memory_bytes", "seconds")
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    memory_bytes: int
    seconds: float
    def __init__(self, memory_bytes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class VersionRequest(_message.Message):
    __slots__ = ("experiment", "version")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    version: int
    def __init__(self, experiment: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ExperimentRequest(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    def __init__(self, experiment: _Optional[str] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("weight", "priority", "max_queued_images", "paused")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    weight: float
    priority: int
    max_queued_images: int
    paused: bool
    def __init__(self, weight: _Optional[float] = ..., priority: _Optional[int] = ..., max_queued_images: _Optional[int] = ..., paused: _Optional[bool] = ...) -> None: ...

class ShareChange(_message.Message):
    __slots__ = ("weight", "priority", "max_queued_images", "paused")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    weight: float
    priority: int
    max_queued_images: int
    paused: bool
    def __init__(self, weight: _Optional[float] = ..., priority: _Optional[int] = ..., max_queued_images: _Optional[int] = ..., paused: _Optional[bool] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("images", "nfes", "seconds")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NFES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    images: int
    nfes: int
    seconds: float
    def __init__(self, images: _Optional[int] = ..., nfes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("version", "sha256", "pinned", "bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    version: int
    sha256: str
    pinned: bool
    bytes: int
    def __init__(self, version: _Optional[int] = ..., sha256: _Optional[str] = ..., pinned: _Optional[bool] = ..., bytes: _Optional[int] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("name", "created", "share", "latest_version", "versions", "usage", "tuned")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    LATEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TUNED_FIELD_NUMBER: _ClassVar[int]
    name: str
    created: str
    share: Share
    latest_version: int
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    usage: Usage
    tuned: str
    def __init__(self, name: _Optional[str] = ..., created: _Optional[str] = ..., share: _Optional[_Union[Share, _Mapping]] = ..., latest_version: _Optional[int] = ..., versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., tuned: _Optional[str] = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments",)
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    def __init__(self, experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("experiment", "count")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    count: int
    def __init__(self, experiment: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "at", "experiment", "what", "detail")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    id: str
    at: str
    experiment: str
    what: str
    detail: str
    def __init__(self, id: _Optional[str] = ..., at: _Optional[str] = ..., experiment: _Optional[str] = ..., what: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class CreateExperimentRequest(_message.Message):
    __slots__ = ("experiment", "share")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    share: ShareChange
    def __init__(self, experiment: _Optional[str] = ..., share: _Optional[_Union[ShareChange, _Mapping]] = ...) -> None: ...

class CreateExperimentResponse(_message.Message):
    __slots__ = ("experiment", "token")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    token: str
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., token: _Optional[str] = ...) -> None: ...

class ChangeExperimentRequest(_message.Message):
    __slots__ = ("experiment", "share")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    share: ShareChange
    def __init__(self, experiment: _Optional[str] = ..., share: _Optional[_Union[ShareChange, _Mapping]] = ...) -> None: ...

class DeleteExperimentResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IssueTokenResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class RevokeTokensResponse(_message.Message):
    __slots__ = ("revoked",)
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    revoked: int
    def __init__(self, revoked: _Optional[int] = ...) -> None: ...
