"""Frames of animated PNGs, drawn as the specification says."""

from pathlib import Path

import pytest
import pyvips

from lib.delivery import apng as animated
from lib.delivery.pieces import Malformed
from lib.delivery.vips import set_up
from tests.lib.delivery.pictures import apng, chunk, comfy_png

RED, GREEN, HALF_BLUE, CLEAR = b"\xff\0\0\xff", b"\0\xff\0\xff", b"\0\0\xff\x80", b"\0\0\0\0"
NONE, BACKGROUND, PREVIOUS = 0, 1, 2
SOURCE, OVER = 0, 1


@pytest.fixture(autouse=True, scope="module")
def ready() -> None:
    set_up()


def unfolded(path: Path) -> pyvips.Image:
    animation = animated.read(path)
    assert animation is not None
    return animated.unfold(animation, path.with_suffix(".raw"))


def shown(image: pyvips.Image, frame: int, x: int, y: int) -> bytes:
    return bytes(int(value) for value in image(x, frame * 8 + y))


def test_frames_are_drawn_over_each_other(tmp_path: Path) -> None:
    """What a frame leaves, clears or restores, and whether it covers or is mixed in, shows in the next one."""
    frames = [
        (0, 0, 8, NONE, SOURCE, RED),
        (2, 2, 4, PREVIOUS, SOURCE, GREEN),
        (0, 0, 2, BACKGROUND, OVER, HALF_BLUE),
        (4, 4, 2, NONE, SOURCE, CLEAR),
        (4, 4, 2, NONE, OVER, CLEAR),
    ]
    image = unfolded(apng(tmp_path / "a.png", frames, size=(8, 8))).copy_memory()
    assert (image.width, image.height, image.get("page-height"), image.get("n-pages")) == (8, 40, 8, 5)
    assert (image.get("delay"), image.get("loop")) == ([100, 101, 102, 103, 104], 2)
    assert shown(image, 0, 3, 3) == RED
    assert shown(image, 1, 3, 3) == GREEN
    assert shown(image, 1, 7, 7) == RED
    assert shown(image, 2, 3, 3) == RED  # restored
    mixed = shown(image, 2, 0, 0)
    assert mixed[0] in (126, 127, 128)
    assert mixed[2] in (127, 128, 129)
    assert mixed[3] == 255
    assert shown(image, 3, 0, 0) == CLEAR  # cleared
    assert shown(image, 3, 4, 4) == CLEAR  # covered with nothing
    assert shown(image, 4, 4, 4) == CLEAR
    assert shown(image, 4, 7, 7) == RED


def test_a_still_is_none(tmp_path: Path) -> None:
    """Other PNGs and other files have no frames."""
    still = comfy_png(tmp_path / "a.png", {})
    text = tmp_path / "a.txt"
    text.write_text("hello")
    for path in (still, text):
        assert (animated.frame_count(path), animated.read(path)) == (0, None)


def test_damage_is_said(tmp_path: Path) -> None:
    """A frame outside the canvas, no frame at all, a file that ends early."""
    outside = apng(tmp_path / "a.png", [(0, 0, 8, 0, 0, RED), (6, 6, 4, 0, 0, GREEN)], size=(8, 8))
    with pytest.raises(Malformed):
        unfolded(outside)
    whole = apng(tmp_path / "b.png", [(0, 0, 8, 0, 0, RED)], size=(8, 8))
    data = whole.read_bytes()
    whole.write_bytes(data[:-20])
    with pytest.raises(Malformed):
        animated.read(whole)
    at = data.index(b"fcTL") - 4
    whole.write_bytes(data[:at] + data[at + 38 :])
    with pytest.raises(Malformed):
        animated.read(whole)


def test_a_first_picture_that_is_no_frame(tmp_path: Path) -> None:
    """Some animations have a picture for viewers that show no animations; it is left out."""
    path = apng(tmp_path / "a.png", [(0, 0, 8, 0, 0, RED), (0, 0, 8, 0, 0, GREEN)], size=(8, 8))
    data = path.read_bytes()
    at = data.index(b"fcTL") - 4
    control, rest = data[at : at + 38], data[at + 38 :]
    assert control == chunk(b"fcTL", control[8:34])
    path.write_bytes(data[:at] + rest)
    image = unfolded(path)
    assert (image.height, shown(image.copy_memory(), 0, 1, 1)) == (8, GREEN)
