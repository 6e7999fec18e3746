"""Metadata out of video, audio, latents and 3D models: streams stay byte for byte where they were.

The files are built here from their specifications. What ComfyUI's own encoders (PyAV) write was decoded before and
after by hand when this was written: mp4, webm, mkv, flac, mp3 and opus came out sample for sample the same.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.delivery.metadata import Stripped, strip
from lib.delivery.pieces import Malformed
from tests.lib.delivery.pictures import GRAPH, SECRET

STREAM = bytes(range(256)) * 20


def box(kind: bytes, content: bytes, *, wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, kind, len(content) + 16) + content
    return struct.pack(">I4s", len(content) + 8, kind) + content


def mp4(*, wide: bool = False, fast: bool = False) -> bytes:
    """Metadata in ``moov/udta``, ``moov/meta`` and ``trak/udta``, and XMP; ``meta`` elsewhere is something else."""
    tags = box(b"udta", box(b"meta", GRAPH.encode()), wide=wide)
    track = box(b"trak", box(b"mdia", b"media") + tags)
    movie = box(b"moov", box(b"mvhd", bytes(20)) + track + box(b"meta", GRAPH.encode()) + tags)
    xmp = box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + SECRET.encode())
    other = box(b"uuid", bytes(16) + b"kept")
    media = struct.pack(">I4s", 0, b"mdat") + STREAM if fast else box(b"mdat", STREAM)
    parts = (
        [box(b"ftyp", b"isom"), movie, xmp, other, media] if fast else [box(b"ftyp", b"isom"), media, movie, other, xmp]
    )
    return b"".join(parts)


def element(number: int, content: bytes, *, unknown: bool = False) -> bytes:
    head = number.to_bytes((number.bit_length() + 7) // 8)
    size = b"\x01\xff\xff\xff\xff\xff\xff\xff" if unknown else b"\x08" + len(content).to_bytes(4)
    return head + size + content


def webm(*, live: bool = False) -> bytes:
    tags = element(0x1254C367, GRAPH.encode())
    attached = element(0x1941A469, SECRET.encode() * 50)
    inside = element(0x1549A966, b"info") + tags + attached + element(0x1F43B675, STREAM, unknown=live)
    return element(0x1A45DFA3, b"webm") + element(0x18538067, inside, unknown=live)


def flac() -> bytes:
    blocks = [(0, b"i" * 34), (4, GRAPH.encode()), (2, SECRET.encode()), (6, SECRET.encode()), (3, b"seek")]
    packed = b"".join(
        struct.pack(">I", (index == len(blocks) - 1) << 31 | kind << 24 | len(data)) + data
        for index, (kind, data) in enumerate(blocks)
    )
    return b"fLaC" + packed + STREAM


def mp3() -> bytes:
    size = len(GRAPH)
    tag = b"ID3\x04\0\0" + bytes([0, 0, size >> 7, size & 127]) + GRAPH.encode()
    return tag + b"\xff\xfb" + STREAM + b"TAG" + SECRET.encode().ljust(125, b"\0")


def ogg_sum(page: bytes) -> int:
    """CRC-32 by 0x04c11db7 as RFC 3533 says, bit by bit."""
    total = 0
    for byte in page:
        total ^= byte << 24
        for _ in range(8):
            total = (total << 1 ^ (0x04C11DB7 if total & 0x80000000 else 0)) & 0xFFFFFFFF
    return total


def ogg_page(number: int, lacing: bytes, body: bytes) -> bytes:
    head = struct.pack("<4sBBQIII", b"OggS", 0, 0, 0, 7, number, 0) + bytes([len(lacing)]) + lacing
    page = head + body
    return page[:22] + struct.pack("<I", ogg_sum(page)) + page[26:]


def opus(*, copies: int = 1) -> bytes:
    comments = b"OpusTags\3\0\0\0abc\1\0\0\0" + GRAPH.encode() * copies
    pages, number = ogg_page(0, b"\x13", b"OpusHead" + bytes(11)), 1
    while True:
        part = comments[: 255 * 255]
        lacing = b"\xff" * (len(part) // 255) + (b"" if len(part) == 255 * 255 else bytes([len(part) % 255]))
        pages += ogg_page(number, lacing, part)
        comments, number = comments[255 * 255 :], number + 1
        if len(part) < 255 * 255:
            return pages + ogg_page(number, b"\x0a", b"audiodata.")


def latent() -> bytes:
    header = {"__metadata__": {"prompt": GRAPH}, "latent": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + STREAM[:8]


def glb() -> bytes:
    text = json.dumps({"asset": {"version": "2.0", "extras": {"prompt": GRAPH}}, "nodes": [{"mesh": 0}]}).encode()
    text += b" " * (-len(text) % 4)
    data = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + 8 + len(STREAM), len(text), b"JSON") + text
    return data + struct.pack("<I4s", len(STREAM), b"BIN\0") + STREAM


CASES: list[tuple[str, Callable[[], bytes]]] = [
    ("video/mp4", mp4),
    ("video/quicktime", lambda: mp4(wide=True)),
    ("audio/mp4", lambda: mp4(fast=True)),
    ("video/webm", webm),
    ("video/x-matroska", lambda: webm(live=True)),
    ("audio/flac", flac),
    ("audio/mpeg", mp3),
    ("audio/ogg", opus),
    ("audio/ogg", lambda: opus(copies=2000)),
    ("application/x-latent", latent),
    ("application/x-safetensors", latent),
    ("model/gltf-binary", glb),
]


def bare(tmp_path: Path, data: bytes, mime_type: str) -> bytes:
    path, target = tmp_path / "a", tmp_path / "bare"
    path.write_bytes(data)
    assert strip(path, target, mime_type=mime_type) is Stripped.WRITTEN
    assert path.read_bytes() == data
    return target.read_bytes()


@pytest.mark.parametrize(("mime_type", "make"), CASES)
def test_the_secret_goes_and_the_stream_stays(tmp_path: Path, mime_type: str, make: Callable[[], bytes]) -> None:
    """For every kind; and a second time there is nothing to do, or nothing changes."""
    data = make()
    done = bare(tmp_path, data, mime_type)
    assert SECRET.encode() in data
    assert SECRET.encode() not in done
    stream = next(part for part in (STREAM, STREAM[:8], b"audiodata.") if part in data)
    assert stream in done
    path = tmp_path / "bare"
    assert strip(path, tmp_path / "again", mime_type=mime_type) is Stripped.CLEAN or (
        (tmp_path / "again").read_bytes() == done
    )


@pytest.mark.parametrize(("mime_type", "make"), [case for case in CASES if case[0].startswith(("video", "audio/mp4"))])
def test_nothing_moves_that_tables_point_at(tmp_path: Path, mime_type: str, make: Callable[[], bytes]) -> None:
    """Video containers keep their length, and the stream its place."""
    data = make()
    done = bare(tmp_path, data, mime_type)
    assert len(done) == len(data)
    assert done.index(STREAM) == data.index(STREAM)


def test_mp4_boxes(tmp_path: Path) -> None:
    """Only descriptions become free space; what is needed, and what is called alike elsewhere, stays."""
    done = bare(tmp_path, mp4(), "video/mp4")
    assert [done.count(kind) for kind in (b"udta", b"meta", b"free", b"mvhd", b"mdia", b"kept")] == [0, 0, 4, 1, 1, 1]


def test_flac_blocks(tmp_path: Path) -> None:
    """Comments become padding; stream info and seek table stay."""
    done = bare(tmp_path, flac(), "audio/flac")
    assert len(done) == len(flac())
    assert done[4:42] == flac()[4:42]
    assert done[42] == 1
    assert done.endswith(b"seek" + STREAM)


def test_mp3_tags(tmp_path: Path) -> None:
    """Both kinds are cut off."""
    assert bare(tmp_path, mp3(), "audio/mpeg") == b"\xff\xfb" + STREAM


@pytest.mark.parametrize("copies", [1, 2000])
def test_opus_pages(tmp_path: Path, copies: int) -> None:
    """The comment packet is empty, as long as before, over as many pages; every checksum is right."""
    data = opus(copies=copies)
    done = bare(tmp_path, data, "audio/ogg")
    assert len(done) == len(data)
    at = done.index(b"OpusTags")
    (vendor,) = struct.unpack_from("<I", done, at + 8)
    assert struct.unpack_from("<I", done, at + 12 + vendor)[0] == 0
    starts = [at for at in range(len(done)) if done.startswith(b"OggS", at)]
    assert len(starts) == data.count(b"OggS")
    for start, end in zip(starts, [*starts[1:], len(done)], strict=True):
        page = done[start:end]
        assert struct.unpack_from("<I", page, 22)[0] == ogg_sum(page[:22] + bytes(4) + page[26:])


def test_headers_in_json(tmp_path: Path) -> None:
    """The rest of the header stays, lengths are right, and data follows it."""
    done = bare(tmp_path, latent(), "application/x-latent")
    (length,) = struct.unpack_from("<Q", done)
    assert json.loads(done[8 : 8 + length]) == {"latent": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert done[8 + length :] == STREAM[:8]
    done = bare(tmp_path, glb(), "model/gltf-binary")
    magic, _, total, length, _ = struct.unpack_from("<4sIII4s", done)
    assert (magic, total) == (b"glTF", len(done))
    assert json.loads(done[20 : 20 + length]) == {"asset": {"version": "2.0"}, "nodes": [{"mesh": 0}]}
    assert length % 4 == 0


def test_files_without_metadata_are_clean(tmp_path: Path) -> None:
    """Nothing is written for them."""
    path = tmp_path / "a"
    for mime_type, data in (
        ("video/mp4", box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", b"")) + box(b"mdat", STREAM)),
        ("audio/mpeg", b"\xff\xfb" + STREAM),
        ("application/x-latent", struct.pack("<Q", 2) + b"{}"),
    ):
        path.write_bytes(data)
        assert strip(path, tmp_path / "out", mime_type=mime_type) is Stripped.CLEAN


@pytest.mark.parametrize("mime_type", sorted({case[0] for case in CASES}))
@pytest.mark.parametrize("data", [b"", b"x" * 7, b"\0" * 100, b"\xff" * 100, b"ID3\x04\0\0\x7f\x7f\x7f\x7f"])
def test_damage_is_said(tmp_path: Path, mime_type: str, data: bytes) -> None:
    """Nothing is written and nothing else is raised; a stream that may be anything is at most clean."""
    path = tmp_path / "a"
    path.write_bytes(data)
    try:
        assert strip(path, tmp_path / "out", mime_type=mime_type) is Stripped.CLEAN
        assert mime_type == "audio/mpeg"
    except Malformed as error:
        assert str(error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(("mime_type", "make"), CASES)
def test_cut_files_never_hang_or_leak(tmp_path: Path, mime_type: str, make: Callable[[], bytes]) -> None:
    """Wherever a file breaks off: it is said, or what remains has no secret."""
    data, path, target = make(), tmp_path / "a", tmp_path / "out"
    for length in range(1, min(len(data), 2000), 37):
        path.write_bytes(data[:length])
        try:
            outcome = strip(path, target, mime_type=mime_type)
        except Malformed:
            continue
        shown = target.read_bytes() if outcome is Stripped.WRITTEN else data[:length]
        assert SECRET.encode() not in shown
