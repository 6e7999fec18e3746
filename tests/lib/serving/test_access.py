"""The door of the API listener: who gets in, as whom, and what he may ask for."""

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web

from lib.serving.access import Access, Need, caller_of, keys_required
from lib.serving.keyring import ApiKey, KeyRing, digest
from lib.serving.limits import KeyLimits
from lib.serving.origins import OriginPolicy
from lib.serving.payloads import json_response, read_body
from lib.serving.signing import Signer
from lib.settings import AccessSettings, ServerSettings, SettingsError
from lib.telemetry.logs import configure_logging
from tests.fakes.clock import FakeClock

from .conftest import Serve, Served, site_with

ALICE, BOB, OPS = "alice's key, long enough", "bob's key, just as long", "the operations' own key"
SIGNER = Signer(b"s" * 32)
NEEDS = {
    "/free": Need.FREE,
    "/link": Need.LINK,
    "/submit": Need.SUBMIT,
    "/metrics": Need.ADMIN,
}


def ring(*more: ApiKey) -> KeyRing:
    keys = (
        ApiKey(name="alice", tenant="studio", sha256=digest(ALICE), max_in_flight=1),
        ApiKey(name="bob", tenant="bob", sha256=digest(BOB)),
        ApiKey(name="ops", tenant="ops", sha256=digest(OPS), admin=True),
    )
    return KeyRing(fixed=(*keys, *more), path=None, clock=FakeClock())


async def tell(request: web.Request) -> web.Response:
    """Who is known."""
    caller = caller_of(request)
    return json_response({"name": caller.name, "tenant": caller.tenant, "owner": caller.owner, "admin": caller.admin})


async def door(serve: Serve, *, required: bool = True, policy: OriginPolicy | None = None, **changes: Any) -> Served:
    """A listener with one route of each kind."""
    limits = KeyLimits(requests_per_minute=None, max_in_flight=None, clock=FakeClock())
    access = Access(**({"keys": ring(), "required": required, "signer": SIGNER, "limits": limits} | changes))
    site = site_with(access=access, policy=policy)
    paths = ("/free", "/link", "/key", "/metrics", "/result/{job_id}", "/cancel/{request_id}")
    site.mount([web.get(path, tell) for path in paths], owner="told", needs=NEEDS)
    site.mount([web.post("/submit", tell), web.post("/slow", tell)], owner="told", needs=NEEDS)
    return await serve(site)


async def ask(served: Served, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Status and body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with served.client.request(method, path, headers=named) as answer:
        return answer.status, await answer.json() if method != "HEAD" else None


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ALICE}"},
        {"Authorization": f"bearer {ALICE}"},
        {"X-API-Key": ALICE},
        {"X-API-Key": ALICE, "Authorization": "Bearer of a proxy in between"},
    ],
    ids=str,
)
async def test_a_key_gets_in_by_either_header(serve: Serve, headers: dict[str, str]) -> None:
    """As its tenant, who sees its own jobs."""
    assert await ask(await door(serve), "/key", **headers) == (
        200,
        {"name": "alice", "tenant": "studio", "owner": "studio", "admin": False},
    )


@pytest.mark.parametrize("path", ["/key", "/metrics", "/no/such/path", "/result/x", "/submit"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Basic {ALICE}"}, {"X_API_Key": "wrong"}], ids=str)
async def test_without_a_good_key_nothing_is_told(serve: Serve, path: str, headers: dict[str, str]) -> None:
    """Not even which paths there are; the answer says how to ask."""
    served = await door(serve)
    async with served.client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()}) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await answer.json())["error"] == "unauthorized"


async def test_a_wrong_method_on_a_free_path_is_told_to_everybody(serve: Serve) -> None:
    """405 there needs no key, unlike on other paths."""
    served = await door(serve)
    told = {path: (await ask(served, path, method="PUT"))[0] for path in ("/free", "/link", "/key", "/")}
    assert told == {"/free": 405, "/link": 401, "/key": 401, "/": 401}


async def test_a_wrong_key_is_refused_everywhere(serve: Serve) -> None:
    """On loopback too, and where no key is needed: a typing error must not look like success."""
    for required in (True, False):
        served = await door(serve, required=required)
        for path in ("/free", "/link", "/key"):
            assert (await ask(served, path, X_API_Key="wrong"))[0] == 401


async def test_on_loopback_no_key_is_the_operator(serve: Serve) -> None:
    """A key makes one its tenant there as well; without any keys in the settings a stray header means nothing."""
    served = await door(serve, required=False)
    operator = {"name": "operator", "tenant": "", "owner": None, "admin": True}
    assert await ask(served, "/metrics") == (200, operator)
    assert (await ask(served, "/key", X_API_Key=BOB))[1]["owner"] == "bob"
    bare = await door(serve, required=False, keys=KeyRing(fixed=(), path=None, clock=FakeClock()))
    assert await ask(bare, "/key", Authorization="Bearer of some proxy") == (200, operator)


async def test_an_admin_key_sees_everything(serve: Serve) -> None:
    """Another key is refused by name of what it lacks."""
    served = await door(serve)
    assert await ask(served, "/metrics", X_API_Key=OPS) == (
        200,
        {"name": "ops", "tenant": "ops", "owner": None, "admin": True},
    )
    status, body = await ask(served, "/metrics", X_API_Key=BOB)
    assert (status, body["error"]) == (403, "forbidden")
    assert "admin" in body["message"]


async def test_free_routes_know_who_shows_a_key(serve: Serve) -> None:
    """Without one nobody is known there, also not for HEAD."""
    served = await door(serve)
    assert (await ask(served, "/free", X_API_Key=BOB))[1]["name"] == "bob"
    assert (await ask(served, "/free"))[0] == 401, "the handler asked who it is"
    site = site_with(access=Access(keys=ring(), required=True))
    site.mount([web.get("/health", fine)], owner="x", needs={"/health": Need.FREE})
    free = await serve(site)
    assert (await ask(free, "/health"))[0] == 200
    assert (await ask(free, "/health", method="HEAD"))[0] == 200


async def fine(request: web.Request) -> web.Response:
    """Asks nobody."""
    return json_response({})


@pytest.mark.parametrize("path", ["/result/job-1", "/cancel/job-1"])
async def test_a_jobs_token_opens_its_paths(serve: Serve, path: str) -> None:
    """By header, or in the address for an EventSource; another job's does not, and elsewhere it opens nothing."""
    served, token = await door(serve), SIGNER.job_token("job-1")
    for shown in ({"headers": {"X-Job-Token": token}}, {"params": {"job_token": token}}):
        async with served.client.get(path, **shown) as answer:  # type: ignore[arg-type]
            assert (answer.status, (await answer.json())["admin"]) == (200, False)
    assert (await ask(served, path, X_Job_Token=SIGNER.job_token("job-2")))[0] == 401
    assert (await ask(served, "/key", X_Job_Token=token))[0] == 401
    assert (await ask(served, path, X_Job_Token=token, X_API_Key="wrong"))[0] == 401


async def test_a_token_adds_to_a_key(serve: Serve) -> None:
    """Somebody else's link works for who has a key of his own."""
    served, token = await door(serve), SIGNER.job_token("job-1")
    assert (await ask(served, "/result/job-1", X_API_Key=BOB, X_Job_Token=token))[1]["owner"] is None
    assert (await ask(served, "/result/job-1", X_API_Key=BOB))[1]["owner"] == "bob"


async def test_a_page_may_use_a_link_and_nothing_else(serve: Serve) -> None:
    """A foreign page's picture has a signature; it never acts as the operator."""
    served = await door(serve, required=False, policy=OriginPolicy())
    page = {"Origin": "https://example.com"}
    assert (await ask(served, "/link", **page))[0] == 403
    status, body = await ask(served, "/link?signature=x", **page)
    assert (status, body["error"]) == (401, "unauthorized"), "the handler found nobody"
    assert (await ask(served, "/key?signature=x", **page))[0] == 403


async def test_a_full_key_is_told_before_its_body_is_read(serve: Serve) -> None:
    """429 with a moment; other keys are served, other routes too, and the operator has no limit."""
    served = await door(serve)
    gate, held = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        held.set()
        await gate.wait()
        return json_response({})

    site = site_with(access=Access(keys=ring(), required=False, limits=_limits()))
    site.mount([web.post("/submit", hold), web.get("/key", tell)], owner="x", needs=NEEDS)
    served = await serve(site)
    first = asyncio.create_task(ask(served, "/submit", method="POST", X_API_Key=ALICE))
    await asyncio.wait_for(held.wait(), 60)
    async with served.client.post("/submit", headers={"X-API-Key": ALICE}, data=_never()) as answer:
        assert (answer.status, (await answer.json())["error"]) == (429, "rate_limited")
        assert int(answer.headers["Retry-After"]) >= 1
    assert (await ask(served, "/key", X_API_Key=ALICE))[0] == 200
    gate.set()
    assert (await first)[0] == 200
    for headers in ({"X_API_Key": ALICE}, {"X_API_Key": ALICE}, {"X_API_Key": BOB}, {}):
        assert (await ask(served, "/submit", method="POST", **headers))[0] == 200


def _limits() -> KeyLimits:
    return KeyLimits(requests_per_minute=None, max_in_flight=None, clock=FakeClock())


async def _never() -> Any:
    yield b"x"
    await asyncio.sleep(30)
    yield b"y"


async def test_no_body_is_read_for_strangers(serve: Serve) -> None:
    """The answer is there before the body is."""
    site = site_with(access=Access(keys=ring(), required=True))

    async def read(request: web.Request) -> web.Response:
        await read_body(request, limit=100)
        raise AssertionError("read")

    site.mount([web.post("/read", read)], owner="x")
    served = await serve(site)
    async with served.client.post("/read", data=_never()) as answer:
        assert answer.status == 401


async def test_logs_have_the_keys_name_and_never_the_key(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Of this request only: a connection's next one starts anew."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging(level="DEBUG", log_format="json")
    try:
        served = await door(serve)
        await ask(served, "/free?job_token=secret-token", X_API_Key=ALICE)
        await ask(served, "/free")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [line for line in capsys.readouterr().err.splitlines() if "http.answered" in line]
    assert [('"caller": "alice"' in line, '"caller"' in line) for line in lines] == [(True, True), (False, False)]
    assert not any(ALICE in line or "secret-token" in line for line in lines)


def rule(*, host: str = "127.0.0.1", open_: bool = False, required: bool = False, keys: int = 0) -> bool:
    server = ServerSettings(api_host=host, api_allow_open=open_)
    return keys_required(server, AccessSettings(required=required), key_count=keys)


def test_the_rule_is_the_configurations() -> None:
    """Keys beyond loopback always; on it when asked for, since a proxy there makes everybody local."""
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert not rule(host=host)
        assert not rule(host=host, keys=1)
        assert rule(host=host, keys=1, required=True)
    for host in ("0.0.0.0", "::", "10.0.0.1", "worker.lan"):
        assert rule(host=host, keys=1)
        assert rule(host=host, keys=1, open_=True), "keys are there to be asked for"
        assert not rule(host=host, open_=True)
        with pytest.raises(SettingsError, match="API_HOST="):
            rule(host=host)
    with pytest.raises(SettingsError, match="API_KEYS_REQUIRED"):
        rule(required=True)
