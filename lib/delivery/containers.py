"""Where containers of video, audio, latents and 3D models keep what describes them, and how to do without it.

Streams are copied as they are, and what index tables point at stays where it is: boxes that go become padding of the
same size. Formats as their specifications say: ISO 14496-12, Matroska (RFC 9559), FLAC (RFC 9639), Ogg (RFC 3533) with
Opus (RFC 7845), ID3v2.4, safetensors, glTF 2.0.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import BinaryIO

import orjson

from lib.delivery.pieces import Malformed, Piece, read_exactly

_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MP4_FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_MATROSKA_METADATA = frozenset({0x1254C367, 0x1941A469})
"""Tags and attachments."""
_FLAC_METADATA = frozenset({2, 4, 6})
"""Application data, Vorbis comment, picture."""
_MOST_HEADER_BYTES = 64 << 20


def _mp4(file: BinaryIO, size: int) -> Iterator[Piece]:
    if read_exactly(file, 4, 4) not in _MP4_FIRST:
        raise Malformed("it is no MP4 file")
    yield from _boxes(file, 0, size, inside=b"")


def _boxes(file: BinaryIO, at: int, end: int, *, inside: bytes) -> Iterator[Piece]:
    """``moov`` and ``trak`` hold metadata beside what is needed; theirs becomes ``free``."""
    while at < end:
        length, kind = struct.unpack(">I4s", read_exactly(file, at, 8))
        head = 8
        if length == 1:
            (length,) = struct.unpack(">Q", read_exactly(file, at + 8, 8))
            head = 16
        behind = end if length == 0 else at + length
        if behind > end or behind < at + head:
            raise Malformed("a box is longer than the file")
        if kind == b"moov" or (inside == b"moov" and kind == b"trak"):
            yield (at, at + head)
            yield from _boxes(file, at + head, behind, inside=kind)
        elif _describes(file, kind, at + head, inside=inside):
            yield read_exactly(file, at, 4) + b"free" + read_exactly(file, at + 8, head - 8)
            yield behind - at - head
        else:
            yield (at, behind)
        at = behind


def _describes(file: BinaryIO, kind: bytes, start: int, *, inside: bytes) -> bool:
    if inside:
        return kind in (b"udta", b"meta")
    return kind == b"uuid" and read_exactly(file, start, 16) == _XMP_BOX


def _matroska(file: BinaryIO, size: int) -> Iterator[Piece]:
    at, element, end = 0, 0, 0
    while element != _SEGMENT:  # behind the header, whose element is EBML
        element, start, end = _element(file, at, size)
        if element not in (_EBML, _SEGMENT):
            raise Malformed("it is no Matroska file")
        yield (at, start if element == _SEGMENT else end)
        at = start if element == _SEGMENT else end
    segment_end = end
    while at < segment_end:
        element, _, end = _element(file, at, segment_end)
        if element in _MATROSKA_METADATA:
            yield b"\xec\x01" + (end - at - 9).to_bytes(7)  # Void, its size in eight bytes
            yield end - at - 9
        else:
            yield (at, end)
        at = end
    yield (at, size)


def _element(file: BinaryIO, at: int, limit: int) -> tuple[int, int, int]:
    """Return an EBML element's id, and its content's start and end; an unknown size reaches up to ``limit``."""
    head = read_exactly(file, at, min(12, limit - at))
    id_length = 9 - head[0].bit_length()
    length = 9 - head[id_length].bit_length()
    if id_length > 4 or length > 8 or id_length + length > len(head):
        raise Malformed("an EBML element is broken")
    mask = (1 << 7 * length) - 1
    size = int.from_bytes(head[id_length : id_length + length]) & mask
    start = at + id_length + length
    end = limit if size == mask else start + size
    if end > limit:
        raise Malformed("an EBML element is longer than the file")
    return int.from_bytes(head[:id_length]), start, end


def _flac(file: BinaryIO, size: int) -> Iterator[Piece]:
    if read_exactly(file, 0, 4) != b"fLaC":
        raise Malformed("it is no FLAC file")
    yield (0, 4)
    at, last = 4, 0
    while not last:
        (head,) = struct.unpack(">I", read_exactly(file, at, 4))
        last, kind, length = head >> 31, head >> 24 & 0x7F, head & 0xFFFFFF
        if kind in _FLAC_METADATA:
            yield struct.pack(">I", last << 31 | 1 << 24 | length)  # padding
            yield length
        else:
            yield (at, at + 4 + length)
        at += 4 + length
    yield (at, size)


def _mp3(file: BinaryIO, size: int) -> Iterator[Piece]:
    start, end = 0, size
    while (head := read_exactly(file, start, 10))[:3] == b"ID3":
        length = 0
        for byte in head[6:10]:
            length = length << 7 | byte & 0x7F
        start += 10 + length + (10 if head[5] & 0x10 else 0)
    if end - start > 128 and read_exactly(file, end - 128, 3) == b"TAG":
        end -= 128
    yield (start, end)


def _opus(file: BinaryIO, size: int) -> Iterator[Piece]:
    """The second packet holds the comments, on pages of its own; it becomes an empty list and padding."""
    at, number, comments = 0, 0, b""
    while not comments or comments[-1] == 0:
        head = read_exactly(file, at, 27)
        lacing = read_exactly(file, at + 27, head[26])
        body = read_exactly(file, at + 27 + len(lacing), sum(lacing))
        if head[:4] != b"OggS" or (number < 2 and not body.startswith((b"OpusHead", b"OpusTags")[number])):
            raise Malformed("only Opus is understood in Ogg")
        behind = at + 27 + len(lacing) + len(body)
        if number == 0:
            yield (at, behind)
        else:
            empty = b"OpusTags\x08\0\0\0pyworker\0\0\0\0" if number == 1 else b""
            if len(empty) > len(body):
                yield (at, size)
                return
            page = head[:22] + bytes(4) + head[26:] + lacing + empty + bytes(len(body) - len(empty))
            yield page[:22] + struct.pack("<I", _ogg_sum(page)) + page[26:]
            comments = b"\1" if lacing and lacing[-1] < 255 else b"\0"
        at, number = behind, number + 1
    yield (at, size)


def _ogg_sum(page: bytes) -> int:
    total = 0
    for byte in page:
        total = (total << 8 & 0xFFFFFFFF) ^ _ogg_entry(total >> 24 ^ byte)
    return total


@cache
def _ogg_entry(value: int) -> int:
    """One entry of the table of Ogg's CRC, which ``zlib.crc32`` is not."""
    value <<= 24
    for _ in range(8):
        value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def _safetensors(file: BinaryIO, size: int) -> Iterator[Piece]:
    (length,) = struct.unpack("<Q", read_exactly(file, 0, 8))
    header = _object(file, 8, length)
    if header.pop("__metadata__", None) is None:
        yield (0, size)
        return
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    yield (8 + length, size)


def _glb(file: BinaryIO, size: int) -> Iterator[Piece]:
    magic, version, _, length, kind = struct.unpack("<4sIII4s", read_exactly(file, 0, 20))
    if magic != b"glTF" or kind != b"JSON":
        raise Malformed("it is no binary glTF")
    scene = _object(file, 20, length)
    asset = scene.get("asset")
    found = [scene.pop("extras", None), asset.pop("extras", None) if isinstance(asset, dict) else None]
    if found == [None, None]:
        yield (0, size)
        return
    text = orjson.dumps(scene)
    text += b" " * (-len(text) % 4)
    yield struct.pack("<4sIII4s", magic, version, size - length + len(text), len(text), kind) + text
    yield (20 + length, size)


def _object(file: BinaryIO, start: int, length: int) -> dict[str, object]:
    if length > _MOST_HEADER_BYTES:
        raise Malformed("its header is too long")
    found = orjson.loads(read_exactly(file, start, length))
    if not isinstance(found, dict):
        raise Malformed("its header is no object")
    return found


PLANS: Mapping[str, Callable[[BinaryIO, int], Iterator[Piece]]] = {
    **dict.fromkeys(("video/mp4", "video/quicktime", "video/x-m4v", "audio/mp4", "audio/x-m4a"), _mp4),
    **dict.fromkeys(("video/webm", "audio/webm", "video/x-matroska", "audio/x-matroska"), _matroska),
    **dict.fromkeys(("application/x-latent", "application/x-safetensors"), _safetensors),
    "audio/flac": _flac,
    "audio/mpeg": _mp3,
    "audio/ogg": _opus,
    "model/gltf-binary": _glb,
}
"""What remains of a file, by its MIME type."""
