"""What models of settings refuse on both sides of the wire, and the name that was meant."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from heliostat_engines.settings import Limit, Number, Settings
from heliostat_engines.suggestions import nearest, suggest


class Some(Settings):
    """One of each kind."""

    rate: float = 1.0
    rates: tuple[float, ...] = ()
    limit: Limit = 1.0
    table: dict[str, Number] = {}  # noqa: RUF012
    count: int = 0
    maybe: float | None = None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rate": math.inf}, "finite number"),
        ({"rate": "nan"}, "finite number"),
        ({"rates": [1.0, -math.inf]}, "finite number"),
        ({"table": {"a": math.nan}}, "finite number"),
        ({"maybe": math.inf}, "finite number"),
        ({"rate": 1e39}, "float32 takes this number for infinite"),
        ({"rates": [-1e39]}, "float32 takes this number for infinite"),
        ({"table": {"a": 1e39}}, "float32 takes this number for infinite"),
        ({"rate": -1e-39}, "float32 takes this number for 0"),
        ({"limit": math.nan}, "greater than 0"),
        ({"count": 2**63}, "64 bits do not hold this number"),
        ({"count": -(2**63) - 1}, "64 bits do not hold this number"),
        ({"raet": 1.0}, "unknown setting raet: did you mean rate?"),
        ({"Count": 1}, "unknown setting Count: did you mean count?"),
        ({"xyz": 1}, "unknown setting xyz: known are rate, rates, limit, table, count, maybe"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        Some.model_validate(values)
    assert sentence in error.value.errors()[0]["msg"]


def test_what_is_extreme_but_fits_is_taken_and_comes_back() -> None:
    some = Some(rate=3e38, rates=(0.0, -2e-38), limit=math.inf, count=2**63 - 1, table={"a": 1})
    assert Some.model_validate_json(some.model_dump_json()) == some


def test_a_misspelt_key_goes_before_the_one_that_is_missing() -> None:
    class Needy(Settings):
        name: str

    with pytest.raises(ValidationError, match=r"did you mean name\?") as error:
        Needy.model_validate({"nmae": "x"})
    assert error.value.error_count() == 1


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    known = ("pickscore", "HPSv2", "ocr")
    assert nearest("hpsv3", known) == "HPSv2"
    assert nearest("pick_score", known) == "pickscore"
    assert nearest("aesthetic", known) is None
    assert suggest("OCR", known) == "did you mean 'ocr'? "
    assert suggest("aesthetic", known) == ""
