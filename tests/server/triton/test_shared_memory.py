from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.triton.shared_memory import prefix_of, sweep

if TYPE_CHECKING:
    from pathlib import Path


def test_the_sweep_takes_only_regions_of_its_prefix(tmp_path: Path) -> None:
    ours, others = prefix_of("a" * 16), prefix_of("b" * 16)
    for name in (f"{ours}1", f"{ours}2", f"{others}1", "psm_1"):
        (tmp_path / name).touch()
    assert sweep(ours, tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {f"{others}1", "psm_1"}
