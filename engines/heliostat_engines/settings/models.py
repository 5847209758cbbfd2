"""What every model of settings is made of, on both sides of the wire."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from heliostat_engines.suggestions import nearest

T = TypeVar("T")

INTS = 2**63
"""What JSON, protobuf and torch hold: -INTS..INTS - 1."""
SMALLEST_FLOAT, LARGEST_FLOAT = 1.1754944e-38, 3.4028234e38
"""Of float32, in which models compute: beyond them a number becomes 0, or infinite."""
UNKNOWN = "unknown_setting"
"""pydantic's type of the error on a key that there is not; its context has the `key` and a `hint`."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=True)]
"""May be infinite: there is none then."""
Seconds = Annotated[float, Field(ge=0, le=1e9)]
"""Up to thirty years: no clock takes much more."""
Count = Annotated[int, Field(ge=1)]
WireCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A count that has 32 bits on the wire."""


class Settings(BaseModel):
    """Frozen; an unknown key is an error that names the nearest; numbers are finite and fit."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # else JSON says null, and options would be lost
    )

    @model_validator(mode="before")
    @classmethod
    def _knows_all_keys(cls, values: Any) -> Any:
        """Before the rest: a misspelt key is the reason why another one is missing."""
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    hint = {"key": str(key), "hint": _hint(str(key), list(cls.model_fields))}
                    raise PydanticCustomError(UNKNOWN, "unknown setting {key}: {hint}", hint)
        return values

    @field_validator("*", mode="after")
    @classmethod
    def _fits(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            _checked(number)
        return value


def _checked(value: T) -> T:
    """Refuse a number that would become another one where it is used.

    Raises:
        PydanticCustomError: it is NaN, or no 64 bits hold it, or float32 takes it for 0 or infinite.
    """
    problem = None
    if isinstance(value, int) and not -INTS <= value < INTS:
        problem = "64 bits do not hold this number"
    elif isinstance(value, float) and math.isnan(value):
        problem = "this is not a number"
    elif isinstance(value, float) and LARGEST_FLOAT < abs(value) < math.inf:
        problem = "float32 takes this number for infinite"
    elif isinstance(value, float) and 0 < abs(value) < SMALLEST_FLOAT:
        problem = "float32 takes this number for 0"
    if problem is not None:
        raise PydanticCustomError("number_out_of_range", "{problem}", {"problem": problem})
    return value


Number = Annotated[float, AfterValidator(_checked)]
"""Of a table of numbers; fields of their own are checked anyway."""


def _hint(key: str, known: list[str]) -> str:
    close = nearest(key, known)
    return f"known are {', '.join(known)}" if close is None else f"did you mean {close}?"
