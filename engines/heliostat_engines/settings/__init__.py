"""Models of settings, and how they are read: by trainer and server alike. Imports no torch."""

from heliostat_engines.settings.models import (
    INTS,
    LARGEST_FLOAT,
    SMALLEST_FLOAT,
    UNKNOWN,
    Count,
    Decay,
    Fraction,
    Limit,
    NotNegative,
    Number,
    Positive,
    Seconds,
    Settings,
    Share,
    WireCount,
)

__all__ = [
    "INTS",
    "LARGEST_FLOAT",
    "SMALLEST_FLOAT",
    "UNKNOWN",
    "Count",
    "Decay",
    "Fraction",
    "Limit",
    "NotNegative",
    "Number",
    "Positive",
    "Seconds",
    "Settings",
    "Share",
    "WireCount",
]
