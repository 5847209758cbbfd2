from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.demo.run import run_name

HEAVY = ("torch", "diffusers", "transformers", "grpc", "tritonclient", "numpy", "pydantic")


def test_help_imports_nothing_heavy() -> None:
    """Its speed rests on this; a timed test would be noise."""
    probe = (
        "import sys, heliostat.cli\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(heliostat.cli.app, ['--help'])\n"
        "assert result.exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_health_check_imports_no_torch() -> None:
    """A container's is run every few seconds: torch would take seconds of each."""
    probe = (
        "import sys, heliostat.cli\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(heliostat.cli.app, ['health', '--state', 'nowhere'])\n"
        "assert 'no rollout server has run on' in result.output, result\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_version_is_the_packages() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"heliostat {version('heliostat')}\n"


def test_a_missing_package_is_one_sentence_that_names_the_extra() -> None:
    probe = (
        "import sys; sys.modules['onnx_ir'] = None\n"
        "import heliostat.cli\n"
        "sys.argv = ['heliostat', 'doctor']\n"
        "heliostat.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "needs onnx_ir, which is not installed: pip install 'heliostat[build]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_demo_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for expected in ("demo", "demo-2", "demo-3"):
        assert run_name(tmp_path, resume=False) == expected
        (tmp_path / expected).mkdir()
        assert run_name(tmp_path, resume=True) == expected
    assert run_name(tmp_path / "none", resume=True) == "demo"


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "train",
        "config",
        "init",
        "report",
        "compare",
        "export",
        "health",
        "info",
        "demo",
        "demo pretrain",
        "engine",
        "engine inspect",
        "engine build",
        "rewards",
        "rewards convert",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def heliostat(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "heliostat.cli", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["config", "recpie.candidates"], "did you mean recipe?"),
        (["config", "recipe.candidate"], "did you mean recipe.candidates?"),
        (["report", "/nowhere"], "/nowhere"),
        (["compare", "/nowhere", "/elsewhere"], "/nowhere is no run folder"),
        (["info", "http://127.0.0.1:1"], "grpc://host:port"),
        (["serve", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["serve", "--family", "dall-e"], "no model family 'dall-e'"),
        (["serve", "--checkpoint", "/nowhere"], "diffusers' layout"),
        (["serve", "--redis-password-file", "/nowhere"], "needs --redis"),
        (
            ["serve", "--redis", "redis://x", "--redis-password-file", "/nowhere"],
            "--redis-password-file: cannot read /nowhere: No such file",
        ),
        (
            ["serve", "--redis", "redis://127.0.0.1:1", "--wait", "0"],
            "the Redis at redis://127.0.0.1:1 does not answer",
        ),
        (["health", "--state", "/nowhere"], "no rollout server has run on /nowhere"),
        (["serve", "--wait", "inf"], "wait_s = inf: input should be a finite number"),
        (["serve", "--batch", "9" * 30], "less than or equal to 1024"),
        (["serve", "--reward", "x"], "--rewards"),
        (["train", "examples/demo.toml", "--resum"], "did you mean --resume?"),
        (["demo", "--minutes", "inf"], "run.minutes = inf: input should be a finite number"),
        (["experiment", "set", "a", "--priority", "9" * 30], "--priority"),
        (["experiment", "pin", "a", "9" * 30], "less than or equal to"),
        (["bench", "engine", "demo", "--steps", "9" * 30], "--steps"),
    ],
    ids=[
        "no-toml",
        "no-section",
        "no-key",
        "no-run",
        "no-runs",
        "scheme",
        "no-server-toml",
        "family",
        "checkpoint",
        "no-redis",
        "no-password",
        "redis-away",
        "no-server",
        "not-a-number",
        "huge-batch",
        "no-option",
        "no-setting",
        "endless",
        "huge-priority",
        "huge-version",
        "huge-steps",
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str) -> None:
    done = heliostat(*arguments)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_key_that_cannot_be_sent_is_named_and_not_printed() -> None:
    judge = ("--vlm-judge-url", "http://127.0.0.1:9", "--vlm-judge-model", "any")
    done = heliostat("serve", *judge, HELIOSTAT_VLM_JUDGE_KEY="xyz\u2028zy")
    assert done.returncode == 1
    assert done.stderr.startswith("heliostat: HELIOSTAT_VLM_JUDGE_KEY is no token: ")
    assert "xyz" not in done.stderr


def test_a_misspelt_variable_is_said() -> None:
    """And none of those that container tools set for a service of our name."""
    others = {"HELIOSTAT_PORT": "tcp://10.0.0.1:8600", "HELIOSTAT_SERVICE_HOST": "10.0.0.1"}
    done = heliostat("config", "lora.rank", HELIOSTAT_TOKNE="x", HELIOSTAT_TOKEN="y", **others)
    assert done.returncode == 0
    assert done.stderr == (
        "heliostat: the variable HELIOSTAT_TOKNE does nothing: did you mean HELIOSTAT_TOKEN?\n"
    )
