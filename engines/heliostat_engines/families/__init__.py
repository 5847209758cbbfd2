"""The model families, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.errors import UnknownFamilyError
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.families.flux import FluxFamily, FluxSchnellFamily
from heliostat_engines.families.sana.family import SanaFamily
from heliostat_engines.families.sd3.family import Sd35LargeFamily, Sd35MediumFamily
from heliostat_engines.suggestions import suggest

if TYPE_CHECKING:
    from heliostat_engines.families.family import Family

FAMILIES: tuple[type[Family], ...] = (
    DemoFamily,
    SanaFamily,
    FluxFamily,
    FluxSchnellFamily,
    Sd35LargeFamily,
    Sd35MediumFamily,
)


def get_family(name: str) -> Family:
    """The family called `name`.

    Raises:
        UnknownFamilyError: naming the closest one there is.
    """
    by_name = {family.name: family for family in FAMILIES}
    if name in by_name:
        return by_name[name]()
    hint = suggest(name, by_name)
    raise UnknownFamilyError(f"no model family {name!r}: {hint}known are {', '.join(by_name)}")
