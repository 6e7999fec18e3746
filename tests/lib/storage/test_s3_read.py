"""Objects by signed GET: real S3 servers give what was put there, and say why not."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.errors import InputFetchFailed
from lib.lifecycle import Tasks
from lib.settings import StorageSettings
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.storage.s3 import S3Place
from lib.storage.s3_read import AmbientKeys, refusal, signed_url
from lib.storage.sources import Source
from tests.fakes.http_hosts import png
from tests.s3_fixture import S3Server

PLACE = S3Place(bucket_name="pictures", access_key_id="id", secret_access_key="secret")
KEY = "a b/ü+&c~%41.png"


@pytest.fixture
async def downloads(tmp_path: Path) -> AsyncIterator[Downloads]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(GuardedHttp(AddressGuard(allow=["127.0.0.1"])))
        tasks = await stack.enter_async_context(Tasks())
        store = ContentStore(tmp_path / "cache", quota_bytes=1 << 30)
        settings = StorageSettings.model_validate({"input_max_bytes": 1 << 20})
        yield Downloads(store=store, http=http, settings=settings, tasks=tasks, retry_wait_s=0.0)


def source(server: S3Server, key: str, *, trusted: bool = False, **changes: str) -> Source:
    place = S3Place(
        bucket_name="outputs",
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        endpoint_url=server.endpoint_url,
        trusted=trusted,
    )
    return Source(url=f"s3://outputs/{key}", place=replace(place, **changes), key=key)


@pytest.mark.parametrize(("which", "key"), [("nanio_server", "a b/c.png"), ("swift_server", KEY)])
async def test_an_object_arrives_whatever_its_key(
    downloads: Downloads, which: str, key: str, request: pytest.FixtureRequest
) -> None:
    """Blanks, accents and signs in the key are signed as they are sent; asked again it is not sent again."""
    server: S3Server = request.getfixturevalue(which)
    server.client().put_object(Bucket="outputs", Key=key, Body=png(shade=7))
    fetched = await downloads.fetch(source(server, key), field="f")
    assert fetched.path.read_bytes() == png(shade=7)
    assert fetched.sha256 == hashlib.sha256(png(shade=7)).hexdigest()
    assert (await downloads.fetch(source(server, key), field="f")).path == fetched.path


async def test_an_object_is_read_by_the_machines_own_keys(
    downloads: Downloads, nanio_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AWS's programs find them; where there are none, or only half of them, it is said."""
    nanio_server.client().put_object(Bucket="outputs", Key="own.png", Body=png(shade=9))
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bare = source(nanio_server, "own.png", trusted=True, access_key_id="", secret_access_key="")
    assert bare.place is not None
    for half in (False, True):
        if half:
            file.write_text("[default]\naws_access_key_id=x\n")
        with pytest.raises(InputFetchFailed, match="no AWS keys"):
            await downloads.fetch(replace(bare, place=replace(bare.place, ambient=AmbientKeys())), field="f")
    file.write_text(
        f"[default]\naws_access_key_id={nanio_server.access_key_id}\n"
        f"aws_secret_access_key={nanio_server.secret_access_key}\n"
    )
    fetched = await downloads.fetch(replace(bare, place=replace(bare.place, ambient=AmbientKeys())), field="f")
    assert fetched.path.read_bytes() == png(shade=9)


async def test_what_s3_says_is_passed_on(downloads: Downloads, nanio_server: S3Server) -> None:
    """Its code is the reason; neither endpoint nor signature is told."""
    for changed, reason in (({}, "NoSuchKey"), ({"secret_access_key": "wrong"}, "SignatureDoesNotMatch")):
        with pytest.raises(InputFetchFailed) as caught:
            await downloads.fetch(source(nanio_server, "missing.png", **changed), field="f")
        assert caught.value.details["reason"] == reason
        assert "Signature=" not in caught.value.message and caught.value.details["host"] == "s3://outputs"


async def test_a_large_object_is_refused(downloads: Downloads, nanio_server: S3Server) -> None:
    """The cap of all inputs."""
    nanio_server.client().put_object(Bucket="outputs", Key="big.png", Body=png() + bytes(2 << 20))
    with pytest.raises(InputFetchFailed) as caught:
        await downloads.fetch(source(nanio_server, "big.png"), field="f")
    assert caught.value.details["reason"] == "too_large"


async def test_a_callers_endpoint_passes_the_guard_and_the_operators_does_not_need_to(
    tmp_path: Path, nanio_server: S3Server
) -> None:
    """Both are on loopback here, which is private."""
    nanio_server.client().put_object(Bucket="outputs", Key="g.png", Body=png(shade=9))
    async with GuardedHttp(AddressGuard()) as http, Tasks() as tasks:
        store = ContentStore(tmp_path, quota_bytes=1 << 30)
        downloads = Downloads(store=store, http=http, settings=StorageSettings(), tasks=tasks)
        assert await downloads.fetch(source(nanio_server, "g.png", trusted=True), field="f")
        with pytest.raises(Exception, match="private"):
            await downloads.fetch(source(nanio_server, "g.png"), field="f")


async def test_a_bucket_in_another_region_is_found(downloads: Downloads) -> None:
    """S3 names the region in its refusal; the next signature is for it, and a liar is not followed for ever."""
    signed_for: list[str] = []
    truth = {"region": "eu-west-3"}

    async def answer(request: web.Request) -> web.Response:
        region = request.query["X-Amz-Credential"].split("/")[2]
        signed_for.append(region)
        if region == "eu-west-3" and truth["region"] == region:
            return web.Response(body=png(shade=5))
        body = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{truth['region']}</Region></Error>"
        return web.Response(status=400, text=body)

    app = web.Application()
    app.router.add_get("/pictures/a.png", answer)
    async with TestServer(app) as server:
        place = replace(PLACE, endpoint_url=str(server.make_url("")).rstrip("/"))
        there = Source(url="s3://pictures/a.png", place=place, key="a.png")
        assert (await downloads.fetch(there, field="f")).path.read_bytes() == png(shade=5)
        assert signed_for == ["us-east-1", "eu-west-3"]
        truth["region"] = "nowhere-1"
        with pytest.raises(InputFetchFailed):
            await downloads.fetch(there, field="f")
        assert len(signed_for) == 2 + 2 * 3


@pytest.mark.parametrize(
    ("changes", "beginning"),
    [
        ({}, "https://pictures.s3.us-east-1.amazonaws.com/a%20b/"),
        ({"region": "cn-north-1"}, "https://pictures.s3.cn-north-1.amazonaws.com.cn/a%20b/"),
        ({"bucket_name": "with.dots"}, "https://s3.us-east-1.amazonaws.com/with.dots/a%20b/"),
        ({"addressing": "path"}, "https://s3.us-east-1.amazonaws.com/pictures/a%20b/"),
        ({"endpoint_url": "https://x.r2.cloudflarestorage.com"}, "https://x.r2.cloudflarestorage.com/pictures/a%20b/"),
        ({"endpoint_url": "http://m:9/s3/", "addressing": "virtual"}, "http://pictures.m:9/s3/a%20b/"),
    ],
)
def test_the_bucket_stands_where_the_server_wants_it(changes: dict[str, str], beginning: str) -> None:
    """In the host's name on AWS where it fits, in the path elsewhere, unless told."""
    assert signed_url(replace(PLACE, **changes), KEY).startswith(beginning)


def test_refusals_are_read_without_trust() -> None:
    """A stranger's server may answer anything."""
    assert refusal(b"<Error><Code>NoSuchKey</Code><Message>x</Message></Error>") == ("NoSuchKey", None)
    assert refusal(b"<Code>a\nb</Code><Region>../evil</Region>") == ("", None)
    assert refusal(b"\xff") == ("", None)
