"""Files that callers send beforehand: whole or not at all, a tenant's own, gone with a message that helps."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lib.comfy.uploads import UploadStore, is_upload
from lib.errors import BodyTooLarge, InputFetchFailed, StorageFailed
from lib.settings import StorageSettings
from tests.fakes.http_hosts import png


def store(tmp_path: Path, **settings: object) -> UploadStore:
    return UploadStore(tmp_path, settings=StorageSettings.model_validate({"input_max_bytes": 1 << 20} | settings))


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_what_was_saved_is_found(tmp_path: Path) -> None:
    """By its owner, also after a restart; the same content has the same reference."""
    uploads, data = store(tmp_path), png(shade=4)
    reference = await uploads.save(chunks(data[:10], data[10:]), "any/name.bin", "ann")
    assert is_upload(reference) and reference.endswith(".png")
    assert await uploads.save(chunks(data), "other.png", "ann") == reference
    found = await store(tmp_path).find(f" {reference}\n", owner="ann", field="f", accept=("image/",))
    assert found.path.read_bytes() == data and found.mime_type == "image/png"


@pytest.mark.parametrize("owner", ["bob", "", "ann/", "../ann"])
async def test_nobody_else_can_name_it(tmp_path: Path, owner: str) -> None:
    """The reference alone opens nothing."""
    uploads = store(tmp_path)
    reference = await uploads.save(chunks(png()), "a.png", "ann")
    with pytest.raises(InputFetchFailed, match=r"^f: .*upload it again") as caught:
        await uploads.find(reference, owner=owner, field="f")
    assert caught.value.details == {"field": "f", "reason": "no_upload"}


@pytest.mark.parametrize(
    "reference", ["upload://", "upload://../../x.png", "upload://" + "0" * 64 + ".png", "upload://.known"]
)
async def test_what_is_not_there_says_what_to_do(tmp_path: Path, reference: str) -> None:
    """Whatever the reference looks like."""
    (tmp_path / "x.png").write_bytes(png())
    with pytest.raises(InputFetchFailed, match="upload it again"):
        await store(tmp_path).find(reference, owner="", field="f")


async def test_a_cleaned_up_file_is_gone(tmp_path: Path) -> None:
    """Clean-up takes it behind our back."""
    uploads = store(tmp_path)
    reference = await uploads.save(chunks(png()), "a.png", "ann")
    (await uploads.find(reference, owner="ann", field="f")).path.unlink()
    with pytest.raises(InputFetchFailed, match="upload it again"):
        await uploads.find(reference, owner="ann", field="f")


async def test_what_can_not_be_used_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Too large, no media, broken off half-way."""
    uploads = store(tmp_path)
    with pytest.raises(BodyTooLarge, match="INPUT_MAX_BYTES"):
        await uploads.save(chunks(png(), bytes(1 << 20)), "a.png", "")
    with pytest.raises(InputFetchFailed, match="HTML"):
        await uploads.save(chunks(b"<html>"), "a.png", "")

    async def broken() -> AsyncIterator[bytes]:
        yield png()
        raise ConnectionResetError

    with pytest.raises(StorageFailed):
        await uploads.save(broken(), "a.png", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".part"]


async def test_the_wanted_kind_is_checked(tmp_path: Path) -> None:
    """As for every other input."""
    uploads = store(tmp_path)
    reference = await uploads.save(chunks(png()), "a.png", "")
    with pytest.raises(InputFetchFailed, match="expected audio"):
        await uploads.find(reference, owner="", field="f", accept=("audio/",))


async def test_a_disk_that_fails_is_ours(tmp_path: Path) -> None:
    """Neither the caller's file nor the caller is at fault."""
    (tmp_path / "uploads").write_text("in the way")
    with pytest.raises(StorageFailed):
        await store(tmp_path).save(chunks(png()), "a.png", "")


async def test_an_upload_outlives_a_cache_without_quota(tmp_path: Path) -> None:
    """It was sent to be used: with ``INPUT_CACHE_BYTES=0`` it stays until the next one needs its room."""
    uploads = store(tmp_path, input_cache_bytes=0)
    reference = await uploads.save(chunks(png()), "a.png", "")
    assert (await uploads.find(reference, owner="", field="f")).path.is_file()
