"""Every setting of the server, in one place. Imports no torch: a command line reads it.

A new one is a field of `ServeSettings`, or of `SharedSettings` if the models in Triton read it: the option of `heliostat
serve`, the key of a server.toml, `heliostat config server` and the models' own file follow from that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from heliostat_engines.machine.hardware import usable_cores
from heliostat_engines.precisions import MapName, Precision
from heliostat_engines.resolution import (
    Resolution,  # noqa: TC001
    ResolutionPx,  # noqa: TC001 (pydantic reads it)
)
from heliostat_engines.settings import Count, Seconds, Settings, WireCount
from heliostat_engines.settings.marks import Flag, Secret
from heliostat_server.rewards.definitions import RewardDefinitions  # noqa: TC001 (pydantic reads it)
from heliostat_server.urls import without_secrets

DEFAULT_PORT = 8600
DEFAULT_HTTP_PORT = 8601
LOOPBACK = "127.0.0.1"
DEVICE_VARIABLE = "HELIOSTAT_DEVICE"


Port = Annotated[int, Field(ge=0, le=65535)]


class AskedLimits(Settings):
    """What requests may ask for, as far as it was said."""

    batch: Annotated[int | None, Field(ge=1, le=1024), Flag("--batch")] = None
    """Candidates denoised together; by default the family's number. Always this many, so that a
    candidate's reward never depends on how requests were split; a rollout's seeds must be a multiple
    of it."""
    max_steps: Annotated[int, Field(ge=1, le=1000)] = 100
    """Denoising steps of a rollout."""
    max_seeds: WireCount = 4096
    """Candidates of one rollout request."""
    max_queued_images: Count = 65_536
    """Candidates of all experiments together that may wait to be drawn."""
    max_prompt_chars: Annotated[WireCount, Flag("--max-prompt-chars")] = 1000
    """Characters of a prompt."""
    max_adapter_bytes: Annotated[Count, Flag("--max-adapter-bytes")] = 2**30
    """Bytes of a published adapter."""
    resolutions_px: Annotated[tuple[ResolutionPx, ...], Flag("--resolutions-px")] = ()
    """Sizes of images that a rollout may ask for besides resolution_px, as [1024, [832, 1216]]; on the command
    line once for each, as 832x1216."""

    def of(self, family_batch: int, resolution_px: Resolution) -> LimitSettings:
        """The limits that hold: the family's batch where none was asked for, and the server's own size first."""
        others = [size for size in self.resolutions_px if size != resolution_px]
        return LimitSettings.model_validate(
            dict(self)
            | {
                "batch": self.batch or family_batch,
                "resolutions_px": (resolution_px, *dict.fromkeys(others)),
            }
        )


class LimitSettings(AskedLimits):
    """What requests may ask for."""

    batch: Annotated[int, Field(ge=1, le=1024)]
    """Candidates denoised together."""


class ThreadSettings(Settings):
    """CPU threads of each model's process."""

    explore: WireCount
    """The diffusion transformer."""
    score: WireCount
    """Decoder and rewards, which overlap the next batch's denoising."""
    text_encoder: WireCount = 1
    """The text encoder: a few calls a rollout."""

    @staticmethod
    def for_cores(threads: int) -> ThreadSettings:
        """Give denoising all of `threads`: it is nearly all of the work; scoring fills gaps."""
        return ThreadSettings(explore=threads, score=max(1, threads // 2))


class SharedSettings(Settings):
    """Settings of `heliostat serve` that the Triton models read too."""

    family: str = "demo"
    """The diffusion model family to explore with."""
    checkpoint: str | None = None
    """Its weights: a folder in diffusers' layout or a Hugging Face name; by default the family's."""
    resolution_px: ResolutionPx | None = None
    """Size of the images in pixels: the side of a square, or [width, height], on the command line 832x1216; by
    default the family's."""
    precision: Precision | None = None
    """What the transformer's block linears run in; by default what the card multiplies: fp8 on Ada and Hopper,
    nvfp4 on Blackwell and on all others."""
    precision_map: MapName = MapName.PUBLISHED
    """Which of the family's maps says what is quantised."""
    engine: Path | None = None
    """What `heliostat engine build` wrote: explore with it. Family, checkpoint, precision, rank and
    resolution are then the engine's. By default none: `runtime` says what does."""
    runtime: Literal["torch", "torch-compile"] = "torch"
    """What evaluates the transformer where no engine does: torch as it is, or with the repeated blocks compiled
    by torch.compile, once for each size of images, before the server is ready. Needs a compiler (g++; on a GPU gcc
    and triton); adapters come and go without another compilation."""
    device: Annotated[Literal["auto", "cpu", "gpu"], Flag(variable=DEVICE_VARIABLE)] = "auto"
    """Where the Triton models run; auto: on the GPU where there is one."""
    max_rank: WireCount = 64
    """The largest LoRA rank accepted."""
    slots: Annotated[int, Field(ge=2)] = 8
    """Adapters resident in the engine at once; the least recently used one leaves."""
    sleep: bool = False
    """For one trainer on this server's own card: between its turns the models' weights wait in host memory
    whenever the trainer says so, and it has theirs (see docs/training.md, One card). With the torch runtime."""
    keep_versions: Count = 3
    """Adapter versions kept of each experiment, the latest included."""
    adapters_url: Annotated[str | None, Secret(without_secrets)] = None
    """Where adapters' weights are kept, for the control plane and every replica alike: s3://bucket/prefix, or
    file:///folder that all of them share; others that fsspec reads as well. By default in Redis, in memory.
    Credentials come from the environment, as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL."""
    limits: AskedLimits = AskedLimits()
    """What one request may ask for."""
    rewards: RewardDefinitions = Field(default_factory=dict)
    """Rewards beside the built-in ones, or instead of the one of the same name."""

    @field_validator("adapters_url")
    @classmethod
    def _is_a_place(cls, url: str | None) -> str | None:
        if url is None:
            return url
        if "://" not in url:
            raise ValueError(
                "--adapters-url is no URL: give one as s3://bucket/prefix or file:///shared/folder"
            )
        if without_secrets(url) != url:
            raise ValueError(
                "--adapters-url is more than a place: leave out user, password and query; credentials "
                "come from the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return url


class ModelSettings(SharedSettings):
    """What the Triton models read at load time, from the JSON file that their config names.

    What may be left open when the server is started is settled here, by its family, machine or store.
    """

    family: str
    checkpoint: str
    resolution_px: ResolutionPx
    precision: Precision
    engine: Path | None = None
    """A compiled engine's folder, relative to this file; None: `runtime`."""
    device: Literal["cpu", "gpu"]
    limits: LimitSettings
    threads: ThreadSettings
    redis: str
    """URL, with its password."""
    admin_digest: str = ""
    """SHA-256, in hexadecimal, of the administrator's token, which the control plane sends."""
    internal_token: str
    """What the models send each other."""

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """Sizes of images that may be drawn, their own first."""
        return self.limits.resolutions_px or (self.resolution_px,)

    @property
    def torch_device(self) -> str:
        """What torch calls the device."""
        return "cuda" if self.device == "gpu" else "cpu"


class ServeSettings(SharedSettings):
    """Settings of `heliostat serve`: those that its models read too, and the server's own."""

    threads: WireCount | None = None
    """CPU threads; by default as many as there are cores that this process may use."""
    score_threads: WireCount | None = None
    """CPU threads of decoding and rewarding; by default half of `threads`."""
    state: Path = Path(".heliostat/server")
    """Folder of all that outlives the process: adapters, logs, who runs where."""
    host: str = LOOPBACK
    """Address that control plane, HTTP and Triton listen on; 0.0.0.0 for all interfaces. Whoever
    has a token may then ask from there: give --tls-certificate too."""
    port: Port | None = None
    """Of the control plane (gRPC). 0: any free one; by default 8600, or any if taken."""
    http_port: Port | None = None
    """Of the dashboard and the HTTP API. 0: any free one; by default 8601, or any if taken."""
    rollout_port: Port | None = None
    """Of Triton's gRPC endpoint; by default any free one, the last time's if it still is."""
    metrics_port: Port | None = None
    """Of Prometheus' page, which takes no token. 0: any free one; by default there is no such page."""
    control: bool = True
    """Whether there is a control plane; without one, one elsewhere has this Triton's URL."""
    advertise: str | None = None
    """host:port, or :port for the control plane's host, where trainers reach Triton; by default where it
    listens."""
    admin_token_file: Path | None = None
    """A file with the administrator's token; by default one in the state folder, made at first."""
    tls_certificate: Path | None = None
    """A PEM file: control plane, HTTP and Triton speak TLS."""
    tls_key: Path | None = None
    """The certificate's private key, a PEM file."""
    tls_name: str = "localhost"
    """A host name that the certificate is for: the server's own parts ask for it."""
    redis: Annotated[str | None, Secret(without_secrets)] = None
    """redis:// URL of the adapter store; by default an embedded one in the state folder."""
    redis_password_file: Path | None = None
    """A file with that Redis' password, which then stands on no command line."""
    tritonserver: Path | None = None
    """The tritonserver binary; by default the one on PATH, else the one of nvidia-pytriton."""
    triton_url: str | None = None
    """host:port (gRPC) of a Triton server that already serves our models; by default one is started."""
    wait_s: Annotated[Seconds, Flag("--wait")] = 60.0
    """How long a start waits for what runs elsewhere: Redis, Triton, the judges of rewards."""
    print_triton_log: bool = False
    """Whether what Triton and the models log is printed, too: for containers."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """How often tritonserver is started again within ten minutes before giving up."""

    @model_validator(mode="after")
    def _shares_the_store(self) -> Self:
        if self.triton_url is not None and self.redis is None:
            raise ValueError(
                "--triton-url needs --redis: give the Redis that the models of that server use"
            )
        if self.triton_url is not None and not self.control:
            raise ValueError("--no-control with --triton-url leaves nothing to start")
        return self

    @model_validator(mode="after")
    def _can_sleep(self) -> Self:
        if self.sleep and (self.engine is not None or self.runtime != "torch"):
            compiled = "--engine" if self.engine is not None else f"--runtime {self.runtime}"
            raise ValueError(
                f"--sleep with {compiled}: what is compiled keeps its memory; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _one_runtime(self) -> Self:
        if self.engine is not None and self.runtime != "torch":
            raise ValueError(
                f"--runtime {self.runtime} is for servers without --engine: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _password_has_a_redis(self) -> Self:
        if self.redis_password_file is not None and self.redis is None:
            raise ValueError(
                "--redis-password-file needs --redis: the embedded one has no password"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("give --tls-certificate and --tls-key together")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise ValueError(f"there is no {path}: give the path of a PEM file")
        return self

    @property
    def has_tls(self) -> bool:
        """Whether all endpoints speak TLS."""
        return self.tls_certificate is not None

    @property
    def local_host(self) -> str:
        """The host by which the server's own parts reach each other."""
        return LOOPBACK if self.listens_everywhere else self.host

    @property
    def listens_everywhere(self) -> bool:
        """Whether `host` means all interfaces."""
        return self.host in {"0.0.0.0", "::"}  # noqa: S104

    def thread_settings(self) -> ThreadSettings:
        """Threads of each model's process."""
        default = ThreadSettings.for_cores(self.threads or usable_cores())
        if self.score_threads is None:
            return default
        return default.model_copy(update={"score": self.score_threads})
