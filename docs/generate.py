"""What the site has beside docs/: pages from the repository's root, and references read from the code.

A hook of mkdocs (see mkdocs.yml). Links keep working in both places: a page names another by its place in
the repository, and here that becomes its place in the site.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page
    from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
DOCS = PurePosixPath("docs")
ELSEWHERE: Mapping[str, str] = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "demo_weights.md": "engines/heliostat_engines/families/demo/weights/README.md",
}
"""Page of the site -> where it is in the repository, of those that are not in docs/."""
PAGES = {place: page for page, place in ELSEWHERE.items()}
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    pages = {page: (ROOT / place).read_text(encoding="utf-8") for page, place in ELSEWHERE.items()}
    pages |= {
        "reference/cli.md": commands(),
        "reference/settings.md": settings_of_a_run(),
        "reference/server_settings.md": settings_of_a_server(),
        "reference/http.md": http(),
        "reference/grpc.md": grpc(),
    }
    for page, text in pages.items():
        files.append(File.generated(config, page, content=FRONT_MATTER.sub("", text)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between places in the repository into links between pages."""
    here = page.file.src_uri
    place = PurePosixPath(ELSEWHERE.get(here, str(DOCS / here)))

    def moved(link: re.Match[str]) -> str:
        target = os.path.normpath(place.parent / link["path"])
        inside = PAGES.get(target, target.removeprefix(f"{DOCS}/"))
        return os.path.relpath(inside, PurePosixPath(here).parent) + (link["anchor"] or "")

    return LINK.sub(moved, markdown)


def commands() -> str:
    """Every command, with its arguments and options."""
    import typer
    from typer.cli import get_docs_for_click

    from heliostat.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="heliostat")
    return get_docs_for_click(obj=command, ctx=context, name="heliostat", title="Command line")


def settings_of_a_run() -> str:
    """Every setting of a run's TOML."""
    from heliostat_trainer.settings.config import TrainConfig

    said = "As `heliostat config --explain` prints them."
    return "\n".join(["# Settings of a run", "", said, *_settings(TrainConfig)])


def settings_of_a_server() -> str:
    """Every setting of a server.toml."""
    from heliostat_server.settings import ServeSettings

    said = (
        "As `heliostat config server --explain` prints them: keys of a [server.toml](../server.md#settings), "
        "and options of `heliostat serve`, `--max-rank` for `max_rank`."
    )
    return "\n".join(["# Settings of a server", "", said, *_settings(ServeSettings)])


def _settings(model: type[BaseModel]) -> Iterator[str]:
    from heliostat_engines.settings.reference import reference

    for section in reference(model):
        if section.heading:
            yield from ("", f"## `{section.heading}`")
        yield from ("", section.meaning, "")
        yield from ("| key | default | values | meaning |", "|---|---|---|---|")
        for setting in section.settings:
            default = "required" if setting.default is None else f"`{setting.default}`"
            cells = (f"`{setting.key}`", default, setting.values, setting.meaning)
            yield f"| {' | '.join(map(_cell, cells))} |"


def http() -> str:
    """Every call of the HTTP API, from its OpenAPI document."""
    from heliostat_server.control.http import build_app
    from heliostat_server.control.operations import Operations
    from heliostat_server.experiments.authority import Authority

    # The document is of the routes alone: nothing that lies behind them is asked.
    operations, authority = Operations.__new__(Operations), Authority.__new__(Authority)
    document = build_app(operations, authority, version("heliostat")).openapi()
    lines = ["# HTTP", "", document["info"]["description"].strip(), ""]
    lines += [
        "A running server lists and tries the calls at `/docs`; `/openapi.json` describes them in full."
    ]
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            lines += ["", f"## `{method.upper()} {path}`", "", *_call(call)]
    lines += ["", "## Types"]
    for name, kind in document["components"]["schemas"].items():
        lines += ["", f"### {name}", "", *_kind(kind)]
    return "\n".join(lines)


def grpc() -> str:
    """The .proto files, which say what they mean."""
    lines = ["# gRPC", "", "The wire between trainers and servers: the files of `proto/`."]
    for path in sorted((ROOT / "proto").rglob("*.proto")):
        text = path.read_text(encoding="utf-8").strip()
        lines += ["", f"## {path.name}", "", "```proto", text, "```"]
    return "\n".join(lines)


def _call(call: Mapping[str, Any]) -> Iterator[str]:
    yield from (call["description"], "")
    yield from _described("Parameters", call.get("parameters", ()))
    for kind, content in call.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body, `{kind}`: {_type(content['schema'])}", "")
    for status, response in call["responses"].items():
        if status < "400":  # what goes wrong is said alike of every call, on top
            kinds = [_type(content["schema"]) for content in response.get("content", {}).values()]
            yield f"Answers {status}{': ' if kinds else ''}{', '.join(kinds)}"


def _kind(kind: Mapping[str, Any]) -> Iterator[str]:
    yield from (kind.get("description", ""), "")
    required = kind.get("required", ())
    fields = [
        {"name": key, "schema": field, "required": key in required}
        for key, field in kind.get("properties", {}).items()
    ]
    yield from _described("Fields", fields)
    if "enum" in kind:
        yield f"One of {', '.join(f'`{each}`' for each in kind['enum'])}."


def _described(title: str, fields: Any) -> list[str]:
    if not fields:
        return []
    lines = [f"{title}:", ""]
    for field in fields:
        needed = ", required" if field.get("required") else ""
        meaning = field["schema"].get("description", "")
        text = f"- `{field['name']}` ({_type(field['schema'])}{needed})"
        lines.append(f"{text}: {meaning}" if meaning else text)
    return [*lines, ""]


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a word or two; the document's own types by name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(kind) for kind in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    return str(schema.get("type", "any"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
