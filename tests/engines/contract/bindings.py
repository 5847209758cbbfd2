"""What a vendor's Python bindings really offer, read from the bindings themselves.

    python -m tests.engines.contract.bindings tensorrt_bindings    # prints JSON

TensorRT's bindings are opened without TensorRT: its libraries are replaced by empty ones that export
the symbols that the bindings look for. Names and signatures are real; nothing can be built or run.
Each module is read in a process of its own: two of them cannot share one.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LIBRARIES = {
    "libnvinfer.so.11": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvonnxparser.so.11": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "libnvinfer_plugin.so.11": ("initLibNvInferPlugins",),
}
_SIGNATURE = re.compile(r"^(?:\d+\. )?(?P<name>\w*)\((?P<parameters>.*)\) -> (?P<returns>.+)$")


@dataclass(frozen=True)
class Parameter:
    name: str
    optional: bool


@dataclass(frozen=True)
class Signature:
    """One overload, without `self`. returns: the last component of the type's dotted name."""

    parameters: list[Parameter]
    returns: str
    variadic: bool = False


@dataclass(frozen=True)
class Member:
    """kind: method, property, value (an enum's) or class."""

    kind: str
    signatures: list[Signature] = field(default_factory=list)
    returns: str = ""


@dataclass(frozen=True)
class Api:
    """members: by class, then by name; a nested class is listed under its own name too."""

    module: str
    members: dict[str, dict[str, Member]]

    @staticmethod
    def from_json(text: str) -> Api:
        raw = json.loads(text)
        return Api(
            raw["module"],
            {
                name: {key: _member(value) for key, value in members.items()}
                for name, members in raw["members"].items()
            },
        )


def read_api(module: str) -> Api:
    """The API of an installed module, read in another process."""
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, module], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Api.from_json(done.stdout)


def _member(raw: dict[str, Any]) -> Member:
    signatures = [
        Signature([Parameter(**p) for p in s["parameters"]], s["returns"], s["variadic"])
        for s in raw["signatures"]
    ]
    return Member(raw["kind"], signatures, raw["returns"])


def _open(module: str) -> Any:
    if module == "tensorrt_bindings":
        folder = Path(tempfile.mkdtemp())
        for library, symbols in LIBRARIES.items():
            source = folder / f"{library}.c"
            source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in symbols))
            command = ["cc", "-shared", "-fPIC", "-o", folder / library, source]
            subprocess.run([*command, f"-Wl,-soname,{library}"], check=True)
            # Loaded under its name, it is what the bindings get when they ask for that name.
            ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module(module)


def _describe(module: Any) -> Api:
    members: dict[str, dict[str, Member]] = {}
    pending = {name: thing for name, thing in vars(module).items() if isinstance(thing, type)}
    while pending:
        name, thing = pending.popitem()
        members[name] = {key: _classify(thing, key) for key in dir(thing)}
        for key in dir(thing):
            nested = getattr(thing, key, None)
            if isinstance(nested, type) and key[0].isupper() and key not in members:
                pending[key] = nested
    return Api(module.__name__, members)


def _classify(owner: type, key: str) -> Member:
    found = next(vars(base)[key] for base in owner.__mro__ if key in vars(base))
    if isinstance(found, property):
        signatures = _signatures(found.fget.__doc__ if found.fget else None)
        return Member("property", returns=signatures[0].returns if signatures else "")
    if isinstance(found, type):
        return Member("class")
    if callable(found) or isinstance(found, staticmethod | classmethod):
        return Member("method", _signatures(getattr(owner, key).__doc__))
    return Member("value", returns=type(found).__name__)


def _signatures(doc: str | None) -> list[Signature]:
    matches = [_SIGNATURE.match(line.strip()) for line in (doc or "").splitlines()]
    found = [_signature(match) for match in matches if match is not None]
    return [signature for signature in found if not signature.variadic] or found


def _signature(match: re.Match[str]) -> Signature:
    parts = [part.strip() for part in _split(match["parameters"]) if part.strip()]
    variadic = any(part.startswith("*") for part in parts)
    parameters = [
        Parameter(part.split(":")[0].split("=")[0].strip(), optional=" = " in part)
        for part in parts
        if not part.startswith("*")
    ]
    if parameters and parameters[0].name in ("self", "arg0"):
        parameters = parameters[1:]
    return Signature(parameters, match["returns"].rpartition(".")[2], variadic)


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


if __name__ == "__main__":
    print(json.dumps(asdict(_describe(_open(sys.argv[1])))))
