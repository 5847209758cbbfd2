"""`heliostat serve`: start the rollout server. Imports stay light."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from heliostat_engines.precisions import MapName, Precision

VLM_JUDGE_KEY = "HELIOSTAT_VLM_JUDGE_KEY"


class DeviceOption(StrEnum):
    """Where the server's models run."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


def serve(
    family: Annotated[
        str, typer.Option(help="The diffusion model family to explore with.")
    ] = "demo",
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Its weights: a diffusers folder or a Hugging Face name."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="What block linears run in while exploring.")
    ] = Precision.NVFP4,
    precision_map: Annotated[
        MapName,
        typer.Option(help="Which linears that is: see `heliostat engine inspect`."),
    ] = MapName.PUBLISHED,
    engine: Annotated[
        Path | None,
        typer.Option(
            help="A compiled engine, as `heliostat engine build` wrote it: explore with it. Needs a "
            "GPU; family, checkpoint, precision, map and rank are the engine's."
        ),
    ] = None,
    device: Annotated[
        DeviceOption,
        typer.Option(
            envvar="HELIOSTAT_DEVICE",
            help="Where the models run; auto: on the GPU where torch sees one.",
        ),
    ] = DeviceOption.AUTO,
    resolution_px: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the square images; the family's own by default, or the engine's."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates denoised together (24); pools are multiples of it."),
    ] = None,
    max_prompt_chars: Annotated[
        int | None, typer.Option(min=1, help="The longest prompt accepted (1000).")
    ] = None,
    max_adapter_bytes: Annotated[
        int | None, typer.Option(min=1, help="The largest adapter accepted (1 GiB).")
    ] = None,
    max_rank: Annotated[int, typer.Option(min=1, help="The largest LoRA rank accepted.")] = 64,
    rewards: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A TOML file of rewards: local weights, weighted sums, successes, HTTP scorers. See "
            "docs/rewards.md and `heliostat rewards`.",
        ),
    ] = None,
    vlm_judge_url: Annotated[
        str | None,
        typer.Option(
            envvar="HELIOSTAT_VLM_JUDGE_URL",
            help="An OpenAI-compatible server of a vision-language model, such as trtllm-serve: "
            "offers the reward `vlm_judge`.",
        ),
    ] = None,
    vlm_judge_model: Annotated[
        str | None,
        typer.Option(envvar="HELIOSTAT_VLM_JUDGE_MODEL", help="What that server calls the model."),
    ] = None,
    vlm_judge_rubric: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="A text file that says what is rated, and how."
        ),
    ] = None,
    vlm_judge_key: Annotated[
        str | None,
        typer.Option(envvar=VLM_JUDGE_KEY, help="Its API key, if it asks for one."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads; by default as many as cores that it may use."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0 for all interfaces. Whoever has a token may then ask "
            "from there: give --tls-certificate too."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Control plane's port (8600); 0 takes a free one."),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Dashboard's and HTTP API's port (8601)."),
    ] = None,
    rollout_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Triton's gRPC port; a free one by default."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Serve Prometheus' metrics here, to anyone who asks. By default they are not.",
        ),
    ] = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the administrator's token; by default one is made in the state folder."
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="A certificate (PEM): all endpoints then speak TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_name: Annotated[
        str, typer.Option(help="A host name that the certificate is for.")
    ] = "localhost",
    control: Annotated[
        bool,
        typer.Option(
            "--control/--no-control",
            help="--no-control starts Triton alone, for a control plane elsewhere.",
        ),
    ] = True,
    advertise: Annotated[
        str | None,
        typer.Option(
            help="host:port, or :port, where trainers reach Triton, if not where it listens."
        ),
    ] = None,
    state: Annotated[
        Path, typer.Option(help="Folder of all that outlives the server: adapters, logs.")
    ] = Path(".heliostat/server"),
    redis: Annotated[
        str | None, typer.Option(help="redis:// URL of the adapter store; embedded by default.")
    ] = None,
    redis_password_file: Annotated[
        Path | None, typer.Option(help="A file with that Redis' password.")
    ] = None,
    tritonserver: Annotated[
        Path | None, typer.Option(help="A tritonserver binary; found by itself by default.")
    ] = None,
    triton_url: Annotated[
        str | None, typer.Option(help="host:port of a Triton that serves our models.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds that the start waits for a Redis, a Triton or a judge that is elsewhere.",
        ),
    ] = 60.0,
    print_triton_log: Annotated[
        bool,
        typer.Option(
            "--print-triton-log", help="Print what Triton and the models log, too: for containers."
        ),
    ] = False,
) -> None:
    """Start the rollout server: a real Triton Inference Server, its adapter store and control plane.

    Prints the URL that trainers are pointed at. Ctrl-C stops it; experiments and adapters survive
    in the state folder. Trainers of this user on this machine need no token; for others see
    `heliostat experiment create`.
    """
    from pydantic import ValidationError

    from heliostat.credentials import remember
    from heliostat_engines.files.secret import sendable
    from heliostat_engines.files.text import read_text
    from heliostat_server.control.validation import first_problem
    from heliostat_server.errors import ServerStartError
    from heliostat_server.rewards.definitions import VlmJudgeSettings, load_definitions
    from heliostat_server.serve import serve as run
    from heliostat_server.settings import LimitSettings, ServeSettings

    defined = load_definitions(rewards) if rewards else {}
    if (vlm_judge_url is None) != (vlm_judge_model is None):
        raise typer.BadParameter("give --vlm-judge-url and --vlm-judge-model together")
    if vlm_judge_url is not None and vlm_judge_model is not None:
        if "vlm_judge" in defined:
            raise typer.BadParameter(f"vlm_judge is defined in {rewards} and by --vlm-judge-url")
        try:
            defined["vlm_judge"] = VlmJudgeSettings(
                url=vlm_judge_url,
                model=vlm_judge_model,
                rubric=read_text(vlm_judge_rubric) if vlm_judge_rubric else None,
                api_key=sendable(vlm_judge_key, VLM_JUDGE_KEY) if vlm_judge_key else None,
            )
        except ValidationError as error:
            raise ServerStartError(f"--vlm-judge-{first_problem(error.errors())}") from error
    limits = {
        "batch": batch,
        "max_prompt_chars": max_prompt_chars,
        "max_adapter_bytes": max_adapter_bytes,
    }

    try:
        settings = ServeSettings(
            family=family,
            checkpoint=checkpoint,
            resolution_px=resolution_px,
            precision=precision,
            precision_map=precision_map,
            engine=engine,
            device=device.value,
            limits=LimitSettings.model_validate(
                {name: limit for name, limit in limits.items() if limit is not None}
            ),
            rewards=defined,
            max_rank=max_rank,
            threads=threads,
            port=port,
            state=state,
            redis=redis,
            redis_password_file=redis_password_file,
            wait_s=wait,
            print_triton_log=print_triton_log,
            tritonserver=tritonserver,
            triton_url=triton_url,
            host=host,
            http_port=http_port,
            rollout_port=rollout_port,
            metrics_port=metrics_port,
            control=control,
            advertise=advertise,
            admin_token_file=admin_token_file,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            tls_name=tls_name,
        )
    except ValidationError as error:
        raise ServerStartError(first_problem(error.errors())) from error
    run(settings, remember)
