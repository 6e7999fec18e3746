"""Pictures to work on, made by libvips or byte by byte, and how their chunks are looked at."""

import resource
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyvips

SECRET = "sk-do-not-tell"
GRAPH = f'{{"1": {{"class_type": "X", "inputs": {{"key": "{SECRET}"}}}}}}'
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gradient(width: int = 64, height: int = 48, *, deep: bool = False, alpha: bool = False) -> pyvips.Image:
    """Red grows to the right, green downwards; 16 bits when ``deep``; its right half transparent with ``alpha``."""
    at = pyvips.Image.xyz(width, height)
    most = 65535 if deep else 255
    bands = [at[0] * (most / (width - 1)), at[1] * (most / (height - 1)), at[0] * 0]
    if alpha:
        bands.append((at[0] < width / 2) / 255 * most)
    image = bands[0].bandjoin(bands[1:]).cast("ushort" if deep else "uchar")
    return image.copy(interpretation="rgb16" if deep else "srgb")


def with_metadata(image: pyvips.Image, *, orientation: int = 1, icc: bool = False) -> pyvips.Image:
    """EXIF with a secret, XMP, an orientation, a colour profile."""
    image = image.copy()
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Make", f"workflow:{GRAPH}")
    image.set_type(pyvips.GValue.blob_type, "xmp-data", f"<x:xmpmeta>{SECRET}</x:xmpmeta>".encode())
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    return image.icc_transform("srgb", embedded=False, input_profile="srgb") if icc else image


def comfy_png(path: Path, texts: Mapping[str, str], *, kind: bytes = b"tEXt") -> Path:
    """A PNG as SaveImage writes it, with its graph in text chunks."""
    data = gradient().pngsave_buffer(keep="none")
    at = len(data) - 12 if kind == b"comf" else 8 + 25  # behind the picture, as ComfyUI's own
    chunks = b"".join(chunk(kind, name.encode() + b"\0" + text.encode("latin-1")) for name, text in texts.items())
    path.write_bytes(data[:at] + chunks + data[at:])
    return path


def kinds(data: bytes) -> list[bytes]:
    """The types of a PNG's chunks, in order, each one's checksum verified."""
    found, at = [], 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        assert chunk(kind, data[at + 8 : at + 8 + size]) == data[at : at + 12 + size]
        found.append(kind)
        at += 12 + size
    return found


def apng(path: Path, frames: Sequence[tuple[int, int, int, int, int, bytes]], *, size: tuple[int, int]) -> Path:
    """An animated RGBA PNG; frames are x, y, width, dispose, blend and one pixel's bytes (a square is filled with it).

    The first must cover the canvas. It has a ``comf`` chunk, as ComfyUI's own."""
    header = struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0)
    out = SIGNATURE + chunk(b"IHDR", header) + chunk(b"acTL", struct.pack(">II", len(frames), 2))
    number = 0
    for index, (x, y, width, dispose, blend, pixel) in enumerate(frames):
        high = size[1] if index == 0 else width
        control = struct.pack(">IIIIIHHBB", number, width, high, x, y, 100 + index, 1000, dispose, blend)
        out += chunk(b"fcTL", control)
        number += 1
        data = zlib.compress((b"\0" + pixel * width) * high)
        if index == 0:
            out += chunk(b"IDAT", data[:5]) + chunk(b"IDAT", data[5:])
        else:
            out += chunk(b"fdAT", struct.pack(">I", number) + data)
            number += 1
    path.write_bytes(out + chunk(b"comf", b"prompt\0" + GRAPH.encode()) + chunk(b"IEND", b""))
    return path


def pixels(image: pyvips.Image) -> bytes:
    return bytes(image.write_to_memory())


def difference(one: pyvips.Image, other: pyvips.Image) -> float:
    """Mean difference of a channel, 0 to 255."""
    return float((one.cast("float") - other.cast("float")).abs().avg())


@contextmanager
def no_room(*, bytes_: int) -> Iterator[None]:
    """A disk on which no file can grow beyond ``bytes_``: the process's own limit, which the kernel enforces."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
