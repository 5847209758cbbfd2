"""Pages of HTML from the templates that lie here."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Mapping


def render(name: str, content: Mapping[str, object]) -> str:
    """A template of this package with its content filled in, which is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_read)
    )
    return environment.get_template(name).render(content)


def _read(name: str) -> str:
    return files("heliostat_trainer.pages").joinpath(name).read_text("utf-8")
