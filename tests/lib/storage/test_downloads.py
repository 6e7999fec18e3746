"""Fetching callers' URLs: guarded, capped, recognised, shared, cached. Hosts are real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from lib.errors import InputFetchFailed, ServiceError, StorageFailed, UnsafeInput
from lib.lifecycle import Tasks
from lib.settings import StorageSettings
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.storage.sources import Source
from tests.fakes.http_hosts import Names, WebHost, png

FIELD = "input.workflow_json.5.inputs.image"
Opened = AbstractAsyncContextManager[Downloads]


@pytest.fixture
async def host() -> AsyncIterator[WebHost]:
    async with WebHost(files={"/a.png": (png(), "image/png")}) as host:
        yield host


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Opened]:
    @asynccontextmanager
    async def open_(*allow: str, names: Names | None = None, **settings: object) -> AsyncIterator[Downloads]:
        lookup = names or Names(files_example=[["127.0.0.1"]])
        guard = AddressGuard(allow=allow or ("files.example",), lookup=lookup)
        limits = StorageSettings.model_validate({"input_timeout_s": 20.0, "input_max_bytes": 1 << 20} | settings)
        store = ContentStore(tmp_path / "cache", quota_bytes=1 << 30)
        async with GuardedHttp(guard) as http, Tasks() as tasks:
            yield Downloads(store=store, http=http, settings=limits, tasks=tasks, retry_wait_s=0.0)

    return open_


async def failure(downloads: Downloads, url: str) -> ServiceError:
    with pytest.raises((InputFetchFailed, UnsafeInput)) as caught:
        await downloads.fetch(Source(url=url), field=FIELD)
    assert caught.value.details["field"] == FIELD
    assert caught.value.message.startswith(FIELD)
    return caught.value


async def test_a_picture_arrives_whole(host: WebHost, opened: Callable[..., Opened]) -> None:
    """The file, its size, hash and kind are what the host sent; the kind is read from the content."""
    host.files["/wrong.jpg"] = (png(), "text/plain")
    async with opened() as downloads:
        fetched = await downloads.fetch(Source(url=host.url("/wrong.jpg?sig=1", host="files.example")), field=FIELD)
    assert fetched.path.read_bytes() == png()
    assert (fetched.mime_type, fetched.extension, fetched.size_bytes) == ("image/png", ".png", len(png()))
    assert host.seen[0].headers["Host"] == f"files.example:{host.port}"


async def test_redirects_are_followed(host: WebHost, opened: Callable[..., Opened]) -> None:
    """An ordinary redirect, also a relative one, leads to the file."""
    async with opened() as downloads:
        assert await downloads.fetch(Source(url=host.url("/to?/a.png", host="files.example")), field=FIELD)


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/a.png", "http://inner.example:{port}/a.png", "file:///x"])
async def test_a_redirect_inward_is_refused(host: WebHost, opened: Callable[..., Opened], target: str) -> None:
    """Every hop is checked: a public host can't send us to a private one, by address or by name."""
    names = Names(files_example=[["127.0.0.1"]], inner_example=[["127.0.0.1"]])
    async with opened("files.example", names=names) as downloads:
        error = await failure(downloads, host.url("/to?", host="files.example") + target.format(port=host.port))
    assert isinstance(error, UnsafeInput)
    assert [seen.path for seen in host.seen] == ["/to"]


@pytest.mark.parametrize(
    "literal",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::ffff:127.0.0.1]",
        "0",
        "localhost",
        "127.0.0.1.",
        "LOCALHOST.",
    ],
)
async def test_no_spelling_of_loopback_gets_through(host: WebHost, opened: Callable[..., Opened], literal: str) -> None:
    """With a real server listening there, nothing reaches it."""
    names = Names(localhost=[["127.0.0.1", "::1"]])
    async with opened("files.example", names=names) as downloads:
        error = await failure(downloads, f"http://{literal}:{host.port}/a.png")
    assert isinstance(error, UnsafeInput)
    assert not host.seen


async def test_a_rebinding_name_gains_nothing(opened: Callable[..., Opened]) -> None:
    """One look-up per connection, and the connection goes to the vetted address; a later answer is vetted anew."""
    names = Names(rebind_example=[["127.0.0.2"], ["127.0.0.1"]])
    async with WebHost(address="127.0.0.2", files={"/a.png": (png(), "image/png")}) as good:
        async with opened("127.0.0.2/32", names=names) as downloads:
            url = good.url("/a.png", host="rebind.example")
            assert await downloads.fetch(Source(url=url), field=FIELD)
            assert names.asked == ["rebind.example"]
        async with opened("127.0.0.2/32", names=names) as downloads:
            assert isinstance(await failure(downloads, url), UnsafeInput)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/status/404", "status"),
        ("/status/403", "status"),
        ("/status/500", "unreachable"),
        ("/loop", "too_many_redirects"),
        ("/endless", "too_large"),
        ("/cut", "unreachable"),
        ("/page.png", "not_media"),
        ("/data.png", "not_media"),
        ("/empty.png", "not_media"),
        ("/big.png", "too_large"),
    ],
)
async def test_bad_hosts_are_named(host: WebHost, opened: Callable[..., Opened], path: str, reason: str) -> None:
    """Each way to fail has a reason of its own, the field and the host, and leaves no file behind."""
    host.files |= {
        "/page.png": (b"<!doctype html><p>Please log in", "image/png"),
        "/data.png": (b'{"error":"expired"}', "image/png"),
        "/empty.png": (b"", "image/png"),
        "/big.png": (png() + bytes(1 << 20), "image/png"),
    }
    async with opened() as downloads:
        error = await failure(downloads, host.url(path + "?token=hush", host="files.example"))
        await asyncio.to_thread(lambda: None)
    assert error.details["reason"] == reason
    assert error.details["host"] == "files.example" or reason == "too_large"
    assert "hush" not in error.message + str(dict(error.details))


@pytest.mark.parametrize("path", ["/hang", "/drip"])
async def test_a_slow_host_is_given_up(host: WebHost, opened: Callable[..., Opened], path: str) -> None:
    """The whole fetch has a time limit."""
    async with opened(input_timeout_s=0.2) as downloads:
        error = await failure(downloads, host.url(path, host="files.example"))
    assert error.details["reason"] == "timeout"


async def test_unknown_names_and_closed_ports_are_named(opened: Callable[..., Opened]) -> None:
    """A host that does not exist or does not listen is unreachable, and said so without the library's text."""
    async with opened() as downloads:
        error = await failure(downloads, "http://nowhere.example/a.png")
        assert error.details["reason"] == "unreachable"
        assert "Name or service not known" in error.message
        assert "nowhere.example" in error.message


async def test_a_stumbling_host_is_asked_again(host: WebHost, opened: Callable[..., Opened]) -> None:
    """5xx answers are retried, 4xx are not."""
    host.failures = 2
    async with opened() as downloads:
        assert await downloads.fetch(Source(url=host.url("/flaky", host="files.example")), field=FIELD)
        assert len(host.seen) == 3
        await failure(downloads, host.url("/status/404", host="files.example"))
        assert len(host.seen) == 4


async def test_one_fetch_serves_all_who_want_it(host: WebHost, opened: Callable[..., Opened]) -> None:
    """Jobs that want the same URL share one fetch; one that leaves does not end it for the others."""
    async with opened() as downloads:
        url = host.url("/gated", host="files.example")
        waiting = [asyncio.create_task(downloads.fetch(Source(url=url), field=FIELD)) for _ in range(5)]
        await host.arrived.wait()
        waiting.pop(0).cancel()
        host.release.set()
        assert len({fetched.sha256 for fetched in await asyncio.gather(*waiting)}) == 1
    assert len(host.seen) == 1


async def test_a_fetch_that_nobody_wants_ends(host: WebHost, opened: Callable[..., Opened], tmp_path: Path) -> None:
    """When the last waiter leaves, the connection is closed and nothing stays on disk."""
    async with opened() as downloads:
        url = host.url("/drip", host="files.example")
        task = asyncio.create_task(downloads.fetch(Source(url=url), field=FIELD))
        await host.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        host.release.set()
        assert (await downloads.fetch(Source(url=host.url("/a.png", host="files.example")), field=FIELD)).size_bytes
    assert [path.suffix for path in (tmp_path / "cache").glob("[!.]*")] == [".png"]


async def test_an_unchanged_file_is_not_sent_again(host: WebHost, opened: Callable[..., Opened]) -> None:
    """A URL seen before is asked with its validator: 304 gives the cached file, a change gives the new one."""
    host.etags["/a.png"] = '"1"'
    async with opened() as downloads:
        url = host.url("/a.png", host="files.example")
        first = await downloads.fetch(Source(url=url), field=FIELD)
        again = await downloads.fetch(Source(url=url), field=FIELD)
        assert again.path == first.path
        assert host.seen[1].headers["If-None-Match"] == '"1"'
        host.files["/a.png"], host.etags["/a.png"] = (png(shade=9), "image/png"), '"2"'
        changed = await downloads.fetch(Source(url=url), field=FIELD)
        assert changed.sha256 != first.sha256
        changed.path.unlink()
        assert (await downloads.fetch(Source(url=url), field=FIELD)).path.read_bytes() == png(shade=9)


async def test_the_wanted_kind_is_checked(host: WebHost, opened: Callable[..., Opened]) -> None:
    """A field that takes audio refuses a picture and names both kinds."""
    async with opened() as downloads:
        with pytest.raises(InputFetchFailed, match="is image/png, expected audio"):
            await downloads.fetch(Source(url=host.url("/a.png", host="files.example")), field=FIELD, accept=("audio/",))


async def test_bytes_from_the_request_obey_the_same_rules(opened: Callable[..., Opened]) -> None:
    """Base64 inputs are stored, recognised and capped like fetched ones."""
    async with opened() as downloads:
        assert (await downloads.store([png()], field=FIELD)).extension == ".png"
        with pytest.raises(InputFetchFailed, match=f"{FIELD}: it is JSON"):
            await downloads.store([b'{"a": 1}'], field=FIELD)
        with pytest.raises(InputFetchFailed, match="INPUT_MAX_BYTES"):
            await downloads.store([bytes(1 << 20)] * 2, field=FIELD)


async def test_a_source_is_remembered_over_a_restart(host: WebHost, opened: Callable[..., Opened]) -> None:
    """The next process asks with the validator too; a job that had the file before does not even ask."""
    host.etags["/a.png"] = '"1"'
    source = Source(url=host.url("/a.png", host="files.example"))
    async with opened() as downloads:
        first = await downloads.fetch(source, field=FIELD)
    async with opened() as downloads:
        assert (await downloads.fetch(source, field=FIELD)).path == first.path
        assert host.seen[1].headers["If-None-Match"] == '"1"'
        del host.files["/a.png"]
        again = await downloads.fetch(source, field=FIELD, accept=("image/",), again=True)
        assert (again.path, again.mime_type) == (first.path, "image/png")
        assert len(host.seen) == 2
        assert (await failure(downloads, source.url)).details["reason"] == "status"
        first.path.write_bytes(b"")
        with pytest.raises(InputFetchFailed):
            await downloads.fetch(source, field=FIELD, again=True)


async def test_what_one_may_read_is_not_given_to_another(host: WebHost, opened: Callable[..., Opened]) -> None:
    """The same URL with other credentials, or none, is asked for anew, at the same time and later."""
    host.etags["/gated"] = '"1"'
    url = host.url("/gated", host="files.example")
    mine = Source(url=url, headers=(("X-Key", "mine"),))
    async with opened() as downloads:
        fetches = [asyncio.create_task(downloads.fetch(one, field=FIELD)) for one in (mine, mine, Source(url=url))]
        await host.arrived.wait()
        host.release.set()
        await asyncio.gather(*fetches)
        assert sorted(seen.headers.get("X-Key", "") for seen in host.seen) == ["", "mine"]
        await downloads.fetch(Source(url=url, headers=(("X-Key", "other"),)), field=FIELD, again=True)
        assert host.seen[-1].headers["X-Key"] == "other"
        assert "If-None-Match" not in host.seen[-1].headers


async def test_credentials_stay_with_their_host(host: WebHost, opened: Callable[..., Opened]) -> None:
    """A redirect to another host, or port, goes without them; one on the same host keeps them."""
    names = Names(files_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
    host.files["/b.png"] = (png(shade=3), "image/png")
    async with WebHost(files={"/c.png": (png(), "image/png")}) as port, opened("127.0.0.1", names=names) as downloads:
        targets = [host.url("/b.png", host="other.example"), port.url("/c.png", host="files.example")]
        for target in [*targets, "/a.png"]:
            url = host.url(f"/to?{target}", host="files.example")
            await downloads.fetch(Source(url=url, headers=(("Authorization", "hush"),)), field=FIELD)
        sent = {seen.path: seen.headers.get("Authorization") for seen in [*host.seen, *port.seen]}
    assert sent == {"/to": "hush", "/b.png": None, "/c.png": None, "/a.png": "hush"}


async def test_a_busy_host_is_asked_again(host: WebHost, opened: Callable[..., Opened]) -> None:
    """429 is an answer for now, not for good."""
    async with opened() as downloads:
        await failure(downloads, host.url("/status/429", host="files.example"))
    assert len(host.seen) == 3


async def test_a_drawing_is_no_picture_for_a_loader(host: WebHost, opened: Callable[..., Opened]) -> None:
    """SVG is an image to browsers; ComfyUI would fail on it at run time."""
    host.files["/a.svg"] = (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml")
    async with opened() as downloads:
        with pytest.raises(InputFetchFailed, match="image/svg"):
            await downloads.fetch(Source(url=host.url("/a.svg", host="files.example")), field=FIELD, accept=("image/",))


async def test_a_full_disk_is_ours_to_answer_for(opened: Callable[..., Opened], tmp_path: Path) -> None:
    """Not the caller's fault, and said so."""
    (tmp_path / "cache").write_text("not a folder")
    async with opened() as downloads:
        with pytest.raises(StorageFailed, match=FIELD):
            await downloads.store([png()], field=FIELD)


async def test_a_large_file_of_the_request_is_not_read_to_its_end(opened: Callable[..., Opened]) -> None:
    """Blocks are made one after the other, and no more of them than fit."""
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(1 << 18)

    async with opened() as downloads:
        with pytest.raises(InputFetchFailed, match="INPUT_MAX_BYTES"):
            await downloads.store(endless(), field=FIELD)
    assert made == 5
