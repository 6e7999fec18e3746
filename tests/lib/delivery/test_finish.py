"""What becomes of a job's files before they are delivered."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pyvips

from lib.delivery.finish import Finisher
from lib.jobs.model import ConvertSpec, DeliverySpec, Output, OutputKind, ThumbnailSpec
from lib.settings import DeliverySettings
from tests.lib.delivery.pictures import GRAPH, SECRET, comfy_png, gradient, no_room

WEBP = ConvertSpec(format="webp", options={"Q": 80}, warnings=("force has no effect",))


@pytest.fixture
async def finisher(tmp_path: Path) -> AsyncIterator[Finisher]:
    async with Finisher(settings=DeliverySettings.model_validate({}), folder=tmp_path / "own") as finisher:
        yield finisher


@pytest.fixture
def picture(tmp_path: Path, output: Callable[..., Output]) -> Output:
    made = output("pic.png", data=comfy_png(tmp_path / "x.png", {"prompt": GRAPH}).read_bytes())
    return replace(made, width=64, height=48, data_base64="AAAA")


async def finish(finisher: Finisher, *outputs: Output, **asked: Any) -> tuple[Output, ...]:
    return await finisher.finish("job-1", DeliverySpec(**asked), outputs)


async def test_nothing_asked_nothing_touched(finisher: Finisher, picture: Output) -> None:
    """No thread, no library: the very same outputs."""
    outputs = (picture,)
    assert await finisher.finish("job-1", DeliverySpec(keep_metadata=True), outputs) is outputs


async def test_a_converted_file_takes_the_outputs_place(finisher: Finisher, picture: Output) -> None:
    """Name, type, size, dimensions and path are the new file's; the old one stays as it was, beside it."""
    before = Path(picture.local_path).read_bytes()
    (done,) = await finish(finisher, picture, convert=WEBP)
    path = Path(done.local_path)
    assert (done.filename, done.mime_type, done.width, done.height) == ("pic.webp", "image/webp", 64, 48)
    assert done.size_bytes == path.stat().st_size
    assert path.parent == Path(picture.local_path).parent
    assert pyvips.Image.new_from_file(str(path)).get("vips-loader") == "webpload"
    assert done.data_base64 is None
    assert done.warnings == ("force has no effect",)
    assert Path(picture.local_path).read_bytes() == before


@pytest.mark.parametrize(("keep", "found"), [(None, False), (False, False), (True, True)])
async def test_conversion_drops_metadata_unless_asked(
    finisher: Finisher, picture: Output, keep: bool | None, found: bool
) -> None:
    """The graph goes along only where the caller wants it to."""
    (done,) = await finish(finisher, picture, convert=WEBP, keep_metadata=keep)
    assert (SECRET.encode() in Path(done.local_path).read_bytes()) == found


async def test_metadata_alone(finisher: Finisher, picture: Output, output: Callable[..., Output]) -> None:
    """A stripped copy takes the file's place under the same name; what has none stays; what can't be is told."""
    clean = output("clean.png", data=gradient().pngsave_buffer(keep="none"))
    video = replace(output("v.avi", data=b"RIFF"), kind=OutputKind.VIDEO, mime_type="video/x-msvideo")
    note = replace(output("n.txt", data=b"note"), kind=OutputKind.TEXT, mime_type="text/plain")
    broken = output("broken.png", data=b"this is no png")
    done = await finish(finisher, picture, clean, video, note, broken, keep_metadata=False)
    bare = Path(done[0].local_path)
    assert (done[0].filename, bare.name, done[0].data_base64) == ("pic.png", "pic.png.bare.png", None)
    assert done[0].size_bytes == bare.stat().st_size
    assert SECRET.encode() not in bare.read_bytes()
    assert done[1] is clean
    assert done[2].warnings == ("v.avi: metadata not removed: not known how for video/x-msvideo",)
    assert done[3] is note
    assert done[4].warnings == ("broken.png: metadata not removed: it is not what it is called",)
    assert all(item.error is None for item in done)


async def test_a_file_that_can_not_be_converted_is_delivered_as_it_is(
    finisher: Finisher, picture: Output, output: Callable[..., Output]
) -> None:
    """Its entry says so; the others are converted; what is no picture is left alone; and no metadata slips out."""
    broken = output("broken.png", data=b"no png")
    video = replace(output("v.mp4", data=b"v"), kind=OutputKind.VIDEO, mime_type="video/mp4")
    text = Output(node_id="3", kind=OutputKind.TEXT, source_key="text", text="hello")
    done = await finish(finisher, broken, picture, video, text, convert=WEBP)
    assert (done[0].local_path, done[0].filename) == (broken.local_path, "broken.png")
    assert (done[0].error or "").startswith("not converted to webp: ")
    assert done[1].filename == "pic.webp"
    assert done[2:] == (video, text)
    large = ConvertSpec(format="webp", options={"Q": 80, "unknown": 1})
    (bare,) = await finish(finisher, picture, convert=large, keep_metadata=False)
    assert bare.error
    assert SECRET.encode() not in Path(bare.local_path).read_bytes()


async def test_thumbnails(finisher: Finisher, picture: Output, output: Callable[..., Output]) -> None:
    """Of each picture, also a converted one; none of anything else; one that fails is a warning, not an error."""
    broken = output("broken.png", data=b"no png")
    sound = replace(output("a.flac", data=b"a"), kind=OutputKind.AUDIO, mime_type="audio/flac")
    small = ThumbnailSpec(width=16, height=16, format="jpeg")
    done = await finish(finisher, picture, broken, sound, thumbnail=small, convert=WEBP)
    path = Path(done[0].thumbnail_path)
    image = pyvips.Image.new_from_file(str(path))
    assert (path.suffix, image.width, image.height) == (".jpg", 16, 12)
    assert (done[0].filename, done[1].thumbnail_path) == ("pic.webp", "")
    assert "no thumbnail" in done[1].warnings[0]
    assert done[2] is sound


async def test_a_file_reported_twice(finisher: Finisher, picture: Output) -> None:
    """Two nodes may name one file; both entries are complete."""
    many = tuple(replace(picture, node_id=str(number)) for number in range(8))
    done = await finish(finisher, *many, convert=WEBP, thumbnail=ThumbnailSpec(width=8, height=8))
    assert [item.error for item in done] == [None] * 8
    assert len({item.local_path for item in done}) == 1


async def test_a_folder_that_is_only_readable(picture: Output, tmp_path: Path) -> None:
    """What can't be written beside a file goes to our own folder, by job; where that can't be made, it is said."""
    settings = DeliverySettings.model_validate({})
    folder, blocked = tmp_path / "own", tmp_path / "blocked"
    blocked.write_text("")
    async with Finisher(settings=settings, folder=folder, writable=lambda path: False) as finisher:
        (done,) = await finish(finisher, picture, convert=WEBP)
    assert done.local_path == str(folder / "job-1" / "pic.png.webp")
    async with Finisher(settings=settings, folder=blocked, writable=lambda path: False) as finisher:
        (failed,) = await finish(finisher, picture, convert=WEBP)
    assert failed.error == "not finished: Not a directory"
    assert failed.local_path == picture.local_path


async def test_a_full_disk(finisher: Finisher, picture: Output) -> None:
    """The original is delivered, and each entry says what is missing: a conversion, a clean copy, a thumbnail."""
    small = ThumbnailSpec(width=48, height=48)
    with no_room(bytes_=20):
        (done,) = await finish(finisher, picture, convert=WEBP, keep_metadata=False, thumbnail=small)
    assert (done.local_path, done.thumbnail_path) == (picture.local_path, "")
    assert (done.error or "").startswith("not converted to webp: ")
    assert [text.split(": ")[1] for text in done.warnings] == ["metadata not removed", "no thumbnail"]
    assert [entry.name for entry in Path(picture.local_path).parent.iterdir()] == ["pic.png"]


async def test_the_event_loop_goes_on(finisher: Finisher, output: Callable[..., Output]) -> None:
    """Pictures are worked on in threads of their own, as many as the setting says."""
    noise = pyvips.Image.perlin(512, 512, seed=1, uchar=True).pngsave_buffer()
    files = [output(f"{number}.png", data=noise) for number in range(6)]
    task = asyncio.ensure_future(finish(finisher, *files, convert=ConvertSpec(format="avif", options={"effort": 2})))
    turns, most = 0, 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
        most = max(most, sum(thread.name.startswith("convert") for thread in threading.enumerate()))
    assert all(done.filename.endswith(".avif") for done in await task)
    assert turns > 10, "held up, it has one or two"
    assert most == DeliverySettings.model_validate({}).convert_workers
