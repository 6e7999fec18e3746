"""What a file is, by its first bytes and its name."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.comfy.media import dimensions, kind_of, mime_of
from lib.jobs.model import OutputKind
from tests.fakes.comfyui_nodes import image_png

VP8 = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 30, 20 | 0x4000)
VP8L = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 29 | 19 << 14)
VP8X = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0" + (29).to_bytes(3, "little") + (19).to_bytes(3, "little")
SOF = b"\xff\xc2\0\x11\x08" + struct.pack(">HH", 20, 30)
JPEG = b"\xff\xd8\xff\xe1" + struct.pack(">H", 300) + b"\0" * 298 + b"\xff\xdb\0\x04ab\xff" + SOF
APNG = image_png(30, 20, frames=2)
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0mif1miafmeta" + b"".join(
    b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", *size) for size in ((8, 8), (30, 20))
)
BMP = b"BM" + b"\0" * 16 + struct.pack("<ii", 30, -20)


@pytest.mark.parametrize(
    "header",
    [image_png(30, 20), APNG, VP8, VP8L, VP8X, JPEG, AVIF, BMP, b"GIF89a" + struct.pack("<HH", 30, 20)],
    ids=["png", "apng", "vp8", "vp8l", "vp8x", "jpeg", "avif", "bmp", "gif"],
)
def test_dimensions_come_from_the_header(header: bytes) -> None:
    """Width first."""
    assert dimensions(header) == (30, 20)


@given(
    st.sampled_from([image_png(30, 20), APNG, AVIF, VP8, VP8L, VP8X, JPEG, BMP, b"GIF89a12345", b"\xff\xd8"]), st.data()
)
def test_cut_or_broken_headers_are_no_error(header: bytes, data: st.DataObject) -> None:
    """Property: a size or none, never an exception."""
    end = data.draw(st.integers(0, len(header)))
    tail = data.draw(st.binary(max_size=20))
    size = dimensions(header[:end] + tail)
    mime_of("x.png", header[:end] + tail)
    assert size is None or len(size) == 2


@pytest.mark.parametrize(
    ("name", "header", "mime_type", "kind"),
    [
        ("x.bin", image_png(1, 1), "image/png", OutputKind.IMAGE),
        ("x.png", b"\xff\xd8\xff\xe0" + b"\0" * 20, "image/jpeg", OutputKind.IMAGE),
        ("x.png", APNG, "image/apng", OutputKind.IMAGE),
        ("x.avif", AVIF, "image/avif", OutputKind.IMAGE),
        ("x.glb", b"glTF", "model/gltf-binary", OutputKind.MODEL_3D),
        ("x.latent", b"\x10\0\0\0\0\0\0\0{}", "application/x-latent", OutputKind.LATENT),
        ("x.txt", b"hello", "text/plain", OutputKind.TEXT),
        ("x.json", b"{}", "application/json", OutputKind.TEXT),
        ("x.obj", b"v 1 2 3", "model/obj", OutputKind.MODEL_3D),
        ("x.mp4", b"", "video/mp4", OutputKind.VIDEO),
        ("x.flac", b"", "audio/flac", OutputKind.AUDIO),
        ("x.flac", b"fLaC" + bytes(60), "audio/flac", OutputKind.AUDIO),
        ("x.wav", b"RIFF\x24\0\0\0WAVEfmt " + bytes(48), "audio/wav", OutputKind.AUDIO),
        ("x.unknown", b"???", "application/octet-stream", OutputKind.FILE),
        ("noname", b"", "application/octet-stream", OutputKind.FILE),
    ],
)
def test_content_comes_before_the_name(name: str, header: bytes, mime_type: str, kind: OutputKind) -> None:
    """And the name helps where content has no signature."""
    assert (mime_of(name, header), kind_of(mime_type)) == (mime_type, kind)
