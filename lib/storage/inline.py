"""Files inside a request: data URIs and plain base64, in either alphabet, decoded piece by piece."""

import base64
import binascii
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from lib.storage.media import HEAD_BYTES, NotMedia, sniff

SLICE_CHARS = 1 << 20
_STANDARD = {ord("-"): "+", ord("_"): "/"}


class NotInline(Exception):
    """The text can't be decoded; says why."""


def is_data_uri(value: str) -> bool:
    return value[:5].lower() == "data:"


def declared_type(value: str) -> str:
    """The MIME type that a data URI declares; empty for plain base64."""
    return value[5:300].partition(",")[0].partition(";")[0] if is_data_uri(value) else ""


def holds_media(value: str) -> bool:
    """Whether plain base64 begins like a kind of file that we know."""
    try:
        head = b"".join(_decoded(value[:HEAD_BYTES], 0))
        return not sniff(head).mime_type.startswith(("application/", "text/"))
    except (NotInline, NotMedia):
        return False


def blocks(value: str) -> Iterator[bytes]:
    """Decode, never more than a slice at a time in memory. Raises: NotInline."""
    if not is_data_uri(value):
        yield from _decoded(value, 0)
        return
    start = value.find(",")
    if start < 0:
        raise NotInline("a data URI without a comma")
    if value[:start].lower().endswith(";base64"):
        yield from _decoded(value, start + 1)
    else:
        yield unquote_to_bytes(value[start + 1 :])


def _decoded(text: str, start: int) -> Iterator[bytes]:
    rest = ""
    for at in range(start, len(text), SLICE_CHARS):
        piece = rest + "".join(text[at : at + SLICE_CHARS].split())
        padding = piece.find("=")
        if 0 <= padding < len(piece) - 3:
            raise NotInline("data after its end")
        cut = len(piece) // 4 * 4 if padding < 0 else padding // 4 * 4
        rest = piece[cut:]
        yield _strict(piece[:cut])
    letters = rest.rstrip("=")
    yield _strict(letters + "=" * (-len(letters) % 4))


def _strict(text: str) -> bytes:
    try:
        return base64.b64decode(text.translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotInline(str(error)) from error
