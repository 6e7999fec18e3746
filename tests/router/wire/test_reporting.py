"""What workers of any age tell."""

from typing import Any

import pytest

from lib.errors import InvalidRequest
from lib.protocol.status import RequestOutcome
from router.wire.reporting import ended_in
from tests.fakes.router_world import ACCOUNT, KEY, TOKEN
from tests.router.wire.conftest import Talk


async def workers(talk: Talk, number: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await talk("/get_endpoint_workers/", {"id": number, "api_key": ACCOUNT})
    return found


def item(request_idx: int, status: str, **changes: Any) -> dict[str, Any]:
    fields = {"request_idx": request_idx, "success": status in ("Success", "Cancelled"), "status": status}
    return fields | {"entered_queue_at": 1.0, "work_started_at": 2.0, "work_completed_at": 3.0} | changes


async def test_the_endpoint_is_told_by_path_or_by_number(talk: Talk) -> None:
    """``/e/<name>`` of REPORT_ADDR; or a CONTAINER_ID that the configuration names."""
    await talk.report(7, prefix="/e/other")
    await talk.report(3, prefix="")
    assert [one["id"] for one in await workers(talk, 2)] == [7]
    assert [(one["id"], one["group"]) for one in await workers(talk)] == [(3, "h")]


async def test_a_worker_of_nowhere_is_told_what_to_do(talk: Talk) -> None:
    """Two endpoints, and nothing says which."""
    assert "REPORT_ADDR" in (await talk.report(9, prefix="", status=404))["error"]


async def test_a_worker_without_our_token_is_turned_away(talk: Talk) -> None:
    """And leaves no trace."""
    await talk.report(1, mtoken="somebody-else", status=401)
    await talk("/e/ep/delete_requests/", {"worker_id": 1, "mtoken": "", "requests": []}, status=401)
    assert await workers(talk) == []


async def test_a_boot_failure_is_a_report_of_few_fields(talk: Talk) -> None:
    """As ``start_server.sh`` sends it."""
    body = {"id": 1, "mtoken": TOKEN, "version": "1", "error_msg": "no disk left", "url": ""}
    await talk("/e/ep/worker_status/", body)
    (one,) = await workers(talk)
    assert (one["status"], one["error_msg"]) == ("error", "no disk left")


@pytest.mark.parametrize("data", ["", "[]", '{"id": null}', '{"id": true}', "{", '{"id": -1}', "[" * 5000])
async def test_what_is_no_report_is_refused(talk: Talk, data: str) -> None:
    """In a sentence."""
    assert (await talk("/worker_status/", data=data, status=400))["error"]


async def test_numbers_that_are_none_do_no_harm(talk: Talk) -> None:
    """Python writes NaN and Infinity; a worker of such a speed gets nothing."""
    await talk("/e/ep/worker_status/", data=f'{{"id": 1, "mtoken": "{TOKEN}", "max_perf": NaN, "cur_load": Infinity}}')
    (one,) = await workers(talk)
    assert (one["perf"], one["cur_load"]) == (0.0, 0.0)
    assert "url" not in await talk.route()


async def test_a_finished_request_makes_room(talk: Talk) -> None:
    """A worker that takes nothing more while it works is named again when it is done."""
    await talk.report(1, slots=1)
    first = await talk.route()
    assert "url" not in await talk.route()
    done = {"worker_id": 1, "mtoken": TOKEN, "requests": [item(first["request_idx"], "Success")]}
    await talk("/e/ep/delete_requests/", done)
    assert "url" in await talk.route()


async def test_the_older_shape_of_the_same(talk: Talk) -> None:
    """2025-10 to 2026-04: numbers, and one outcome for all."""
    await talk.report(1, slots=1)
    first = await talk.route()
    body = {"worker_id": 1, "mtoken": TOKEN, "request_idxs": [first["request_idx"]], "success": True}
    await talk("/e/ep/delete_requests/", body)
    assert "url" in await talk.route()


async def test_a_worker_ends_no_request_of_another(talk: Talk) -> None:
    """Its word counts for what it has."""
    await talk.report(1, slots=1)
    first = await talk.route()
    foreign = {"worker_id": 2, "mtoken": TOKEN, "requests": [item(first["request_idx"], "Success")]}
    await talk("/e/ep/delete_requests/", foreign)
    assert "url" not in await talk.route()


def test_outcomes_are_read_as_they_are_told() -> None:
    """An unknown status goes by ``success``; what has no number is left out."""
    told = [item(1, "Rejected"), item(2, "Success"), item(3, "Odd"), item(4, "Odd", success=True), {"status": "Error"}]
    assert [(one.request_idx, one.status) for one in ended_in({"requests": [*told, 5]})] == [
        (1, RequestOutcome.REJECTED),
        (2, RequestOutcome.SUCCESS),
        (3, RequestOutcome.ERROR),
        (4, RequestOutcome.SUCCESS),
    ]


def test_outcomes_of_the_older_shape() -> None:
    """Without ``success`` (the first days) all went well."""
    assert [one.status for one in ended_in({"request_idxs": [1, True, "x"]})] == [RequestOutcome.SUCCESS]
    assert [one.status for one in ended_in({"request_idxs": [1], "success": False})] == [RequestOutcome.ERROR]
    with pytest.raises(InvalidRequest):
        ended_in({})


async def test_our_workers_know_a_router_of_ours(talk: Talk) -> None:
    """By a header that others overlook."""
    async with talk.http.get(f"{talk.url}/e/ep/pubkey/") as response:
        assert response.headers["X-Pyworker-Router"] == "1"
        assert response.content_type == "text/plain"


async def test_the_key_of_an_endpoint_is_no_workers_token(talk: Talk) -> None:
    """Clients can't pose as workers."""
    await talk.report(1, mtoken=KEY, status=401)
