"""Generate heliostat_proto from the .proto files; a test checks that what is checked in is this."""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PACKAGE = "heliostat_proto"


def generate(out: Path) -> None:
    """Write Python modules and type stubs of every .proto under `out`/heliostat_proto."""
    sources = sorted((ROOT / "heliostat" / "v1").glob("*.proto"))
    folder = out / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'heliostat' / 'v1'}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            f"--grpc_python_out={folder}",
            *map(str, sources),
        ]
    )
    if status != 0:
        raise SystemExit(status)
    for module in folder.glob("*_pb2_grpc.py"):
        text = module.read_text()
        for source in sources:
            name = f"{source.stem}_pb2"
            text = text.replace(f"import {name} as", f"from {PACKAGE} import {name} as")
        module.write_text(text)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
