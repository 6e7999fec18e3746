"""lib.comfy.inputs: media inputs as comfyui-api takes them, row by row of its reference (2.1, 2.2), put right."""

import base64
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from lib.errors import InputFetchFailed, ServiceError, UnsafeInput
from tests.fakes.http_hosts import WebHost, png
from tests.fakes.input_bench import Bench, node

PNG = png(shade=7)
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000") + bytes(40) + b"\xff\xd9"
WAV = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(60)
MP4 = struct.pack(">I", 24) + b"ftypisom" + bytes(12) + b"isom" + bytes(40)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    files = {
        "/a.png": (PNG, "image/png"),
        "/a.mp4": (MP4, "video/mp4"),
        "/a.wav": (WAV, "audio/wav"),
        "/b.png": (png(shade=9), "image/png"),
    }
    async with WebHost(files=files) as host, AsyncExitStack() as stack:
        yield Bench(tmp_path, host, stack)


async def placed(bench: Bench, class_type: str, **inputs: Any) -> Any:
    """What the one input is afterwards."""
    prepared = await bench.prepare({"10": node(class_type, **inputs)})
    return prepared.graph["10"]["inputs"][next(iter(inputs))]


@pytest.mark.parametrize(
    "class_type", ["LoadImage", "LoadImageMask", "LoadImageOutput", "SomebodysLoader", "ImageResize+"]
)
@pytest.mark.parametrize("form", ["url", "data", "base64", "urlsafe", "lines"])
async def test_an_image_of_any_class(bench: Bench, class_type: str, form: str) -> None:
    """Row 2: a URL, a data URI, base64 in either alphabet and broken into lines."""
    folder = bench.engine()
    given = {
        "url": bench.url("/a.png"),
        "data": f"data:image/png;base64,{text_of(PNG)}",
        "base64": text_of(PNG),
        "urlsafe": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
        "lines": base64.encodebytes(PNG).decode(),
    }[form]
    name = await placed(bench, class_type, image=given)
    assert (folder / name).read_bytes() == PNG and name.endswith(".png")


@pytest.mark.parametrize(
    "name", ["example.png", "sub/example.png", "example.png [input]", "example.png [output]", "sub/example.png [temp]"]
)
async def test_a_name_stays_a_name(bench: Bench, name: str) -> None:
    """What every exported graph has; upstream takes it for base64."""
    bench.engine()
    assert await placed(bench, "LoadImage", image=name) == name


@pytest.mark.parametrize(
    "value", ["a_text_that_is_long_enough_to_be_base64", "/workspace/somewhere/in/a/folder", "nearest-exact", ""]
)
async def test_other_classes_may_mean_something_else_by_image(bench: Bench, value: str) -> None:
    """What is no file is nobody's business there."""
    bench.engine()
    assert await placed(bench, "SomebodysLoader", image=value) == value


async def test_a_node_that_wants_base64_gets_it(bench: Bench) -> None:
    """It says so in its name."""
    bench.engine()
    assert await placed(bench, "ETN_LoadImageBase64", image=text_of(PNG)) == text_of(PNG)


@pytest.mark.parametrize("length", [60, 3000])
async def test_a_small_jpeg_is_no_path(bench: Bench, length: int) -> None:
    """Its base64 starts with /9j/ (PR #35)."""
    folder = bench.engine()
    data = JPEG + bytes(length)
    assert text_of(data).startswith("/9j/")
    name = await placed(bench, "LoadImage", image=text_of(data))
    assert (folder / name).read_bytes() == data and name.endswith(".jpg")


@pytest.mark.parametrize("class_type", ["VHS_LoadImages", "VHS_LoadImagesPath"])
async def test_a_directory_of_images_keeps_its_order(bench: Bench, class_type: str) -> None:
    """Row 3, W17: the files' names sort as they were given, a repeated one comes twice."""
    folder = bench.engine()
    given = [bench.url("/b.png"), text_of(PNG), bench.url("/b.png"), f"data:image/png;base64,{text_of(PNG)}"]
    directory = Path(await placed(bench, class_type, directory=given))
    files = sorted((folder / directory).iterdir())
    assert [file.read_bytes() for file in files] == [png(shade=9), PNG, png(shade=9), PNG]
    assert directory.is_absolute() == (class_type == "VHS_LoadImagesPath")


@pytest.mark.parametrize(
    "class_type",
    ["LoadVideo", "VHS_LoadVideo", "VHS_LoadVideoPath", "VHS_LoadVideoFFmpegPath", "VHS_LoadVideoFFmpeg"],
)
@pytest.mark.parametrize("field", ["video", "file"])
async def test_videos(bench: Bench, class_type: str, field: str) -> None:
    """Row 4: both names, each kind of loader; those that read paths get one."""
    folder = bench.engine()
    for given in (bench.url("/a.mp4"), text_of(MP4)):
        name = await placed(bench, class_type, **{field: given})
        assert (folder / name).read_bytes() == MP4 and name.endswith(".mp4")


@pytest.mark.parametrize(("class_type", "field"), [("LoadAudio", "audio"), ("VHS_LoadAudio", "audio_file")])
async def test_audio(bench: Bench, class_type: str, field: str) -> None:
    """Row 5, and the one beside it."""
    folder = bench.engine()
    for given in (bench.url("/a.wav"), text_of(WAV)):
        name = await placed(bench, class_type, **{field: given})
        assert (folder / name).read_bytes() == WAV and name.endswith(".wav")


def ftyp(brand: bytes, alike: bytes = b"") -> bytes:
    """The beginning of a file of this brand, which may be read as another one, too."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + (alike or brand) + bytes(40)


MAGIC = [
    (JPEG, "LoadImage", ".jpg"),
    (PNG, "LoadImage", ".png"),
    (b"GIF87a" + bytes(40), "LoadImage", ".gif"),
    (b"GIF89a" + bytes(40), "LoadImage", ".gif"),
    (b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(40), "LoadImage", ".webp"),
    (b"BM" + struct.pack("<IHHI", 66, 0, 0, 54) + struct.pack("<I", 40) + bytes(40), "LoadImage", ".bmp"),
    (b"II*\0" + bytes(40), "LoadImage", ".tif"),
    (b"MM\0*" + bytes(40), "LoadImage", ".tif"),
    (b"\0\0\1\0\1\0" + bytes(40), "LoadImage", ".ico"),
    (ftyp(b"avif", b"mif1"), "LoadImage", ".avif"),
    (ftyp(b"heic"), "LoadImage", ".heic"),
    (ftyp(b"mif1", b"heic"), "LoadImage", ".heic"),
    (ftyp(b"msf1"), "LoadImage", ".heic"),
    (ftyp(b"isom"), "LoadVideo", ".mp4"),
    (ftyp(b"mp42"), "LoadVideo", ".mp4"),
    (ftyp(b"avc1"), "LoadVideo", ".mp4"),
    (ftyp(b"iso5"), "LoadVideo", ".mp4"),
    (ftyp(b"iso6"), "LoadVideo", ".mp4"),
    (ftyp(b"dash"), "LoadVideo", ".mp4"),
    (ftyp(b"M4V "), "LoadVideo", ".m4v"),
    (ftyp(b"3gp4"), "LoadVideo", ".3gp"),
    (ftyp(b"qt  "), "LoadVideo", ".mov"),
    (b"RIFF" + bytes(4) + b"AVI LIST" + bytes(40), "LoadVideo", ".avi"),
    (b"\x1a\x45\xdf\xa3\x01" + bytes(7) + b"\x42\x82\x84webm" + bytes(40), "LoadVideo", ".webm"),
    (b"\x1a\x45\xdf\xa3\x01" + bytes(7) + b"\x42\x82\x88matroska" + bytes(40), "LoadVideo", ".mkv"),
    (b"FLV\x01\x05" + bytes(40), "LoadVideo", ".flv"),
    (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(40), "LoadVideo", ".wmv"),
    (b"\xff\xfb\x90\x00" + bytes(40), "LoadAudio", ".mp3"),
    (b"\xff\xf3\x90\x00" + bytes(40), "LoadAudio", ".mp3"),
    (b"\xff\xf2\x90\x00" + bytes(40), "LoadAudio", ".mp3"),
    (b"ID3\x03" + bytes(40), "LoadAudio", ".mp3"),
    (WAV, "LoadAudio", ".wav"),
    (b"OggS\0\2" + bytes(40), "LoadAudio", ".ogg"),
    (b"fLaC\0\0\0\x22" + bytes(40), "LoadAudio", ".flac"),
    (ftyp(b"M4A "), "LoadAudio", ".m4a"),
    (b"glTF\2\0\0\0" + bytes(40), "Load3D", ".glb"),
]
FIELDS = {"LoadImage": "image", "LoadVideo": "file", "LoadAudio": "audio", "Load3D": "model_file"}


@pytest.mark.parametrize(
    ("data", "class_type", "extension"), MAGIC, ids=[f"{at:02}{row[2]}" for at, row in enumerate(MAGIC)]
)
async def test_base64_is_recognised_by_its_first_bytes(
    bench: Bench, data: bytes, class_type: str, extension: str
) -> None:
    """2.2: the table of signatures, with those that upstream lacks; the file gets its extension."""
    folder = bench.engine()
    name = await placed(bench, class_type, **{FIELDS[class_type]: text_of(data)})
    assert (folder / name).read_bytes() == data
    assert Path(name).suffix == extension


@pytest.mark.parametrize("class_type", ["LoadImage", "VHS_LoadImagePath", "VHS_LoadVideoPath", "LoadAudio"])
@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.png", "./../../x.png", "C:\\x.png", "sub/../../x.png"])
async def test_files_of_the_host_are_not_read(bench: Bench, class_type: str, path: str) -> None:
    """Upstream reads any of them; the error names node and field."""
    bench.engine()
    field = {"LoadAudio": "audio", "VHS_LoadVideoPath": "video"}.get(class_type, "image")
    with pytest.raises(UnsafeInput) as refused:
        await placed(bench, class_type, **{field: path})
    assert refused.value.details["field"] == f"workflow.10.inputs.{field}"
    assert refused.value.details["node_id"] == "10"


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("LoadImage", {"image": "{url}/gone.png"}),
        ("SomebodysLoader", {"image": "{url}/gone.png"}),
        ("VHS_LoadImages", {"directory": ["{url}/a.png", "{url}/gone.png"]}),
        ("LoadVideo", {"file": "{url}/a.wav"}),
        ("LoadAudio", {"audio": "{url}/status/403"}),
        ("LoadImage", {"image": "data:image/png;base64,@@@@"}),
        ("LoadImage", {"image": "http://127.0.0.1:1/x.png"}),
    ],
)
async def test_what_can_not_be_had_says_where(bench: Bench, class_type: str, inputs: dict[str, Any]) -> None:
    """Of a node with an id of its own making too: the request's place is in the error's details."""
    bench.engine()
    filled = orjson.loads(orjson.dumps(inputs).decode().replace("{url}", bench.url("")))
    with pytest.raises(ServiceError) as failed:
        await bench.prepare({"1.x": node(class_type, **filled)})
    field = next(iter(inputs))
    details = failed.value.details
    assert isinstance(failed.value, InputFetchFailed | UnsafeInput)
    assert details["node_id"] == "1.x" and details["class_type"] == class_type
    assert str(details["field"]).startswith(f"workflow.1.x.inputs.{field}")
