"""What may be asked of encoders: every documented name, and nothing that they would choke on."""

from typing import Any

import pytest
import pyvips

from lib.delivery.encoders import FORMATS, read_options
from lib.errors import InvalidRequest

LOC = ("body", "input", "convert_output", "options")
SHARP_JPEG = {
    "quality": 55,
    "progressive": True,
    "chromaSubsampling": "4:4:4",
    "optimiseCoding": False,
    "optimizeCoding": True,
    "mozjpeg": True,
    "trellisQuantisation": False,
    "trellisQuantization": True,
    "overshootDeringing": False,
    "optimiseScans": True,
    "optimizeScans": True,
    "quantisationTable": 2,
    "quantizationTable": 1,
}
SHARP_WEBP = {
    "quality": 100,
    "alphaQuality": 0,
    "lossless": True,
    "nearLossless": True,
    "smartSubsample": True,
    "smartDeblock": True,
    "preset": "drawing",
    "effort": 6,
    "minSize": True,
    "mixed": True,
    "exact": True,
    "loop": 0,
    "delay": [10, 20],
}
SHARP_AVIF = {"quality": 1, "lossless": True, "effort": 0, "chromaSubsampling": "4:2:0", "bitdepth": 10, "tune": "ssim"}
SHARP_PNG = {
    "progressive": True,
    "compressionLevel": 9,
    "adaptiveFiltering": True,
    "palette": True,
    "quality": 90,
    "effort": 1,
    "colours": 3,
    "colors": 2,
    "dither": 0.5,
}
SAVERS = {"jpeg": "jpegsave", "webp": "webpsave", "avif": "heifsave", "png": "pngsave"}


def read(format_: str, **options: Any) -> dict[str, Any]:
    chosen, warnings = read_options(format_, options, loc=LOC)
    assert warnings == ()
    return chosen


@pytest.mark.parametrize(
    ("format_", "options"),
    [("jpeg", SHARP_JPEG), ("jpg", SHARP_JPEG), ("webp", SHARP_WEBP), ("avif", SHARP_AVIF), ("png", SHARP_PNG)],
)
def test_libvips_takes_what_sharps_options_become(format_: str, options: dict[str, Any]) -> None:
    """One by one and all together: the saver knows each name and each value."""
    saver = SAVERS["jpeg" if format_ == "jpg" else format_]
    fixed = {"compression": "av1"} if format_ == "avif" else {}
    picture = pyvips.Image.black(16, 16, bands=3).cast("uchar").copy(interpretation="srgb")
    for given in (*({name: value} for name, value in options.items()), options, {}):
        chosen = read(format_, **given)
        for name in ("background", "loop", "delay"):
            chosen.pop(name, None)
        assert getattr(picture, f"{saver}_buffer")(**fixed, **chosen)


def test_libvips_own_names_are_taken_too() -> None:
    """The two spellings mean one option."""
    assert read("webp", alpha_q=3, Q=70) == read("webp", alphaQuality=3, quality=70)
    assert read("jpeg", subsample_mode="off", interlace=True) == read(
        "jpeg", chromaSubsampling="4:4:4", progressive=True
    )
    assert read("jpeg", trellis_quant=True)["trellis_quant"] is True


def test_defaults_are_sharps() -> None:
    """80 and 4:2:0 for JPEG, 80 for WebP, 50 and 8 bits for AVIF; null is as good as nothing."""
    assert read("jpeg", quality=None) == {
        "Q": 80,
        "optimize_coding": True,
        "subsample_mode": "on",
        "background": [255, 255, 255],
    }
    assert read("webp") == {"Q": 80}
    assert read("avif") == {"Q": 50, "bitdepth": 8}
    assert read("png") == {}


def test_what_an_option_brings_along() -> None:
    """mozjpeg is a shorthand, optimised scans are progressive, a palette's details mean a palette; the said wins."""
    assert read("jpeg", mozjpeg=True)["quant_table"] == 3
    assert read("jpeg", quantizationTable=1, mozjpeg=True)["quant_table"] == 1
    assert read("jpeg", mozjpeg=True, quantizationTable=1)["quant_table"] == 1
    assert "trellis_quant" not in read("jpeg", mozjpeg=False)
    assert read("jpeg", optimizeScans=True)["interlace"] is True
    assert read("png", colors=8) == {"palette": True, "colours": 8}
    assert read("png", adaptiveFiltering=False) == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("#fff", [255] * 3),
        ("00ff7F", [0, 255, 127]),
        ([1, 2, 3], [1, 2, 3]),
        ({"r": 1, "g": 2, "b": 3, "alpha": 1}, [1, 2, 3]),
    ],
)
def test_colours(value: Any, expected: list[int]) -> None:
    """As on the web, as numbers, or as sharp's object."""
    assert read("jpeg", background=value)["background"] == expected


@pytest.mark.parametrize(
    ("format_", "name", "value", "expected"),
    [
        ("jpeg", "quality", 0, "a whole number from 1 to 100"),
        ("jpeg", "quality", 101, "a whole number from 1 to 100"),
        ("jpeg", "quality", 80.5, "a whole number from 1 to 100"),
        ("jpeg", "quality", float("nan"), "a whole number"),
        ("jpeg", "quality", float("inf"), "a whole number"),
        ("jpeg", "quality", "80", "a whole number"),
        ("jpeg", "quality", True, "a whole number"),
        ("jpeg", "progressive", 1, "true or false"),
        ("jpeg", "chromaSubsampling", "4:1:1", "one of auto, on, off"),
        ("jpeg", "quantisationTable", 9, "from 0 to 8"),
        ("jpeg", "background", "blue", "a colour such as"),
        ("jpeg", "background", [1, 2], "a colour such as"),
        ("jpeg", "background", [1, 2, 256], "from 0 to 255"),
        ("jpeg", "lossless", True, "is not an option of jpeg; expected one of"),
        ("webp", "progressive", True, "is not an option of webp"),
        ("webp", "effort", 7, "from 0 to 6"),
        ("webp", "preset", "art", "one of default, photo"),
        ("webp", "preset", ["photo"], "one of default, photo"),
        ("webp", "delay", [], "milliseconds"),
        ("webp", "delay", ["x"], "a whole number"),
        ("avif", "bitdepth", 9, "one of 8, 10, 12"),
        ("png", "compressionLevel", 10, "from 0 to 9"),
        ("png", "dither", 1.5, "from 0 to 1"),
    ],
)
def test_what_can_not_be(format_: str, name: str, value: Any, expected: str) -> None:
    """422 with the field's place, and what was expected there."""
    with pytest.raises(InvalidRequest) as caught:
        read_options(format_, {name: value}, loc=LOC)
    (problem,) = caught.value.details["errors"]  # type: ignore[misc]
    assert problem["loc"] == [*LOC, name]
    assert expected in problem["msg"]
    assert problem["msg"].startswith(f"input.convert_output.options.{name} ")


def test_a_documented_option_without_effect_is_said() -> None:
    """What belongs to sharp alone is no mistake of the caller's, and not silent either."""
    chosen, warnings = read_options("webp", {"force": True, "quality": 3}, loc=LOC)
    assert chosen == {"Q": 3}
    assert warnings == (
        "input.convert_output.options.force has no effect: pictures always get the format that was asked for",
    )


def test_every_format_has_its_options() -> None:
    """None of the formats fails for want of a table."""
    for format_ in FORMATS:
        assert isinstance(read(format_), dict)
