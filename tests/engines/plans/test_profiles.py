from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat_engines.errors import BuildError, ResolutionError
from heliostat_engines.families import get_family
from heliostat_engines.plans.graph_manifest import TensorSpec
from heliostat_engines.plans.profiles import (
    Profile,
    check_resolutions,
    decoder_profile,
    input_shapes,
    parse_profile,
)

LATENTS = TensorSpec(name="latents", dtype="float", shape=("batch", 16, "height", "width"))
TOKENS = TensorSpec(name="tokens", dtype="float", shape=("batch", "tokens", 4096))
FIXED = TensorSpec(name="lora_down_64x64", dtype="bfloat16", shape=(15, 8, 64))


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 9999)), min_size=3, max_size=3))
def test_what_is_written_is_read_or_refused(points: list[tuple[int, int]]) -> None:
    text = ",".join(f"{batch}x{pixels}" for batch, pixels in points)
    batches, pixels = zip(*points, strict=True)
    if sorted(batches) == list(batches) and sorted(pixels) == list(pixels):
        assert str(parse_profile(text)) == text
    else:
        with pytest.raises(BuildError, match="out of order"):
            parse_profile(text)


def test_a_point_may_have_width_and_height_and_a_profile_holds_what_lies_between() -> None:
    text = "1x832,8x832x1216,24x1216"
    profile = parse_profile(text)
    assert str(profile) == text
    assert Profile.model_validate_json(profile.model_dump_json()) == profile
    for shape in (832, (832, 1216), (1216, 832), 1024):
        assert profile.holds(24, shape)
    for batch, shape in ((25, 832), (1, (832, 1232)), (1, (816, 1216))):
        assert not profile.holds(batch, shape)
    with pytest.raises(BuildError, match="out of order"):
        parse_profile("1x832x1216,8x1024,24x1216")
    best = input_shapes(get_family("sd3.5-large"), [LATENTS], profile)["latents"].best
    assert best == (8, 16, 152, 104)


def test_one_point_is_all_three() -> None:
    assert str(parse_profile("24x1024")) == "24x1024,24x1024,24x1024"


@pytest.mark.parametrize(
    "text", ["", "1024", "1x512,8x512", "1x512,8x512,9x512,9x512", "axb", "0x64"]
)
def test_what_cannot_be_read_says_how_to_write_it(text: str) -> None:
    with pytest.raises(BuildError, match="profile"):
        parse_profile(text)


def test_shapes_follow_the_familys_latents_and_tokens() -> None:
    family = get_family("sd3.5-large")
    profile = parse_profile("1x512,8x1024,16x1024")
    ranges = input_shapes(family, [LATENTS, TOKENS, FIXED], profile)
    latents = ranges["latents"]
    assert latents.smallest == (1, 16, 64, 64)
    assert latents.best == (8, 16, 128, 128)
    assert latents.largest == (16, 16, 128, 128)
    assert ranges["tokens"].smallest == (1, 1, 4096)
    assert ranges["tokens"].largest == (16, family.text_tokens, 4096)
    assert ranges["lora_down_64x64"].smallest == ranges["lora_down_64x64"].largest == (15, 8, 64)
    assert latents.holds((16, 16, 64, 128))
    assert not latents.holds((17, 16, 64, 64))
    assert not latents.holds((1, 16, 63, 64))
    assert not latents.holds((1, 16, 64))


def test_a_decoder_takes_a_few_images_of_the_same_sizes() -> None:
    assert str(decoder_profile(parse_profile("8x512,24x1024,48x1024"))) == "1x512,4x1024,4x1024"


def test_resolutions_that_the_family_does_not_draw_are_refused() -> None:
    with pytest.raises(ResolutionError, match="resolution_px = 64"):
        check_resolutions(get_family("demo"), [parse_profile("1x64,1x64,1x512")])
