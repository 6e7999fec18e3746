"""Names and kinds of model files: what one is called, which name a caller may choose, what content tells; pure."""

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, unquote_plus, urlsplit

import orjson

from lib.errors import UnsafeInput

PICKLES = frozenset({".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"})
"""They may hold code, which ComfyUI itself does not run; a node pack may."""
TEXTS = frozenset({".yaml", ".yml"})
SAFE = frozenset({".safetensors", ".sft", ".gguf", ".onnx"}) | TEXTS
SUFFIXES = PICKLES | SAFE
HEAD_BYTES = 16 * 1024
MAX_NAME_CHARS = 200
DIGEST_CHARS = 12
MAX_HEADER_BYTES = 100 << 20
"""Safetensors' own limit."""

_STEM_CHARS = 80
_UNREADABLE = re.compile(r"[^A-Za-z0-9._+-]+")
_BY_TYPE = {"application/x-safetensors": ".safetensors", "application/yaml": ".yaml", "text/yaml": ".yaml"}
_SHA256 = re.compile(r"sha256[=:]([0-9a-fA-F]{64})")
_SIGNING = re.compile(
    r"X-(Amz|Goog)-.*|AWSAccessKeyId|GoogleAccessId|Signature|Expires|Policy|Key-Pair-Id"  # S3, GCS, CloudFront
    r"|sv|ss|srt|sp|se|st|spr|sr|sig|sip|si|sdd|ske|skoid|sks|skt|sktid|skv"  # Azure
    r"|token|access_token|api_key|apikey",
    re.IGNORECASE,
)
_KINDS = {".ckpt": "a pickle or zip archive", ".safetensors": "a safetensors file", ".gguf": "a GGUF file"}
_PARTS = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")


def split_digest(url: str) -> tuple[str, str]:
    """Part ``...#sha256=<hex>`` off a URL; the digest is lower case, "" where none is given."""
    bare, _, fragment = url.partition("#")
    found = _SHA256.fullmatch(fragment)
    return (bare, found[1].lower()) if found else (url, "")


def unsigned_url(url: str) -> str:
    """A URL without what only says that it may be read: two links to one file are alike then."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    kept = [one for one in parts.query.split("&") if not _SIGNING.fullmatch(unquote_plus(one.partition("=")[0]))]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(kept), fragment="").geturl()


def bare_url(url: str) -> str:
    """A URL as it may be written down: without user, query and fragment."""
    return unsigned_url(url).partition("?")[0]


def url_name(url: str) -> str:
    """The last part of a URL's path, decoded; "" where there is none."""
    try:
        return PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:
        return ""


def suffix_of(*names: str, mime_type: str = "") -> str:
    """The first extension among these names that models have, else that of the MIME type; "" = nobody says."""
    suffixes = (PurePosixPath(name).suffix.lower() for name in names)
    return next((suffix for suffix in suffixes if suffix in SUFFIXES), _BY_TYPE.get(mime_type, ""))


def content_name(name: str, *, sha256: str, suffix: str) -> str:
    """A readable name that is its content's alone: ``<stem>-<digest><suffix>``."""
    stem = PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in SUFFIXES else name
    stem = _UNREADABLE.sub("_", stem).strip("._")[:_STEM_CHARS] or "model"
    return f"{stem}-{sha256[:DIGEST_CHARS]}{suffix}"


def is_content_name(name: str, *, sha256: str) -> bool:
    """Whether nothing else can be called so."""
    return PurePosixPath(name).stem.endswith(f"-{sha256[:DIGEST_CHARS]}")


def chosen_name(name: str, *, field: str) -> str:
    """Check the name that a caller wants for a model: a name and no path, of a kind that models have.

    Raises: UnsafeInput."""
    suffix = PurePosixPath(name).suffix.lower()
    plain = 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_CHARS and name.isprintable()
    if not plain or name[0] in ". " or set('/\\:*?"<>|') & set(name) or suffix not in SUFFIXES:
        expected = f"a file's name without a path, ending in one of {', '.join(sorted(SUFFIXES))}"
        details = {"field": field, "reason": "unsafe_name", "expected": expected}
        raise UnsafeInput(f"{field}: {name[:80]!r} is not allowed; expected {expected}", details=details)
    return name


def sniffed(head: bytes) -> str:
    """The suffix that a file's beginning speaks for; "" = none."""
    if head.startswith(b"GGUF"):
        return ".gguf"
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1):
        return ".ckpt"
    return ".safetensors" if _header_bytes(head) else ""


def mistake(head: bytes, suffix: str, size_bytes: int | None) -> str | None:
    """Say what a file is instead of what its suffix promises; ``None`` where nothing speaks against it.

    ``size_bytes`` is the whole file's, where it is known."""
    if not head:
        return "an empty file"
    text = head[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if suffix in TEXTS:
        return "no text" if b"\0" in head else "an HTML page" if text.startswith(_PARTS) else None
    if text.startswith(_PARTS):
        return "an HTML or XML page"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file"
    if suffix in (".safetensors", ".sft"):
        length = _header_bytes(head)
        if not length:
            return _other(head) or "no safetensors file"
        return "a truncated safetensors file" if size_bytes is not None and size_bytes < 8 + length else None
    if suffix == ".gguf":
        return None if head.startswith(b"GGUF") else _other(head) or "no GGUF file"
    return _other(head) if suffix in PICKLES and text[:1] in (b"{", b"[") else None


def _header_bytes(head: bytes) -> int:
    """The length of a safetensors file's header; 0 where it has none."""
    length = int.from_bytes(head[:8], "little")
    return length if len(head) > 8 and 2 <= length <= MAX_HEADER_BYTES and head[8:9] == b"{" else 0


def _other(head: bytes) -> str | None:
    """What else it is, if that can be told."""
    if head.lstrip()[:1] in (b"{", b"[") and b"\0" not in head:
        try:
            orjson.loads(head)
        except orjson.JSONDecodeError:
            return "text"
        return "JSON"
    return _KINDS.get(sniffed(head))
