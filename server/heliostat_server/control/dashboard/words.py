"""Times, sizes and parts as people read them: filters of the templates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from heliostat_engines.resolution import written

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def ago(at: datetime) -> str:
    """How long since a time."""
    seconds = (datetime.now(UTC) - at).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def iso(at: datetime) -> str:
    """A time as machines read it."""
    return at.isoformat(timespec="seconds")


def clock(seconds: float) -> str:
    """A time, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def percent(part: float) -> str:
    """A part of one."""
    return f"{100 * part:.0f} %" if not 0 < part < 0.01 else "< 1 %"


def count(value: float) -> str:
    """A whole number in groups of three digits."""
    return f"{value:,.0f}"


def size(value: int) -> str:
    """Bytes."""
    return f"{value / 2**20:.1f} MiB" if value >= 2**20 else f"{value / 2**10:.0f} KiB"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def seconds_of(seconds: float) -> str:
    """Seconds of a step: two digits that count, or minutes."""
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == 0 else f"{seconds:.2g} s"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "ago": ago,
    "iso": iso,
    "clock": clock,
    "percent": percent,
    "count": count,
    "size": size,
    "duration": duration,
    "seconds": seconds_of,
    "written": written,
}
