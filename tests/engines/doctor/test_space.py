from __future__ import annotations

from dataclasses import replace

import pytest

from heliostat_engines.doctor.findings import Level
from heliostat_engines.doctor.space import Space, family_space, space_findings
from heliostat_engines.families import get_family
from heliostat_engines.families.inspection import inspect
from heliostat_engines.precisions import MapName

GB = 10**9
LARGE = Space(host_bytes=1000 * GB, disk_bytes=1000 * GB, gpu_bytes=None)


@pytest.mark.parametrize("name", ["demo", "sana"])
def test_the_bytes_are_those_of_the_inspection(name: str) -> None:
    needs = family_space(get_family(name), LARGE)
    inspection = inspect(get_family(name), MapName.PUBLISHED)
    assert (needs.bf16_bytes, needs.nvfp4_bytes) == (inspection.bf16_bytes, inspection.bytes)


def test_all_fits_a_large_machine() -> None:
    needs = family_space(get_family("flux"), LARGE)
    assert needs.torch.fits
    assert needs.can_build
    (found,) = space_findings(needs)
    assert found.level is Level.GOOD


def test_what_does_not_fit_names_both_numbers() -> None:
    small = replace(LARGE, host_bytes=20 * GB, disk_bytes=20 * GB)
    needs = family_space(get_family("flux"), small)
    torch, memory, disk = space_findings(needs)
    assert {found.level for found in (torch, memory, disk)} == {Level.PROBLEM}
    assert "explore with it: 23.8 GB of memory, 20.0 GB are free" in torch.text
    assert "build an engine of it: 25.3 GB of memory" in memory.text
    assert "37.4 GB of disk, 20.0 GB are free" in disk.text


def test_on_a_gpu_its_memory_counts() -> None:
    small = family_space(get_family("flux"), replace(LARGE, gpu_bytes=20 * GB))
    large = family_space(get_family("flux"), replace(LARGE, gpu_bytes=28 * GB))
    assert (small.torch.what, small.torch.fits) == ("GPU memory", False)
    assert large.torch.fits
    assert [need.what for need in large.build] == ["memory", "GPU memory", "disk"]
    assert large.can_build


def test_a_shipped_checkpoint_needs_no_download_and_no_calibration() -> None:
    needs = family_space(get_family("demo"), LARGE)
    assert [need.takes for need in needs.build if need.what == "disk"] == [2 * needs.nvfp4_bytes]
