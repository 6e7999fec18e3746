"""Files over HTTP: who may have them, what a browser may do with them, ranges, and nothing outside their folders."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from .conftest import ALICE, BOB, OPS, World


def link(world: World, job_id: str, name: str, *, life_s: float = 60) -> str:
    """A signed link's path and query."""
    end = world.jobs.clock.now() + timedelta(seconds=life_s)
    return world.signer.output_url("", job_id, name, expires_at=end)


async def test_a_link_opens_on_both_listeners_until_it_ends(world: World) -> None:
    """Whoever has it; not a minute longer, and no other file."""
    job = await world.with_files("a.png", "b.png")
    path = link(world, job.job_id, "a.png")
    for public in (False, True):
        status, body, _ = await world.get(path, public=public)
        assert (status, body) == (200, b"a.png")
        for wrong in (path.replace("a.png", "b.png"), path[:-1], path.replace("expires=1", "expires=2")):
            status, problem, _ = await world.get(wrong, public=public)
            assert (status, problem["error"]) == (403, "forbidden")
    await world.jobs.clock.advance(61)
    for public in (False, True):
        assert (await world.get(path, public=public))[0] == 403


async def test_a_key_opens_its_tenants_files(world: World) -> None:
    """And an admin's all of them; on the public listener nobody has a key."""
    job = await world.with_files("a.png")
    path = f"/outputs/{job.job_id}/a.png"
    answers = [(await world.get(path, headers=headers))[0] for headers in (ALICE, OPS, BOB, {})]
    assert answers == [200, 200, 404, 401]
    assert (await world.get(path, headers=ALICE, public=True))[0] == 404
    expired = link(world, job.job_id, "a.png", life_s=-5)
    assert (await world.get(expired, headers=ALICE))[0] == 200, "the key is good, whatever the link"


async def test_a_key_opens_files_by_the_request_id(world: World) -> None:
    """Of the newest run, and of its own tenant's jobs alone; a link or token is the job's id's."""
    await world.with_files("old.png", request_id="mine")
    await world.with_files("new.png", request_id="mine", body_hash="again")
    for headers in (ALICE, OPS):
        assert (await world.get("/outputs/mine/new.png", headers=headers))[:2] == (200, b"new.png")
        assert (await world.get("/outputs/mine/old.png", headers=headers))[0] == 404
    assert (await world.get("/outputs/mine/new.png", headers=BOB))[0] == 404
    assert (await world.get(link(world, "mine", "new.png")))[0] == 404


async def test_a_jobs_token_opens_its_files(world: World) -> None:
    """On both listeners, as a header or in the address."""
    job, other = await world.with_files("a.png"), await world.with_files("a.png", request_id="other")
    path, token = f"/outputs/{job.job_id}/a.png", world.signer.job_token(job.job_id)
    for public in (False, True):
        assert (await world.get(f"{path}?job_token={token}", public=public))[0] == 200
        assert (await world.get(path, headers={"X-Job-Token": token}, public=public))[0] == 200
        assert (await world.get(f"/outputs/{other.job_id}/a.png?job_token={token}", public=public))[0] in (401, 404)


async def test_parts_conditions_and_heads(world: World) -> None:
    """As players and download managers ask."""
    job = await world.with_files("abcdefgh.png")
    path = link(world, job.job_id, "abcdefgh.png")
    status, body, headers = await world.get(path)
    assert (status, headers["Accept-Ranges"], headers["Content-Length"]) == (200, "bytes", "12")
    part = await world.get(path, headers={"Range": "bytes=2-4"})
    assert (part[0], part[1], part[2]["Content-Range"]) == (206, b"cde", "bytes 2-4/12")
    assert (await world.get(path, headers={"Range": "bytes=-3"}))[1] == b"png"
    assert (await world.get(path, headers={"Range": "bytes=50-"}))[0] == 416
    assert (await world.get(path, headers={"If-None-Match": headers["ETag"]}))[0] == 304
    assert (await world.get(path, headers={"If-Modified-Since": headers["Last-Modified"]}))[0] == 304
    status, body, head = await world.get(path, method="HEAD")
    assert (status, body, head["Content-Length"]) == (200, b"", "12")
    assert (await world.get(path, method="HEAD", public=True))[0] == 200
    assert (await world.get(f"/outputs/{job.job_id}/abcdefgh.png", method="HEAD"))[0] == 401


@pytest.mark.parametrize(
    ("mime_type", "place"),
    [
        ("image/png", "inline"),
        ("video/mp4", "inline"),
        ("audio/flac", "inline"),
        ("text/plain", "inline"),
        ("image/svg+xml", "attachment"),
        ("text/html", "attachment"),
        ("application/xml", "attachment"),
        ("application/pdf", "attachment"),
        ("model/gltf-binary", "attachment"),
        ("application/octet-stream", "attachment"),
    ],
)
async def test_nothing_runs_in_our_origin(world: World, mime_type: str, place: str) -> None:
    """What could be a program is saved, never shown; its type is not guessed again."""
    job = await world.with_files("a.x", kinds={"a.x": mime_type})
    _, _, headers = await world.get(link(world, job.job_id, "a.x"))
    assert headers["Content-Type"].partition(";")[0] == mime_type
    assert headers["Content-Disposition"].startswith(f"{place};")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("sandbox;")
    assert headers["Cache-Control"] == "private"


@pytest.mark.parametrize("name", ["größe 1.png", 'a"b.png', "a\\b.png", "a%2e.png", "{a}.png", "ü;=,.png", "…"])
async def test_any_name_arrives_whole(world: World, name: str) -> None:
    """In the address and in the header, which is one line of ASCII."""
    job = await world.with_files(name)
    status, body, headers = await world.get(link(world, job.job_id, name))
    assert (status, body.decode()) == (200, name)
    assert headers["Content-Disposition"].isascii()


async def test_a_file_that_is_gone_is_said_to_be(world: World) -> None:
    """404 with its own code, as for a name that the job never had."""
    job = await world.with_files("a.png")
    for path in world.folder.iterdir():
        path.unlink()
    status, body, _ = await world.get(link(world, job.job_id, "a.png"))
    assert (status, body["error"], "cleaned up" in body["message"]) == (404, "output_not_found", True)
    status, body, _ = await world.get(link(world, job.job_id, "b.png"))
    assert (status, body["error"]) == (404, "output_not_found")
    status, body, _ = await world.get(link(world, "no-job", "b.png"), public=True)
    assert (status, body["error"]) == (404, "job_not_found")


async def outside(world: World, tmp_path: Path) -> list[Any]:
    """Outputs that lead out of the folder: a path elsewhere, a link, a folder, a device."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    inside = world.folder / "link.png"
    inside.symlink_to(secret)
    return [secret, inside, world.folder / ".." / "secret.txt", world.folder, Path("/dev/zero")]


async def test_no_file_outside_the_folders(world: World, tmp_path: Path) -> None:
    """Whatever the job's record says, also through links."""
    job = await world.job("x")
    for path in await outside(world, tmp_path):
        bad = await world.stored(job, world.output("a.png", path))
        status, body, _ = await world.get(link(world, bad.job_id, "a.png"))
        assert (status, body["error"]) == (404, "output_not_found")


async def test_thumbnails_are_files_too(world: World) -> None:
    """Under the names that delivery gives them."""
    small = world.folder / "small.webp"
    small.write_text("small")
    job = await world.stored(await world.job(), world.output("a.png", small, thumbnail_path=str(small)))
    status, body, headers = await world.get(link(world, job.job_id, "thumb_a.webp"), public=True)
    assert (status, body, headers["Content-Type"]) == (200, b"small", "image/webp")


async def test_a_page_may_show_a_picture_by_its_link(world: World) -> None:
    """From another site: the link is the leave; without it the page gets nothing."""
    job = await world.with_files("a.png")
    page = {"Origin": "https://gallery.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    path = link(world, job.job_id, "a.png")
    assert (await world.get(path, headers=page))[0] == 200
    assert (await world.get(path[:-1], headers=page))[0] == 403
    assert (await world.get(f"/outputs/{job.job_id}/a.png", headers=page | ALICE))[0] == 403
