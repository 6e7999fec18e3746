"""Content decides what a file is."""

import pytest

from lib.storage.media import HEAD_BYTES, NotMedia, sniff
from tests.fakes.http_hosts import png

WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(300)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(300)


@pytest.mark.parametrize(
    ("head", "name", "mime_type", "extension"),
    [
        (png(), "x.jpg", "image/png", ".png"),
        (b"\xff\xd8\xff\xe0" + bytes(300), "photo.JPEG", "image/jpeg", ".jpg"),
        (WAV, "", "audio/x-wav", ".wav"),
        (MP4, "", "video/mp4", ".mp4"),
        (b"glTF\2\0\0\0" + bytes(300), "x", "model/gltf-binary", ".glb"),
        (b"# made by hand\nv 0 0 0\n", "cube.obj", "model/obj", ".obj"),
        (b'{"asset": {"version": "2.0"}}', "scene.gltf", "model/gltf+json", ".gltf"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "a", "image/svg+xml", ".svg"),
        (b"\x40\0\0\0\0\0\0\0{" + bytes(300), "noise.latent", "application/octet-stream", ".latent"),
        (b"\0\0\2\0" + bytes(300), "old.tga", "image/x-tga", ".tga"),
        (b"\x01\x02\x03" + bytes(300), "../../x.p/y", "application/octet-stream", ".bin"),
    ],
)
def test_media_is_recognised(head: bytes, name: str, mime_type: str, extension: str) -> None:
    """Signatures win over names; formats without one go by their name."""
    media = sniff(head, name=name)
    assert (media.mime_type, media.extension) == (mime_type, extension)


@pytest.mark.parametrize(
    ("head", "name", "what"),
    [
        (b"", "a.png", "an empty file"),
        (b"<!DOCTYPE html><title>Log in</title>", "a.png", "an HTML page"),
        (b"\xef\xbb\xbf\n <html><svg>", "a.obj", "an HTML page"),
        (b'{"error": "gone"}', "a.png", "JSON"),
        (b"<?xml version='1.0'?><Error/>", "a.png", "an XML document"),
        ("nicht gefunden: ä".encode(), "a.png", "plain text"),
        (b"%PDF-1.7" + bytes(300), "a.png", "a file of type application/pdf"),
        (b"PK\x03\x04" + bytes(300), "a.png", "a file of type application/zip"),
        (b"\x7fELF" + bytes(300), "a", "a file of type application/x-executable"),
    ],
)
def test_anything_else_is_named(head: bytes, name: str, what: str) -> None:
    """Pages, documents, archives and programs are refused, and said to be what they are."""
    with pytest.raises(NotMedia, match=what):
        sniff(head, name=name)


def test_text_cut_inside_a_character_is_still_text() -> None:
    """The head of a long text may end in half a character."""
    with pytest.raises(NotMedia, match="plain text"):
        sniff(("x" + "ä" * HEAD_BYTES).encode()[:HEAD_BYTES])
