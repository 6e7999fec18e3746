"""What a file is, from its first bytes and then its name; pure. No image library: a header tells enough."""

import mimetypes
import re
import struct
from pathlib import PurePosixPath

import filetype

from lib.jobs.model import OutputKind

HEADER_BYTES = 8192
"""Enough for every signature."""
JPEG_HEADER_BYTES = 1 << 20
"""A JPEG's size may come after its metadata."""

_PNG = b"\x89PNG\r\n\x1a\n"
_BY_SUFFIX = {
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".obj": "model/obj",
    ".stl": "model/stl",
    ".ply": "model/ply",
    ".fbx": "model/fbx",
    ".usdz": "model/vnd.usdz+zip",
    ".splat": "model/splat",
    ".ksplat": "model/ksplat",
    ".spz": "model/spz",
    ".latent": "application/x-latent",
    ".safetensors": "application/x-safetensors",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".opus": "audio/ogg",
    ".flac": "audio/flac",
    ".exr": "image/x-exr",
    ".md": "text/markdown",
    ".yaml": "text/yaml",
    ".srt": "text/plain",
}
_REGISTERED = {"audio/x-flac": "audio/flac", "audio/x-wav": "audio/wav"}
"""Names that players and browsers know for those that ``filetype`` still gives."""
_TEXTS = frozenset({"application/json", "application/xml", "application/yaml"})


def mime_of(name: str, header: bytes) -> str:
    """Return the MIME type by content, else by extension, else ``application/octet-stream``."""
    if header.startswith(_PNG):
        return "image/apng" if _is_animated(header) else "image/png"
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in (".usdz", ".latent", ".glb"):  # containers whose own signature says less than their name
        return _BY_SUFFIX[suffix]
    guessed = filetype.guess_mime(header) if header else None
    if guessed:
        return _REGISTERED.get(guessed, str(guessed))
    return _BY_SUFFIX.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _is_animated(png: bytes) -> bool:
    at = len(_PNG)
    while at + 8 <= len(png):
        kind = png[at + 4 : at + 8]
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return False


def kind_of(mime_type: str) -> OutputKind:
    """Return the kind that a MIME type stands for."""
    if mime_type == "application/x-latent":
        return OutputKind.LATENT
    if mime_type in _TEXTS:
        return OutputKind.TEXT
    family = mime_type.partition("/")[0]
    return {
        "image": OutputKind.IMAGE,
        "video": OutputKind.VIDEO,
        "audio": OutputKind.AUDIO,
        "model": OutputKind.MODEL_3D,
        "text": OutputKind.TEXT,
    }.get(family, OutputKind.FILE)


def dimensions(header: bytes) -> tuple[int, int] | None:
    """Return ``(width, height)`` of a PNG, JPEG, GIF, WebP, AVIF or BMP, if ``header`` reaches that far."""
    try:
        if header.startswith(_PNG):
            return _pair(header, ">II", 16)
        if header[:6] in (b"GIF87a", b"GIF89a"):
            return _pair(header, "<HH", 6)
        if header.startswith(b"\xff\xd8"):
            return _jpeg(header)
        if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
            return _webp(header)
        if header[4:12] in (b"ftypavif", b"ftypavis"):
            return _avif(header)
        if header.startswith(b"BM"):
            width, height = _pair(header, "<ii", 18)
            return width, abs(height)
    except struct.error:
        pass
    return None


def _pair(header: bytes, layout: str, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, header, offset)
    return first, second


def _webp(header: bytes) -> tuple[int, int] | None:
    chunk = header[12:16]
    if chunk == b"VP8X":
        width, height = int.from_bytes(header[24:27], "little"), int.from_bytes(header[27:30], "little")
        return width + 1, height + 1
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", header, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = _pair(header, "<HH", 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _avif(header: bytes) -> tuple[int, int] | None:
    """The largest of the ``ispe`` properties: smaller ones are those of a thumbnail or a tile."""
    sizes = [_pair(header, ">II", found.end() + 4) for found in re.finditer(b"ispe", header)]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _jpeg(header: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(header):
        if header[at] != 0xFF:
            return None
        marker = header[at + 1]
        if marker in (0xD8, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = _pair(header, ">HH", at + 5)
            return width, height
        else:
            at += 2 + int.from_bytes(header[at + 2 : at + 4], "big")
    return None
