"""Animated PNGs, which libvips does not read: their frames, drawn one over the other as the format says.

Specification: PNG, third edition (2025), 4.9 and 11.3.6. Blocking, for threads only; loaded late, see ``vips``.
"""

import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pyvips

from lib.delivery.metadata import PNG_SIGNATURE, png_chunks
from lib.delivery.pieces import Malformed, Span, read_exactly

_FRAME_CONTROL = struct.Struct(">IIIIIHHBB")
_SHARED = frozenset({b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT"})
_BACKGROUND, _PREVIOUS = 1, 2
"""What a frame leaves behind: nothing in its place, or what was there before it."""
_OVER = 1
"""A frame is laid over what is there, instead of replacing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame: where it is drawn, for how long (milliseconds), and where its data lies in the file."""

    width: int
    height: int
    x: int
    y: int
    delay_ms: int
    dispose: int
    blend: int
    data: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Animation:
    """An animated PNG that is not decoded yet. ``loop`` as in WebP: 0 = for ever."""

    path: Path
    width: int
    height: int
    header: bytes
    """IHDR's content."""
    shared: bytes
    """Chunks that each frame needs to be decoded, complete."""
    loop: int
    frames: tuple[Frame, ...]


def frame_count(path: Path) -> int:
    """Return how many frames an animated PNG says it has, 0 for any other file."""
    with path.open("rb") as file:
        if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            return 0
        for kind, start, size in png_chunks(file):
            if kind == b"acTL" and size == 8:
                file.seek(start)
                return int.from_bytes(file.read(4))
            if kind == b"IDAT":
                return 0
    return 0


def read(path: Path) -> Animation | None:
    """Read an animated PNG's plan; ``None`` for any other file. Raises: Malformed."""
    if not frame_count(path):
        return None
    header, shared, loop = b"", b"", 0
    frames: list[Frame] = []
    with path.open("rb") as file:
        for kind, start, size in png_chunks(file):
            if kind == b"IHDR":
                header = read_exactly(file, start, size)
            elif kind in _SHARED:
                shared += read_exactly(file, start - 8, size + 12)
            elif kind == b"acTL":
                (loop,) = struct.unpack(">I", read_exactly(file, start + 4, 4))
            elif kind == b"fcTL":
                frames.append(_frame(read_exactly(file, start, size)))
            elif kind in (b"IDAT", b"fdAT") and frames:  # an IDAT before the first fcTL is no frame
                begin = start + (4 if kind == b"fdAT" else 0)
                frames[-1] = replace(frames[-1], data=(*frames[-1].data, (begin, start + size)))
    if len(header) != 13 or not frames:
        raise Malformed("it says that it is animated and has no frames")
    width, height = struct.unpack_from(">II", header)
    return Animation(
        path=path, width=width, height=height, header=header, shared=shared, loop=loop, frames=tuple(frames)
    )


def unfold(animation: Animation, raw: Path) -> pyvips.Image:
    """Draw every frame whole into ``raw`` (plain RGBA, so that memory holds one at a time), and open that as one tall
    picture; the caller removes the file. Raises: Malformed, pyvips.Error, OSError."""
    size = (animation.width, animation.height)
    canvas = pyvips.Image.black(*size, bands=4).copy(interpretation="srgb").copy_memory()
    with animation.path.open("rb") as file, raw.open("wb") as out:
        for frame in animation.frames:
            shown = _drawn(canvas, frame, _decoded(animation, frame, file))
            out.write(shown.write_to_memory())
            if frame.dispose != _PREVIOUS:
                canvas = shown
            if frame.dispose == _BACKGROUND:
                empty = pyvips.Image.black(frame.width, frame.height, bands=4).copy(interpretation="srgb")
                canvas = shown.insert(empty, frame.x, frame.y).copy_memory()
    count = len(animation.frames)
    image = pyvips.Image.rawload(str(raw), size[0], size[1] * count, 4, access="sequential").copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gint_type, "page-height", animation.height)
    image.set_type(pyvips.GValue.gint_type, "n-pages", count)
    image.set_type(pyvips.GValue.gint_type, "loop", animation.loop)
    image.set_type(pyvips.GValue.array_int_type, "delay", [frame.delay_ms for frame in animation.frames])
    return image


def _frame(control: bytes) -> Frame:
    _, width, height, x, y, delay, unit, dispose, blend = _FRAME_CONTROL.unpack(control)
    return Frame(
        width=width,
        height=height,
        x=x,
        y=y,
        delay_ms=round(1000 * delay / (unit or 100)),
        dispose=dispose,
        blend=blend,
    )


def _drawn(canvas: pyvips.Image, frame: Frame, picture: pyvips.Image) -> pyvips.Image:
    if frame.blend == _OVER:
        below = canvas.crop(frame.x, frame.y, frame.width, frame.height)
        picture = below.composite2(picture, "over").rint().cast("uchar")
    return canvas.insert(picture, frame.x, frame.y).copy_memory()


def _decoded(animation: Animation, frame: Frame, file: BinaryIO) -> pyvips.Image:
    """The frame as a PNG of its own, decoded to RGBA, 8 bits."""
    if frame.x + frame.width > animation.width or frame.y + frame.height > animation.height:
        raise Malformed("a frame is larger than its animation")
    data = b"".join(read_exactly(file, start, end - start) for start, end in frame.data)
    header = struct.pack(">II", frame.width, frame.height) + animation.header[8:]
    whole = PNG_SIGNATURE + _chunk(b"IHDR", header) + animation.shared + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    picture = pyvips.Image.pngload_buffer(whole, fail_on="error").colourspace("srgb")
    return (picture if picture.hasalpha() else picture.addalpha()).copy_memory()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
