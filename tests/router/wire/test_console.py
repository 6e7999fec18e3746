"""Endpoints and worker groups over ``/api/v0``."""

import json
from typing import Any

import pytest

from tests.fakes.router_world import ACCOUNT, KEY
from tests.router.wire.conftest import OTHER_KEY, TENANT, Start, Talk

REQUIRED = {"endpoint_name", "id", "api_key", "user_id", "created_at"}
"""Without one of these the SDK lists nothing at all."""
PATH = "/api/v0/endptjobs/"


async def listed(talk: Talk, key: str, path: str = PATH) -> list[dict[str, Any]]:
    answer = await talk(f"{path}?client_id=me", method="GET", key=key)
    assert answer["success"] is True
    results: list[dict[str, Any]] = answer["results"]
    return results


async def test_the_operator_lists_endpoints_with_their_keys(talk: Talk) -> None:
    """That is how the SDK gets the key for ``/route/``; no nulls."""
    found = await listed(talk, ACCOUNT)
    assert [(one["endpoint_name"], one["api_key"]) for one in found] == [("ep", KEY), ("other", OTHER_KEY)]
    assert all(set(one) >= REQUIRED and None not in one.values() for one in found)
    assert (found[0]["max_workers"], found[0]["target_util"]) == (16, 0.9)


@pytest.mark.parametrize("key", [KEY, TENANT])
async def test_other_keys_list_their_endpoint_and_no_key_but_their_own(talk: Talk, key: str) -> None:
    """A tenant does not get the endpoint's key."""
    (one,) = await listed(talk, key)
    assert (one["endpoint_name"], one["api_key"]) == ("ep", key)
    assert (await talk(f"{PATH}1/", method="GET", key=key))["result"] == one
    assert (await talk(f"{PATH}2/", method="GET", key=key, status=404))["success"] is False


async def test_the_key_may_be_in_the_query_or_the_body(talk: Talk) -> None:
    """The CLI sends it in the body of a GET."""
    assert (await talk(f"{PATH}?api_key={KEY}", method="GET"))["success"]
    assert (await talk(PATH, {"client_id": "me", "api_key": KEY}, method="GET"))["success"]
    answer = await talk(PATH, method="GET", status=401)
    assert (answer["success"], answer["error"]) == (False, "unauthorized")
    assert "key" in answer["msg"]


async def test_an_endpoint_is_made_used_changed_and_removed(start: Start) -> None:
    """It survives a restart; its key routes at once."""
    talk = await start()
    made = (await talk(PATH, {"endpoint_name": "new", "max_workers": 3, "min_load": None}, key=ACCOUNT))["result"]
    endpoint = (await talk(f"{PATH}{made}/", method="GET", key=ACCOUNT))["result"]
    assert (endpoint["endpoint_name"], endpoint["max_workers"]) == ("new", 3)
    assert (await talk("/route/", {"endpoint": "new", "api_key": endpoint["api_key"]}))["request_idx"]
    await talk(f"{PATH}{made}/", {"max_workers": 5}, method="PUT", key=ACCOUNT)
    await talk.stop()
    talk = await start()
    assert (await listed(talk, ACCOUNT))[-1] == endpoint | {"max_workers": 5}
    await talk(f"{PATH}{made}/", method="DELETE", key=ACCOUNT)
    await talk.stop()
    assert [one["endpoint_name"] for one in await listed(await start(), ACCOUNT)] == ["ep", "other"]


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status"),
    [
        ("POST", "", {"endpoint_name": "new"}, KEY, 403),
        ("POST", "", {"endpoint_name": "ep"}, ACCOUNT, 409),
        ("POST", "", {"endpoint_name": "../x"}, ACCOUNT, 400),
        ("POST", "", {"endpoint_name": "new", "target_util": 7}, ACCOUNT, 400),
        ("PUT", "1/", {"target_util": 7}, ACCOUNT, 400),
        ("PUT", "1/", {"endpoint_state": "suspended"}, ACCOUNT, 400),
        ("PUT", "1/", {"endpoint_name": "renamed"}, ACCOUNT, 400),
        ("PUT", "1/", {"max_workers": 1}, KEY, 403),
        ("DELETE", "1/", None, ACCOUNT, 403),
        ("DELETE", "77/", None, ACCOUNT, 404),
    ],
)
async def test_what_is_refused(talk: Talk, method: str, path: str, body: Any, key: str, status: int) -> None:
    """In the console's form; nothing is changed."""
    before = await listed(talk, ACCOUNT)
    answer = await talk(PATH + path, body, method=method, key=key, status=status)
    assert answer["success"] is False and answer["msg"]
    assert await listed(talk, ACCOUNT) == before


@pytest.mark.parametrize("path", ["/api/v0/workergroups/", "/api/v0/autojobs/"])
async def test_groups_are_listed_made_changed_and_removed(talk: Talk, path: str) -> None:
    """Under both names; the last one stays."""
    found = await listed(talk, KEY, path)
    assert [(one["id"], one["endpoint_id"], one["endpoint_name"]) for one in found] == [(11, 1, "ep"), (12, 1, "ep")]
    body = {"endpoint_id": 2, "search_params": "gpu_name=RTX_4090", "template_hash": "x", "max_workers": 4}
    made = (await talk(path, body, key=ACCOUNT))["id"]
    await talk(f"{path}{made}/", {"max_workers": 2}, method="PUT", key=ACCOUNT)
    groups = {one["id"]: one for one in await listed(talk, OTHER_KEY, path)}
    assert groups[made]["max_workers"] == 2
    for number in groups:
        status = 200 if number == min(groups) else 400
        await talk(f"{path}{number}/", method="DELETE", key=ACCOUNT, status=status)
    assert await listed(talk, TENANT, path) == []


async def test_workers_stay_when_their_group_goes(talk: Talk) -> None:
    """They are asked for by the endpoint."""
    await talk.report(3)
    await talk("/api/v0/workergroups/12/", method="DELETE", key=ACCOUNT)
    assert (await talk.route())["url"] == "http://127.0.0.1:40003"


async def test_workers_go_with_their_endpoint(talk: Talk) -> None:
    """Who makes another one of its name does not get them, before they report to it."""
    made = (await talk(PATH, {"endpoint_name": "new"}, key=ACCOUNT))["result"]
    await talk.report(5, prefix="/e/new")
    assert (await talk("/route/", {"endpoint": "new"}, key=ACCOUNT))["url"]
    await talk(f"{PATH}{made}/", method="DELETE", key=ACCOUNT)
    await talk.report(5, prefix="/e/new", status=404)
    made = (await talk(PATH, {"endpoint_name": "new"}, key=ACCOUNT))["result"]
    assert await talk("/get_endpoint_workers/", {"id": made}, key=ACCOUNT) == []
    await talk.report(5, prefix="/e/new")
    assert (await talk("/route/", {"endpoint": "new"}, key=ACCOUNT))["url"]


async def test_each_has_its_number(talk: Talk) -> None:
    """None is given twice; what is no JSON object is refused."""
    made = [(await talk(PATH, {"endpoint_name": name}, key=ACCOUNT))["result"] for name in ("a", "b")]
    assert len(set(made)) == 2
    assert (await talk(PATH, data=json.dumps("x"), key=ACCOUNT, status=400))["error"] == "invalid_request"
