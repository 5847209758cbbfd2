from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExploreSpec(_message.Message):
    __slots__ = ("rollout", "load", "rest")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    rollout: RolloutSpec
    load: LoadSpec
    rest: RestSpec
    def __init__(self, rollout: _Optional[_Union[RolloutSpec, _Mapping]] = ..., load: _Optional[_Union[LoadSpec, _Mapping]] = ..., rest: _Optional[_Union[RestSpec, _Mapping]] = ...) -> None: ...

class RolloutSpec(_message.Message):
    __slots__ = ("experiment", "version", "prompt", "steps", "guidance", "rewards", "return_latents", "score_after", "solver", "decoder", "width_px", "height_px")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    RETURN_LATENTS_FIELD_NUMBER: _ClassVar[int]
    SCORE_AFTER_FIELD_NUMBER: _ClassVar[int]
    SOLVER_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    experiment: str
    version: int
    prompt: str
    steps: int
    guidance: float
    rewards: _containers.RepeatedScalarFieldContainer[str]
    return_latents: bool
    score_after: int
    solver: str
    decoder: str
    width_px: int
    height_px: int
    def __init__(self, experiment: _Optional[str] = ..., version: _Optional[int] = ..., prompt: _Optional[str] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., rewards: _Optional[_Iterable[str]] = ..., return_latents: _Optional[bool] = ..., score_after: _Optional[int] = ..., solver: _Optional[str] = ..., decoder: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ...) -> None: ...

class LoadSpec(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class LoadReport(_message.Message):
    __slots__ = ("bound_modules", "target_modules")
    BOUND_MODULES_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    bound_modules: int
    target_modules: int
    def __init__(self, bound_modules: _Optional[int] = ..., target_modules: _Optional[int] = ...) -> None: ...

class RestSpec(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestReport(_message.Message):
    __slots__ = ("memory_bytes", "seconds")
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    memory_bytes: int
    seconds: float
    def __init__(self, memory_bytes: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ScoreSpec(_message.Message):
    __slots__ = ("prompts", "rewards", "return_images", "check_prompts", "decoder", "rest")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    RETURN_IMAGES_FIELD_NUMBER: _ClassVar[int]
    CHECK_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedScalarFieldContainer[str]
    rewards: _containers.RepeatedScalarFieldContainer[str]
    return_images: bool
    check_prompts: bool
    decoder: str
    rest: RestSpec
    def __init__(self, prompts: _Optional[_Iterable[str]] = ..., rewards: _Optional[_Iterable[str]] = ..., return_images: _Optional[bool] = ..., check_prompts: _Optional[bool] = ..., decoder: _Optional[str] = ..., rest: _Optional[_Union[RestSpec, _Mapping]] = ...) -> None: ...

class PromptReport(_message.Message):
    __slots__ = ("refusals", "refused")
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    refusals: _containers.RepeatedCompositeFieldContainer[PromptRefusal]
    refused: int
    def __init__(self, refusals: _Optional[_Iterable[_Union[PromptRefusal, _Mapping]]] = ..., refused: _Optional[int] = ...) -> None: ...

class PromptRefusal(_message.Message):
    __slots__ = ("prompt", "reason")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    prompt: int
    reason: str
    def __init__(self, prompt: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
