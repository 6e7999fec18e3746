"""What a file is, by its content: images, audio, video and 3D models pass, anything else is named and refused.

Names and declared types are believed only where content has no signature (text-based 3D formats, TGA, latents).
"""

import mimetypes
from dataclasses import dataclass
from pathlib import PurePosixPath

SVG = "image/svg+xml"
"""A picture to browsers, and to no loader node."""
UNKNOWN = "application/octet-stream"
HEAD_BYTES = 8192
"""How much of a file's beginning is enough to tell."""
_EXTENSIONS = {".jpeg": ".jpg", ".apng": ".png"}
_MODELS = {b"glTF": ("model/gltf-binary", ".glb"), b"Kaydara FBX Binary": ("model/fbx", ".fbx")}
_TEXT_MODELS = {
    ".gltf": "model/gltf+json",
    ".obj": "model/obj",
    ".stl": "model/stl",
    ".ply": "model/ply",
    ".usda": "model/vnd.usda",
}
_UNSIGNED = {
    ".tga": "image/x-tga",
    ".stl": "model/stl",
    ".ply": "model/ply",
    ".splat": "model/splat",
    ".ksplat": "model/ksplat",
    ".spz": "model/spz",
}
_BRANDS = {
    b"avif": ("image/avif", ".avif"),
    b"avis": ("image/avif", ".avif"),
    b"heic": ("image/heic", ".heic"),
    b"heix": ("image/heic", ".heic"),
    b"mif1": ("image/heic", ".heic"),
    b"msf1": ("image/heic", ".heic"),
    b"qt  ": ("video/quicktime", ".mov"),
    b"M4A ": ("audio/mp4", ".m4a"),
    b"M4B ": ("audio/mp4", ".m4a"),
    b"M4V ": ("video/x-m4v", ".m4v"),
    b"3gp": ("video/3gpp", ".3gp"),
    b"3g2": ("video/3gpp2", ".3g2"),
}
"""Of ISO media files, by what stands behind ``ftyp``; every other brand (``iso5``, ``avc1``, ``dash``) is MP4."""
_ZIPPED = {".usdz": "model/vnd.usdz+zip", ".3mf": "model/3mf"}


class NotMedia(Exception):
    """The bytes are something else; the text says what, as a noun (``an HTML page``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A recognised kind: MIME type and extension with its dot (``.png``)."""

    mime_type: str
    extension: str


def sniff(head: bytes, *, name: str = "", declared: str = "") -> Media:
    """Tell what a file is by its first ``HEAD_BYTES``; ``name`` (file name) and ``declared`` (MIME type) are hints.

    Binary data without a known signature passes as ``application/octet-stream`` with the name's own extension, since
    custom formats (latents) have none. Raises: NotMedia.
    """
    suffix = _suffix(name, declared)
    if not head:
        raise NotMedia("an empty file")
    return _signed(head, suffix) or _textual(head, suffix) or _unsigned(suffix)


def _suffix(name: str, declared: str) -> str:
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if not (1 < len(suffix) <= 12 and suffix[1:].isascii() and suffix[1:].isalnum()):
        suffix = mimetypes.guess_extension(declared.split(";")[0].strip().lower()) or ""
    return _EXTENSIONS.get(suffix, suffix)


def _signed(head: bytes, suffix: str) -> Media | None:
    for magic, (mime_type, extension) in _MODELS.items():
        if head.startswith(magic):
            return Media(mime_type=mime_type, extension=extension)
    import filetype  # heavy enough to wait for the first file

    kind = filetype.guess(head)
    if kind is None or kind.mime == UNKNOWN:
        return _branded(head)
    if kind.mime.partition("/")[0] in ("image", "audio", "video"):
        extension = f".{kind.extension}"
        return Media(mime_type=kind.mime, extension=_EXTENSIONS.get(extension, extension))
    if kind.mime == "application/zip" and suffix in _ZIPPED:
        return Media(mime_type=_ZIPPED[suffix], extension=suffix)
    raise NotMedia(f"a file of type {kind.mime}")


def _branded(head: bytes) -> Media | None:
    """An ISO media file of a brand that the library does not know."""
    if head[4:8] != b"ftyp" or int.from_bytes(head[:4], "big") < 8:
        return None
    mime_type, extension = _BRANDS.get(head[8:12]) or _BRANDS.get(head[8:11]) or ("video/mp4", ".mp4")
    return Media(mime_type=mime_type, extension=extension)


def _textual(head: bytes, suffix: str) -> Media | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<") and b"<svg" in text and b"<html" not in text:
        return Media(mime_type=SVG, extension=".svg")
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        raise NotMedia("an HTML page")
    if not _is_text(head):
        return None
    if suffix in _TEXT_MODELS:
        return Media(mime_type=_TEXT_MODELS[suffix], extension=suffix)
    if text.startswith(b"<"):
        raise NotMedia("an XML document")
    raise NotMedia("JSON" if text.startswith((b"{", b"[")) else "plain text")


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) >= HEAD_BYTES  # a character cut at the end of the head
    return True


def _unsigned(suffix: str) -> Media:
    return Media(mime_type=_UNSIGNED.get(suffix, UNKNOWN), extension=suffix or ".bin")
