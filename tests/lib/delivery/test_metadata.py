"""Metadata out of pictures: the secret is gone, and not one pixel is another."""

import struct
from pathlib import Path

import pytest
import pyvips

from lib.delivery.metadata import Stripped, png_texts, strip
from lib.delivery.pieces import Malformed
from tests.lib.delivery.pictures import (
    GRAPH,
    SECRET,
    SIGNATURE,
    apng,
    chunk,
    comfy_png,
    gradient,
    kinds,
    no_room,
    pixels,
    with_metadata,
)


def opened(path: Path, **options: int) -> pyvips.Image:
    return pyvips.Image.new_from_buffer(path.read_bytes(), "", **options)


def stripped(path: Path, mime_type: str) -> Path:
    target = path.with_name(f"bare-{path.name}")
    before = path.read_bytes()
    assert strip(path, target, mime_type=mime_type) is Stripped.WRITTEN
    assert path.read_bytes() == before
    assert SECRET.encode() in before
    assert SECRET.encode() not in target.read_bytes()
    again = path.with_name(f"again-{path.name}")
    assert strip(target, again, mime_type=mime_type) is Stripped.CLEAN or again.read_bytes() == target.read_bytes()
    return target


def test_png(tmp_path: Path) -> None:
    """Texts, EXIF, time and unknown chunks go; what changes how it looks stays, in order, with right checksums."""
    path = comfy_png(tmp_path / "a.png", {"prompt": GRAPH, "workflow": GRAPH})
    data = path.read_bytes()
    extra = chunk(b"sRGB", b"\0") + chunk(b"tIME", bytes(7)) + chunk(b"gAMA", struct.pack(">I", 45455))
    extra += chunk(b"iTXt", f"x\0\0\0\0\0{SECRET}".encode()) + chunk(b"caBX", SECRET.encode())
    path.write_bytes(data[:33] + extra + data[33:])
    target = stripped(path, "image/png")
    assert kinds(target.read_bytes()) == [b"IHDR", b"sRGB", b"gAMA", b"pHYs", b"IDAT", b"IEND"]
    assert pixels(opened(target)) == pixels(opened(path))


def test_what_lies_behind_a_png_goes(tmp_path: Path) -> None:
    """Bytes after the end of the picture are no part of it."""
    path = comfy_png(tmp_path / "a.png", {})
    path.write_bytes(path.read_bytes() + SECRET.encode())
    assert stripped(path, "image/png").read_bytes() == comfy_png(tmp_path / "b.png", {}).read_bytes()


def test_animated_png(tmp_path: Path) -> None:
    """Frames stay, ComfyUI's own chunk goes."""
    frames = [(0, 0, 8, 0, 0, b"\xff\0\0\xff"), (2, 2, 4, 0, 0, b"\0\xff\0\xff")]
    target = stripped(apng(tmp_path / "a.png", frames, size=(8, 8)), "image/png")
    assert kinds(target.read_bytes()) == [
        *(b"IHDR", b"acTL", b"fcTL", b"IDAT", b"IDAT"),
        *(b"fcTL", b"fdAT", b"IEND"),
    ]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    ("name", "mime_type", "saver"),
    [("a.jpg", "image/jpeg", "jpegsave"), ("a.webp", "image/webp", "webpsave"), ("a.png", "image/png", "pngsave")],
)
def test_turned_and_profiled(tmp_path: Path, name: str, mime_type: str, saver: str, orientation: int) -> None:
    """How it is turned and its colour profile stay, whatever else was in its EXIF and XMP."""
    path = tmp_path / name
    getattr(with_metadata(gradient(), orientation=orientation, icc=True), saver)(str(path), keep="all")
    target = stripped(path, mime_type)
    image, before = opened(target), opened(path)
    assert pixels(image) == pixels(before)
    assert image.get("icc-profile-data") == before.get("icc-profile-data")
    fields = image.get_fields()
    assert (image.get("orientation") if "orientation" in fields else 1) == orientation
    assert "xmp-data" not in fields
    assert ("exif-data" in fields) == (orientation > 1)


def test_jpeg_comments_and_foreign_segments(tmp_path: Path) -> None:
    """Comments, Photoshop's and multi-picture segments go; fill bytes are taken, tables stay."""
    data = gradient().jpegsave_buffer(keep="none", restart_interval=2)
    secret = SECRET.encode()
    foreign = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(text) + 2) + text
        for marker, text in ((0xFE, secret), (0xED, b"Photoshop 3.0\0" + secret), (0xE2, b"MPF\0" + secret))
    )
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + foreign + b"\xff" + data[2:])
    target = stripped(path, "image/jpeg")
    assert target.read_bytes() == data


def test_animated_webp(tmp_path: Path) -> None:
    """Frames and their times stay; the container's flags and sizes are right again."""
    tall = with_metadata(gradient(16, 48))
    tall.set_type(pyvips.GValue.gint_type, "page-height", 16)
    tall.set_type(pyvips.GValue.array_int_type, "delay", [100, 200, 300])
    path = tmp_path / "a.webp"
    tall.webpsave(str(path), keep="all")
    target = stripped(path, "image/webp")
    data = target.read_bytes()
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    assert data[20] & 0x0C == 0
    image, before = opened(target, n=-1), opened(path, n=-1)
    assert pixels(image) == pixels(before)
    assert image.get("delay") == [100, 200, 300]


def test_gif(tmp_path: Path) -> None:
    """Comments and XMP go, frames and repetition stay."""
    tall = gradient(16, 48).copy()
    tall.set_type(pyvips.GValue.gint_type, "page-height", 16)
    tall.set_type(pyvips.GValue.array_int_type, "delay", [100, 200, 300])
    tall.set_type(pyvips.GValue.gint_type, "loop", 2)
    path = tmp_path / "a.gif"
    tall.gifsave(str(path))
    data, secret = path.read_bytes(), SECRET.encode()
    foreign = b"!\xfe" + bytes([len(secret)]) + secret + b"\0"
    foreign += b"!\xff\x0bXMP DataXMP" + bytes([len(secret)]) + secret + b"\0"
    path.write_bytes(data[:-1] + foreign + data[-1:])
    assert stripped(path, "image/gif").read_bytes() == data


def test_clean_files_are_not_written(tmp_path: Path) -> None:
    """What has no metadata stays the file that it is."""
    for name, mime_type in (("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a.webp", "image/webp")):
        path = tmp_path / name
        gradient().write_to_file(str(path), keep="none")
        assert strip(path, tmp_path / "out", mime_type=mime_type) is Stripped.CLEAN
    assert strip(tmp_path / "a.png", tmp_path / "out", mime_type="image/x-exr") is Stripped.UNSUPPORTED
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mime_type", ["image/png", "image/jpeg", "image/webp", "image/gif"])
@pytest.mark.parametrize("data", [b"", b"x", b"x" * 100, SIGNATURE, SIGNATURE + b"\xff" * 40, b"RIFF\xff\xff\0\0WEBP"])
def test_damage_is_said_and_leaves_nothing(tmp_path: Path, mime_type: str, data: bytes) -> None:
    """A file that is not what it is called is left alone."""
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(Malformed):
        strip(path, tmp_path / "out", mime_type=mime_type)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_the_disk_may_be_full(tmp_path: Path) -> None:
    """What can't be written is an error of the system's, and nothing of it stays."""
    path = comfy_png(tmp_path / "a.png", {"prompt": GRAPH})
    with no_room(bytes_=50), pytest.raises(OSError, match="File too large"):
        strip(path, tmp_path / "out", mime_type="image/png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_texts_of_a_png(tmp_path: Path) -> None:
    """Plain, compressed, international and ComfyUI's own chunks are read by keyword."""
    path = comfy_png(tmp_path / "a.png", {"prompt": GRAPH})
    image = opened(path).copy()
    image.set_type(pyvips.GValue.gstr_type, "png-comment-0-workflow", '{"ü": 1}' * 300)
    image.pngsave(str(path), keep="all")
    assert png_texts(path)["workflow"] == '{"ü": 1}' * 300
    comf = apng(tmp_path / "b.png", [(0, 0, 8, 0, 0, b"\xff\0\0\xff")], size=(8, 8))
    assert png_texts(comf) == {"prompt": GRAPH}
    (tmp_path / "c").write_bytes(b"no png")
    assert png_texts(tmp_path / "c") == {}
