"""Two rewards over the wire: each is asked for, scored and kept, and their sum is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heliostat_trainer.folder.metrics import read_metrics
from tests.e2e.training import Run, write_toml

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import ServerHarness


@pytest.mark.slow
def test_a_sum_of_rewards_is_explored_and_trained_on(
    server: ServerHarness, demo_checkpoint: Path, tmp_path: Path
) -> None:
    toml = write_toml(tmp_path, demo_checkpoint)
    one = '{ name = "colourfulness", heldout = ["jpeg_compressibility"] }'
    several = "{ weights = { colourfulness = 1.0, jpeg_compressibility = 0.5 } }"
    text = toml.read_text()
    assert one in text
    toml.write_text(text.replace(one, several))
    run = Run(toml, server, "several")
    printed = run.complete()
    lines = list(read_metrics(run.folder / "metrics.jsonl"))
    assert len(lines) == 3
    for line in lines:
        assert line["rewards"].keys() == {"colourfulness", "jpeg_compressibility"}  # type: ignore[attr-defined]
        assert line["fidelity"] is None or line["fidelity"]["rho"] > 0  # type: ignore[index]
        assert line["kept_spread"] > 0  # type: ignore[operator]
    assert "rewards colourfulness" in printed
    assert any(value.any() for key, value in run.lora().items() if "lora_B" in key)
