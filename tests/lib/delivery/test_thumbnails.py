"""Small copies of pictures."""

from pathlib import Path

import pytest
import pyvips

from lib.delivery.thumbnails import thumbnail
from lib.delivery.vips import Unusable, set_up
from tests.lib.delivery.pictures import SECRET, apng, difference, gradient, with_metadata


@pytest.fixture(autouse=True, scope="module")
def ready() -> None:
    set_up()


def made(path: Path, *, width: int = 32, height: int = 32, format_: str = "webp") -> pyvips.Image:
    target = path.with_name("small")
    thumbnail(path, target, width=width, height=height, format_=format_, max_pixels=1_000_000)
    assert SECRET.encode() not in target.read_bytes()
    return pyvips.Image.new_from_buffer(target.read_bytes(), "")


@pytest.mark.parametrize(("format_", "loader"), [("webp", "webpload_buffer"), ("jpeg", "jpegload_buffer")])
def test_it_fits_and_looks_like_the_picture(tmp_path: Path, format_: str, loader: str) -> None:
    """Its shape stays; it carries no metadata of the picture's."""
    path = tmp_path / "a.png"
    with_metadata(gradient(), icc=True).pngsave(str(path))
    small = made(path, format_=format_)
    assert (small.width, small.height, small.get("vips-loader")) == (32, 24, loader)
    assert difference(small, gradient(32, 24)) < 8


def test_a_small_picture_stays_small(tmp_path: Path) -> None:
    """Nothing is blown up."""
    path = tmp_path / "a.png"
    gradient(8, 6).pngsave(str(path))
    small = made(path)
    assert (small.width, small.height) == (8, 6)


def test_what_is_turned_and_what_is_clear(tmp_path: Path) -> None:
    """A turned picture stands upright; in JPEG white shows through."""
    path = tmp_path / "a.jpg"
    with_metadata(gradient(), orientation=6).jpegsave(str(path))
    small = made(path)
    assert (small.width, small.height) == (24, 32)
    gradient(alpha=True).pngsave(str(tmp_path / "b.png"))
    assert min(made(tmp_path / "b.png", format_="jpg")(30, 12)) > 240
    assert made(tmp_path / "b.png").hasalpha()


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    """For PNG as for WebP."""
    apng(tmp_path / "a.png", [(0, 0, 64, 0, 0, b"\xff\0\0\xff"), (0, 0, 64, 0, 0, b"\0\xff\0\xff")], size=(64, 64))
    tall = gradient(16, 48).copy()
    tall.set_type(pyvips.GValue.gint_type, "page-height", 16)
    tall.webpsave(str(tmp_path / "a.webp"))
    assert made(tmp_path / "a.png")(16, 16)[0] > 240
    assert (made(tmp_path / "a.webp").width, made(tmp_path / "a.webp").height) == (16, 16)


def test_what_can_not_be_read_or_is_too_large(tmp_path: Path) -> None:
    """It is said, and nothing is left."""
    (tmp_path / "a.png").write_bytes(b"no picture")
    pyvips.Image.black(2000, 2000).pngsave(str(tmp_path / "b.png"))
    for name in ("a.png", "b.png"):
        with pytest.raises(Unusable):
            made(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
