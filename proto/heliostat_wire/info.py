"""What a server says of itself: told by the control plane, and read by whoever asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_engines.resolution import resolution_of, width_height, written
from heliostat_engines.sampling.solvers import Solver
from heliostat_proto.control_pb2 import EngineInfo, ImageSize, InfoResponse, Limits, LinearShape
from heliostat_wire.version import OURS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.resolution import Resolution


@dataclass(frozen=True)
class ServerInfo:
    """What the rollout server says of itself."""

    server_version: str
    rollout_address: str
    """host:port of Triton's gRPC endpoint."""
    family: str
    checkpoint: str
    runtime: str
    precision: str
    compute_dtype: str
    """bfloat16 or float32; empty if the server is older than this field."""
    lora_targets: Mapping[str, tuple[int, int]]
    """name -> (in_features, out_features) of every linear with a LoRA branch."""
    max_rank: int
    resolution_px: Resolution
    rewards: tuple[str, ...]
    batch: int
    """Candidates denoised together; a group's seeds are a multiple of it."""
    max_steps: int
    max_seeds: int
    max_prompt_chars: int
    max_adapter_bytes: int
    latest_version: int
    """The experiment's newest adapter; 0: it has published nothing."""
    nvfp4_linears: int = 0
    """Of the transformer's linears, how many are quantised, in whatever `precision` says."""
    linears: int = 0
    weights_digest: str = ""
    """Of the transformer's weights; empty where the server does not say."""
    checks_prompts: bool = False
    """Whether it can be asked which prompts its rewards refuse."""
    scores_early: bool = False
    """Whether it can score candidates before all of their steps."""
    solvers: tuple[str, ...] = (Solver.EULER,)
    """What it can draw with."""
    decoders: tuple[str, ...] = ()
    """What it can be asked to decode with; none: it knows no decoder by name, and has one."""
    resolutions_px: tuple[Resolution, ...] = ()
    """Sizes that a rollout may ask for, its own first; none: it draws that one alone."""
    sleeps: bool = False
    """Whether it is on its trainer's card: one of them works at a time, and the other gives its memory back."""
    max_queued_images: int | None = None
    """Images that the experiment may have waiting, and so in one request; None: it does not say."""

    @property
    def sizes(self) -> tuple[Resolution, ...]:
        """Sizes of images that it draws, its own first."""
        return self.resolutions_px or (self.resolution_px,)

    @property
    def most_candidates(self) -> int:
        """Of one prompt, which are one request."""
        return min(self.max_seeds, self.max_queued_images or self.max_seeds)

    def shortcoming(
        self,
        *,
        early: bool = False,
        solver: Solver | None = None,
        decoder: DecoderName = DecoderName.FULL,
        resolution_px: Resolution | None = None,
    ) -> str | None:
        """What keeps it from scoring early, drawing with a solver or such images, or decoding so; None: nothing does."""
        version, decoders = f"(version {self.server_version})", {DecoderName.FULL, *self.decoders}
        if early and not self.scores_early:
            return f"{version} scores after all steps only"
        if solver is not None and solver not in self.solvers:
            return f"{version} draws with {' and '.join(self.solvers)} alone"
        if decoder not in decoders:
            return f"{version} decodes with {' and '.join(sorted(decoders))} alone"
        if resolution_px not in {None, *self.sizes}:
            return f"{version} draws {' and '.join(map(written, self.sizes))} px images alone"
        return None

    def has_weights(self, checkpoint: str, digest: str) -> bool:
        """Whether it serves a checkpoint's: by their digests if both are known, else by its name."""
        if self.weights_digest and digest:
            return self.weights_digest == digest
        return self.checkpoint == checkpoint

    def message(self) -> InfoResponse:
        """As the control plane answers it, with the version of the wire."""
        targets = {
            name: LinearShape(in_features=into, out_features=out)
            for name, (into, out) in self.lora_targets.items()
        }
        return InfoResponse(
            server_version=self.server_version,
            rollout_address=self.rollout_address,
            engine=EngineInfo(
                family=self.family,
                checkpoint=self.checkpoint,
                runtime=self.runtime,
                precision=self.precision,
                compute_dtype=self.compute_dtype,
                nvfp4_linears=self.nvfp4_linears,
                linears=self.linears,
                lora_targets=targets,
                max_rank=self.max_rank,
                # 0 is refused by trainers of before there were others than squares.
                resolution_px=self.resolution_px if isinstance(self.resolution_px, int) else 0,
                weights_digest=self.weights_digest,
            ),
            rewards=self.rewards,
            limits=Limits(
                batch=self.batch,
                max_steps=self.max_steps,
                max_seeds=self.max_seeds,
                max_prompt_chars=self.max_prompt_chars,
                max_adapter_bytes=self.max_adapter_bytes,
            ),
            latest_version=self.latest_version,
            checks_prompts=self.checks_prompts,
            scores_early=self.scores_early,
            solvers=self.solvers,
            max_queued_images=self.max_queued_images or 0,
            decoders=self.decoders,
            sizes=[_size(each) for each in self.resolutions_px],
            sleeps=self.sleeps,
            wire_version=OURS.version,
            oldest_wire_version=OURS.oldest,
        )

    @staticmethod
    def read(message: InfoResponse, control_address: str) -> ServerInfo:
        """What `message` wrote; a rollout address without a host is at the control plane's.

        Args:
            message: the answer.
            control_address: host:port that it came from.
        """
        engine, limits = message.engine, message.limits
        host, _, port = message.rollout_address.rpartition(":")
        sizes = tuple(resolution_of(each.width_px, each.height_px) for each in message.sizes)
        host = host or control_address.rpartition(":")[0]
        return ServerInfo(
            server_version=message.server_version,
            rollout_address=f"{host}:{port}",
            family=engine.family,
            checkpoint=engine.checkpoint,
            runtime=engine.runtime,
            precision=engine.precision,
            compute_dtype=engine.compute_dtype,
            nvfp4_linears=engine.nvfp4_linears,
            linears=engine.linears,
            lora_targets={
                name: (shape.in_features, shape.out_features)
                for name, shape in sorted(engine.lora_targets.items())
            },
            max_rank=engine.max_rank,
            resolution_px=engine.resolution_px or next(iter(sizes), 0),
            weights_digest=engine.weights_digest,
            rewards=tuple(message.rewards),
            batch=limits.batch,
            max_steps=limits.max_steps,
            max_seeds=limits.max_seeds,
            max_prompt_chars=limits.max_prompt_chars,
            max_adapter_bytes=limits.max_adapter_bytes,
            latest_version=message.latest_version,
            checks_prompts=message.checks_prompts,
            scores_early=message.scores_early,
            solvers=tuple(message.solvers) or ServerInfo.solvers,
            max_queued_images=message.max_queued_images or None,
            decoders=tuple(message.decoders),
            resolutions_px=sizes,
            sleeps=message.sleeps,
        )


def _size(resolution_px: Resolution) -> ImageSize:
    width_px, height_px = width_height(resolution_px)
    return ImageSize(width_px=width_px, height_px=height_px)
