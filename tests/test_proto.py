from __future__ import annotations

import importlib.util
from pathlib import Path

PROTO = Path(__file__).parents[1] / "proto"


def test_the_generated_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate", PROTO / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate(tmp_path)
    fresh = {path.name: path.read_text() for path in (tmp_path / "heliostat_proto").iterdir()}
    assert len(fresh) == 6
    for name, text in fresh.items():
        assert (PROTO / "heliostat_proto" / name).read_text() == text, (
            f"{name} is out of date: run python proto/generate.py"
        )
