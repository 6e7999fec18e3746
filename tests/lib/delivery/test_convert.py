"""Pictures into other formats: what is decoded again is what was there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pyvips

from lib.delivery.convert import Converted, convert
from lib.delivery.encoders import read_options
from lib.delivery.vips import Unusable, set_up
from tests.lib.delivery.pictures import (
    GRAPH,
    SECRET,
    apng,
    comfy_png,
    difference,
    gradient,
    no_room,
    pixels,
    with_metadata,
)

LOADERS = {"png": "pngload", "jpeg": "jpegload", "jpg": "jpegload", "webp": "webpload", "avif": "heifload"}


@pytest.fixture(autouse=True, scope="module")
def ready() -> None:
    set_up()


def run(path: Path, format_: str, options: Mapping[str, Any] | None = None, **given: Any) -> tuple[Path, Converted]:
    target = path.with_name(f"{path.name}.{format_}")
    chosen, _ = read_options(format_, options or {}, loc=("body", "options"))
    asked = {"keep_metadata": False, "max_pixels": 10_000_000} | given
    return target, convert(path, target, format_=format_, options=chosen, **asked)


def opened(path: Path, **options: Any) -> pyvips.Image:
    return pyvips.Image.new_from_file(str(path), **options)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return comfy_png(tmp_path / "a.png", {"prompt": GRAPH, "workflow": "{}"})


@pytest.mark.parametrize(("format_", "most"), [("png", 0), ("jpeg", 6), ("jpg", 6), ("webp", 6), ("avif", 8)])
def test_it_is_the_same_picture_in_the_format(picture: Path, format_: str, most: float) -> None:
    """Size and content stay, the metadata goes, nothing unfinished is left, and the original is untouched."""
    before = picture.read_bytes()
    target, done = run(picture, format_)
    image = opened(target)
    assert image.get("vips-loader") == LOADERS[format_]
    assert (image.width, image.height, done.width, done.height) == (64, 48, 64, 48)
    assert difference(image, gradient()) <= most
    assert SECRET.encode() not in target.read_bytes()
    assert picture.read_bytes() == before
    assert sorted(path.name for path in picture.parent.iterdir()) == ["a.png", f"a.png.{format_}"]
    assert done.warnings == ()


@pytest.mark.parametrize("format_", ["jpeg", "webp", "avif"])
def test_quality_is_heard(picture: Path, format_: str) -> None:
    """A better quality is a larger file that is closer to the original."""
    large = picture.with_name("large.png")
    pyvips.Image.perlin(256, 256, seed=1, uchar=True).pngsave(str(large))
    sizes, errors = [], []
    for quality in (10, 95):
        target, _ = run(large, format_, {"quality": quality})
        sizes.append(target.stat().st_size)
        errors.append(difference(opened(target).extract_band(0), opened(large)))
    assert sizes[1] > 1.5 * sizes[0]
    assert errors[1] < errors[0] / 2


def test_encoder_options_reach_the_encoder(picture: Path) -> None:
    """Each is visible in the file: lossless WebP, progressive JPEG without subsampling, a palette of four colours."""
    target, _ = run(picture, "webp", {"lossless": True})
    assert pixels(opened(target)) == pixels(opened(picture))
    assert b"VP8L" in target.read_bytes()
    for wanted, start in (({"progressive": True}, b"\xff\xc2"), ({"progressive": False}, b"\xff\xc0")):
        assert start in run(picture, "jpeg", wanted)[0].read_bytes()
    for sampling, factor in (("4:4:4", 0x11), ("4:2:0", 0x22)):
        data = run(picture, "jpeg", {"chromaSubsampling": sampling})[0].read_bytes()
        assert data[data.index(b"\xff\xc0") + 11] == factor
    palette = opened(run(picture, "png", {"colors": 4})[0])
    assert palette.hist_find_ndim(bins=64).avg() > 0
    assert len(set(zip(*[iter(pixels(palette))] * palette.bands, strict=True))) <= 4


def test_mozjpeg_is_smaller(picture: Path) -> None:
    """The shorthand turns on what it stands for."""
    large = picture.with_name("large.png")
    pyvips.Image.perlin(256, 256, seed=1, uchar=True).pngsave(str(large))
    plain = run(large, "jpeg")[0].stat().st_size
    assert run(large, "jpeg", {"mozjpeg": True})[0].stat().st_size < plain


def test_sixteen_bits(tmp_path: Path) -> None:
    """They stay in PNG; elsewhere they become eight, without a change of brightness."""
    path = tmp_path / "deep.png"
    gradient(deep=True).pngsave(str(path))
    same = opened(run(path, "png")[0])
    assert (same.format, pixels(same)) == ("ushort", pixels(opened(path)))
    for format_ in ("jpeg", "webp", "avif"):
        image = opened(run(path, format_)[0])
        assert image.format == "uchar"
        assert difference(image, gradient()) < 8


def test_transparency(tmp_path: Path) -> None:
    """It stays where the format has it; in JPEG the background shows through, white or as asked, 16 bits or grey."""
    path = tmp_path / "clear.png"
    gradient(alpha=True).pngsave(str(path))
    for format_ in ("webp", "avif", "png"):
        assert opened(run(path, format_)[0])(60, 24)[3] == 0
    assert min(opened(run(path, "jpeg")[0])(60, 24)) > 250
    red = opened(run(path, "jpeg", {"background": "#f00"})[0])(60, 24)
    assert red[0] > 240
    assert max(red[1:]) < 15
    gradient(alpha=True, deep=True).pngsave(str(path))
    assert min(opened(run(path, "jpeg")[0])(60, 24)) > 250
    grey = (pyvips.Image.black(8, 8) + 9).bandjoin(0).cast("uchar").copy(interpretation="b-w")
    grey.pngsave(str(path))
    blue = opened(run(path, "jpeg", {"background": [0, 0, 255]})[0])(4, 4)
    assert blue[2] > 240


def test_what_is_up_stays_up(tmp_path: Path) -> None:
    """A picture that only EXIF turns is turned for good, with its metadata or without."""
    path = tmp_path / "turned.jpg"
    with_metadata(gradient(), orientation=6).jpegsave(str(path), Q=95)
    for keep in (False, True):
        target, done = run(path, "webp", keep_metadata=keep)
        image = opened(target)
        assert (image.width, image.height, done.width, done.height) == (48, 64, 48, 64)
        assert difference(image, gradient().rot90()) < 8
        assert image.get("orientation") == 1 if "orientation" in image.get_fields() else True
        assert (SECRET.encode() in target.read_bytes()) == keep


def test_the_colour_profile_stays(tmp_path: Path) -> None:
    """Without it other colours would be seen."""
    path = tmp_path / "profiled.png"
    with_metadata(gradient(), icc=True).pngsave(str(path))
    assert "icc-profile-data" in opened(path).get_fields()
    for format_ in ("jpeg", "webp", "avif", "png"):
        target, _ = run(path, format_)
        assert "icc-profile-data" in opened(target).get_fields()
        assert SECRET.encode() not in target.read_bytes()


@pytest.mark.parametrize("kind", [b"tEXt", b"comf"])
def test_a_workflow_is_kept_where_comfyui_looks_for_it(tmp_path: Path, kind: bytes) -> None:
    """EXIF's Model and Make, as SaveAnimatedWEBP writes them; in PNG its text chunk. What has no place is named."""
    path = comfy_png(tmp_path / "a.png", {"prompt": GRAPH, "workflow": '{"w": 1}', "other": "x"}, kind=kind)
    for format_ in ("jpeg", "webp", "avif"):
        target, done = run(path, format_, keep_metadata=True)
        image = opened(target)
        assert image.get("exif-ifd0-Model").startswith(f"prompt:{GRAPH}")
        assert image.get("exif-ifd0-Make").startswith('workflow:{"w": 1}')
        assert done.warnings == ("metadata not kept: other",)
    if kind == b"tEXt":
        target, done = run(path, "png", keep_metadata=True)
        assert opened(target).get("png-comment-0-prompt") == GRAPH
        assert done.warnings == ()


def test_a_workflow_too_long_for_exif_is_named(tmp_path: Path) -> None:
    """It is lost, and said to be; the picture is converted all the same."""
    path = comfy_png(tmp_path / "a.png", {"prompt": "x" * 70_000})
    target, done = run(path, "webp", keep_metadata=True)
    assert (done.warnings, target.exists()) == (("metadata not kept: prompt",), True)


def test_animations_stay_animated_in_webp(tmp_path: Path) -> None:
    """GIF, WebP and PNG keep frames, times and repetition; they may be set anew."""
    tall = gradient(16, 48).copy()
    tall.set_type(pyvips.GValue.gint_type, "page-height", 16)
    tall.set_type(pyvips.GValue.array_int_type, "delay", [100, 200, 300])
    tall.set_type(pyvips.GValue.gint_type, "loop", 2)
    tall.gifsave(str(tmp_path / "a.gif"))
    tall.webpsave(str(tmp_path / "a.webp"), lossless=True)
    squares = [(0, 0, 16, 0, 0, b"\xff\0\0\xff"), (4, 4, 8, 0, 0, b"\0\xff\0\xff"), (0, 0, 2, 0, 1, b"\0\0\xff\xff")]
    apng(tmp_path / "a.png", squares, size=(16, 16))
    delays = {"a.gif": [100, 200, 300], "a.webp": [100, 200, 300], "a.png": [100, 101, 102]}
    for name, delay in delays.items():
        target, done = run(tmp_path / name, "webp")
        image = opened(target, n=-1)
        assert (done.width, done.height, done.warnings) == (16, 16, ())
        assert (image.get("n-pages"), image.get("page-height"), image.get("delay")) == (3, 16, delay)
    assert image.get("loop") == 2
    target, _ = run(tmp_path / "a.webp", "webp", {"loop": 5, "delay": [40]})
    assert (opened(target, n=-1).get("loop"), opened(target, n=-1).get("delay")) == (5, [40, 40, 40])


@pytest.mark.parametrize("format_", ["jpeg", "avif", "png"])
def test_a_still_of_an_animation_is_named(tmp_path: Path, format_: str) -> None:
    """Where the format has no frames the first one is delivered, and a warning."""
    tall = gradient(16, 48).copy()
    tall.set_type(pyvips.GValue.gint_type, "page-height", 16)
    tall.webpsave(str(tmp_path / "a.webp"), lossless=True)
    apng(tmp_path / "a.png", [(0, 0, 16, 0, 0, b"\xff\0\0\xff"), (4, 4, 8, 0, 0, b"\0\xff\0\xff")], size=(16, 16))
    for name, count in (("a.webp", 3), ("a.png", 2)):
        target, done = run(tmp_path / name, format_)
        assert done.warnings == (f"only the first of {count} frames is in the {format_} file",)
        assert (opened(target).width, opened(target).height, done.height) == (16, 16, 16)


@pytest.mark.parametrize("format_", ["webp", "jpeg", "png", "avif"])
def test_what_can_not_be_decoded(tmp_path: Path, format_: str) -> None:
    """Other files, cut and foreign ones: said without our folders, and nothing is left behind."""
    whole = gradient().pngsave_buffer()
    for name, data in (("cut.png", whole[: len(whole) // 2]), ("text.png", b"hello"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Unusable) as caught:
            run(tmp_path / name, format_)
        assert str(caught.value)
        assert str(tmp_path) not in str(caught.value)
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    with pytest.raises(Unusable):
        run(tmp_path / "a.svg", format_)
    assert len(list(tmp_path.iterdir())) == 4


def test_large_pictures_are_refused_by_their_header(tmp_path: Path) -> None:
    """Width times height times frames, before a pixel is decoded."""
    path = tmp_path / "large.png"
    pyvips.Image.black(20_000, 20_000).pngsave(str(path), compression=9)
    with pytest.raises(Unusable, match="20000 x 20000 pixels a frame are more than CONVERT_MAX_PIXELS allows"):
        run(path, "webp")
    tall = gradient(16, 64).copy()
    tall.set_type(pyvips.GValue.gint_type, "page-height", 16)
    tall.webpsave(str(tmp_path / "a.webp"))
    squares = [(0, 0, 16, 0, 0, b"\xff\0\0\xff")] + 3 * [(4, 4, 8, 0, 0, b"\0\xff\0\xff")]
    apng(tmp_path / "a.png", squares, size=(16, 16))
    for name in ("a.webp", "a.png"):
        assert run(tmp_path / name, "webp", max_pixels=1024)
        with pytest.raises(Unusable):
            run(tmp_path / name, "webp", max_pixels=1023)


@pytest.mark.parametrize("format_", ["webp", "png", "jpeg", "avif"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, format_: str) -> None:
    """What can't be written is said, and the beginning of it is gone."""
    path = tmp_path / "a.png"
    pyvips.Image.gaussnoise(64, 64).cast("uchar").pngsave(str(path))
    with no_room(bytes_=500), pytest.raises(Unusable) as caught:
        run(path, format_)
    assert str(tmp_path) not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_a_name_is_no_option(tmp_path: Path) -> None:
    """Brackets at the end of a name, which libvips reads as options elsewhere, are a part of it."""
    path = tmp_path / "a[n=-1]"
    gradient().pngsave(str(tmp_path / "plain.png"))
    (tmp_path / "plain.png").rename(path)
    target = tmp_path / "b[Q=1]"
    convert(path, target, format_="webp", options={"lossless": True}, keep_metadata=False, max_pixels=10**6)
    assert target.read_bytes()[8:16] == b"WEBPVP8L"
