"""Workflows, prompts, EXIF, XMP and comments out of files, without decoding a pixel or sample: pictures, and by way of
``containers`` everything else that carries them. Colour profile, orientation, animation and transparency stay.

ComfyUI writes the whole graph into every kind of file: PNG text chunks, APNG ``comf`` chunks, WebP EXIF, tags of video
and audio, headers of latents. Blocking: call it in a thread.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from lib.delivery import containers
from lib.delivery.pieces import Malformed, Piece, read_exactly, unchanged, write

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(
    (b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD hIST pHYs sPLT acTL fcTL fdAT").split()
)
_WEBP_KEPT = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
_WEBP_METADATA = 0x08 | 0x04
"""VP8X: there is EXIF, there is XMP."""
_GIF_KEPT = (b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012")
_MOST_TEXT_BYTES = 16 << 20


class Stripped(StrEnum):
    """What came of it: a new file, nothing to take out, or a kind of file that we can't."""

    WRITTEN = "written"
    CLEAN = "clean"
    UNSUPPORTED = "unsupported"


def strip(path: Path, target: Path, *, mime_type: str) -> Stripped:
    """Write ``path`` without its metadata as ``target`` if there is any. Raises: Malformed, OSError."""
    plan = _PLANS.get(mime_type)
    if plan is None:
        return Stripped.UNSUPPORTED
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            pieces = list(plan(file, size))
        except (struct.error, IndexError, ValueError) as error:
            raise Malformed("it is not built as its kind says") from error
        if unchanged(pieces, size):
            return Stripped.CLEAN
        write(pieces, file, target)
    return Stripped.WRITTEN


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's type, and its content's start and size. Raises: Malformed."""
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        size, kind = struct.unpack(">I4s", read_exactly(file, at, 8))
        yield kind, at + 8, size
        at += 12 + size


def png_texts(path: Path) -> dict[str, str]:
    """Return a PNG's texts by keyword (``prompt``, ``workflow``, ...), an animated one's too; empty for other files."""
    texts: dict[str, str] = {}
    with path.open("rb") as file:
        if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            return texts
        for kind, start, size in png_chunks(file):
            if kind in (b"tEXt", b"zTXt", b"iTXt", b"comf") and size <= _MOST_TEXT_BYTES:
                name, _, value = read_exactly(file, start, size).partition(b"\0")
                texts[name.decode("latin-1")] = _text(kind, value)
    return texts


def _text(kind: bytes, value: bytes) -> str:
    if kind == b"zTXt":
        return _plain(_inflated(value[1:]))
    if kind == b"iTXt":
        _, _, text = value[2:].split(b"\0", 2)
        return (_inflated(text) if value[:1] == b"\1" else text).decode("utf-8", "replace")
    return _plain(value)


def _plain(value: bytes) -> str:
    """By the specification it is Latin-1; libvips writes UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MOST_TEXT_BYTES)


def _png(file: BinaryIO, size: int) -> Iterator[Piece]:
    _expect(file, 0, PNG_SIGNATURE)
    yield (0, len(PNG_SIGNATURE))
    for kind, start, length in png_chunks(file):
        if kind in _PNG_KEPT:
            yield (start - 8, start + length + 4)
        elif kind == b"eXIf" and (exif := _orientation_only(read_exactly(file, start, length))):
            yield struct.pack(">I", len(exif)) + kind + exif + struct.pack(">I", zlib.crc32(kind + exif))


def _jpeg(file: BinaryIO, size: int) -> Iterator[Piece]:
    """Segments up to the first scan; behind it there are no more of the kind that carries metadata."""
    _expect(file, 0, b"\xff\xd8")
    yield (0, 2)
    at = 2
    while True:
        mark, marker, length = struct.unpack(">BBH", read_exactly(file, at, 4))
        if mark != 0xFF:
            raise Malformed("a JPEG segment is not where it should be")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:
            yield (at, size)
            return
        head = read_exactly(file, at + 4, min(length - 2, 14))
        end = at + 2 + length
        if marker == 0xE1 and head.startswith(b"Exif\0\0"):
            if exif := _orientation_only(read_exactly(file, at + 10, length - 8)):
                yield struct.pack(">BBH", 0xFF, marker, len(exif) + 8) + b"Exif\0\0" + exif
        elif not (marker == 0xFE or 0xE1 <= marker <= 0xEF) or marker == 0xEE or head.startswith(b"ICC_PROFILE\0"):
            yield (at, end)
        at = end


def _webp(file: BinaryIO, size: int) -> Iterator[Piece]:
    _expect(file, 8, b"WEBP")
    at, end = 12, 8 + struct.unpack("<I", read_exactly(file, 4, 4))[0]
    kept: list[Piece] = []
    exif = b""
    dropped = False
    while at < end:
        kind, length = struct.unpack("<4sI", read_exactly(file, at, 8))
        behind = at + 8 + length + length % 2
        if kind in _WEBP_KEPT:
            kept.append((at, behind))
        else:
            dropped = True
            exif = _orientation_only(read_exactly(file, at + 8, length)) if kind == b"EXIF" else exif
        at = behind
    yield from _webp_pieces(file, kept, exif) if dropped else [(0, end)]


def _webp_pieces(file: BinaryIO, kept: list[Piece], exif: bytes) -> Iterator[Piece]:
    tail = b"EXIF" + struct.pack("<I", len(exif)) + exif if exif else b""  # its length is even
    total = 4 + len(tail) + sum(end - start for start, end in (piece for piece in kept if isinstance(piece, tuple)))
    yield b"RIFF" + struct.pack("<I", total) + b"WEBP"
    for piece in kept:
        if isinstance(piece, tuple) and read_exactly(file, piece[0], 4) == b"VP8X":
            chunk = bytearray(read_exactly(file, piece[0], piece[1] - piece[0]))
            chunk[8] = chunk[8] & ~_WEBP_METADATA | (0x08 if exif else 0)
            piece = bytes(chunk)
        yield piece
    yield tail


def _gif(file: BinaryIO, size: int) -> Iterator[Piece]:
    _expect(file, 0, b"GIF8")
    at = 13 + _colours(read_exactly(file, 10, 1)[0])
    yield (0, at)
    while (mark := read_exactly(file, at, 1)) != b";":
        start = at
        if mark == b",":
            at += 11 + _colours(read_exactly(file, at + 9, 1)[0])
            kept = True
        elif mark == b"!":
            label, length, name = struct.unpack("BB11s", read_exactly(file, at + 1, 13))
            kept = label not in (0xFE, 0xFF) or (label == 0xFF and name[:length] in _GIF_KEPT)
            at += 2
        else:
            raise Malformed("a GIF block is not where it should be")
        while length := read_exactly(file, at, 1)[0]:
            at += 1 + length
        at += 1
        if kept:
            yield (start, at)
    yield (at, at + 1)


def _expect(file: BinaryIO, start: int, magic: bytes) -> None:
    if read_exactly(file, start, len(magic)) != magic:
        raise Malformed("it is not what it is called")


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _orientation_only(exif: bytes) -> bytes:
    """EXIF with nothing but how the picture is turned; empty when it is upright."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return b""
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for number in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * number)
            if tag == 0x0112 and 2 <= value <= 8:
                return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, tag, 3, 1, value, 0, 0)
    except struct.error:
        pass
    return b""


_PLANS: Mapping[str, Callable[[BinaryIO, int], Iterator[Piece]]] = {
    "image/png": _png,
    "image/apng": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
    "image/gif": _gif,
    **containers.PLANS,
}
