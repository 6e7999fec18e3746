"""Whatever callers send to the router's protocol, with good keys too, is answered in words: never a defect of ours.

The fixture's end finds what was logged as a defect, also behind an answer that looked well.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.router_process import ACCOUNT_KEY, TOKEN, RouterProcess, router_process

KEY, TENANT, STRANGER = "endpoint-key-0123456789", "studio-key-0123456789ab", "stranger-key-0123456789"
ENDPOINTS: tuple[dict[str, Any], ...] = (
    {
        "name": "ep",
        "api_key": KEY,
        "tenants": [{"name": "studio", "api_keys": [TENANT]}, {"name": "stranger", "api_keys": [STRANGER]}],
    },
    {"name": "other"},
    {"name": "polled"},
)
EXAMPLES = 80
CHECKED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["ep", "other", "\ud800", "\x00", "http://x", "1", "../e"]))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63, 10**30]),
    st.floats(),
    st.sampled_from([1e308, -1e308, 5e-324, float("nan"), float("inf")]),
    TEXTS,
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
ROUTE_FIELDS = ("cost", "request_idx", "replay_timeout", "endpoint", "api_key", "session_id")
ASKED_FIELDS = ("id", "endpoint", "tail", "api_key", "workergroup_id", "cancel_update")
CONSOLE_FIELDS = (
    *("endpoint_name", "endpoint_id", "endpoint_state", "max_workers", "min_load", "target_util", "cold_mult"),
    *("max_queue_time", "target_queue_time", "inactivity_timeout", "search_params", "client_id"),
)
REPORT_FIELDS = (
    *("id", "url", "version", "loadtime", "cur_load", "new_load", "rej_load", "cur_perf", "max_perf", "error_msg"),
    *("num_requests_working", "working_request_idxs", "disk_usage", "gpu_name", "slots", "engines", "draining"),
    *("models", "models_warm", "room", "swap_s", "dialects", "vram_gib", "backlog_s"),
)
ENDED_FIELDS = ("worker_id", "requests", "request_idxs", "success")
CONSOLE = [
    *(("GET", path) for path in ("endptjobs/", "endptjobs/1/", "workergroups/", "autojobs/")),
    *(("POST", path) for path in ("endptjobs/", "workergroups/", "autojobs/")),
    *(("PUT", path) for path in ("endptjobs/1/", "endptjobs/3/", "workergroups/1001/", "autojobs/2001/")),
    *(("DELETE", path) for path in ("endptjobs/1/", "endptjobs/3/", "workergroups/1001/", "autojobs/2002/")),
]
LOOKING = [
    *("/get_endpoint_workers/", "/get_endpoint_logs/", "/get_workergroup_workers/", "/get_autogroup_workers/"),
    *("/get_workergroup_logs/", "/get_autogroup_logs/", "/update_workers/"),
]


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    with router_process(tmp_path_factory.mktemp("router"), *ENDPOINTS, ROUTER_ROUTE_WAIT_S="0") as process:
        process.tell("ep", "/worker_status/", id=1, version="1.1.0", loadtime=1.0, max_perf=50.0, url="http://[::1]:9")
        yield process


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def fields(names: tuple[str, ...], **fixed: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these fields, of any kind, and more of other names."""
    some = st.dictionaries(st.sampled_from(names), VALUES, max_size=len(names))
    more = st.dictionaries(TEXTS, VALUES, max_size=2)
    return st.builds(lambda given, others: others | given | fixed, some, more)


def send(
    http: requests.Session, router: RouterProcess, path: str, body: Any, *, method: str = "POST", key: str = ""
) -> requests.Response:
    """JSON as Python writes it, NaN and halves of characters included."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.request(method, router.url + path, data=data, headers=headers, timeout=100)


@CHECKED
@given(body=fields(ROUTE_FIELDS[:3], endpoint="ep", api_key=KEY))
def test_who_may_route_is_always_answered(router: RouterProcess, http: requests.Session, body: dict[str, Any]) -> None:
    """200 and a number, whatever the figures are: anything else ends the SDK's request."""
    answer = send(http, router, "/route/", body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert isinstance(told["request_idx"], int) and 0 < told["request_idx"] < 2**53
    assert told["endpoint"] == "ep"


@CHECKED
@given(body=fields(ROUTE_FIELDS), key=st.sampled_from([KEY, TENANT, ACCOUNT_KEY, ""]))
def test_any_question_for_a_worker_is_answered(
    router: RouterProcess, http: requests.Session, body: dict[str, Any], key: str
) -> None:
    """A wrong key or endpoint is the only reason to be turned away."""
    assert send(http, router, "/route/", body, key=key).status_code in (200, 401, 404)


@CHECKED
@given(body=fields(REPORT_FIELDS, mtoken=TOKEN), path=st.sampled_from(["/e/ep", "/e/nowhere", ""]))
def test_any_report_is_answered_and_can_be_shown(
    router: RouterProcess, http: requests.Session, body: dict[str, Any], path: str
) -> None:
    """What a worker tells harms nobody who looks at the fleet later."""
    assert send(http, router, f"{path}/worker_status/", body).status_code in (200, 400, 404)
    for question in ("/get_endpoint_workers/", "/get_endpoint_logs/"):
        shown = send(http, router, question, {"id": 1, "tail": 1000}, key=KEY)
        assert shown.status_code == 200 and shown.json() is not None
    assert send(http, router, "/route/", {"endpoint": "ep"}, key=KEY).status_code == 200


ITEMS = st.lists(
    fields(("request_idx", "success", "status", "entered_queue_at", "work_started_at", "work_completed_at")), max_size=4
)


@CHECKED
@given(body=fields(ENDED_FIELDS, mtoken=TOKEN), items=ITEMS, number=st.integers(1, 400))
def test_any_end_of_requests_is_answered(
    router: RouterProcess, http: requests.Session, body: dict[str, Any], items: list[dict[str, Any]], number: int
) -> None:
    """And nothing that is learned from it spoils what comes after."""
    assert send(http, router, "/e/ep/delete_requests/", body).status_code in (200, 400)
    told = {"worker_id": 1, "mtoken": TOKEN, "requests": [*items, *({**item, "request_idx": number} for item in items)]}
    assert send(http, router, "/e/ep/delete_requests/", told).status_code == 200
    assert send(http, router, "/route/", {"endpoint": "ep", "request_idx": number}, key=KEY).status_code == 200


@CHECKED
@given(body=fields(ASKED_FIELDS), path=st.sampled_from(LOOKING), key=st.sampled_from([KEY, ACCOUNT_KEY, TENANT, ""]))
def test_any_look_is_answered(
    router: RouterProcess, http: requests.Session, body: dict[str, Any], path: str, key: str
) -> None:
    """Whoever asks, and for whatever."""
    assert send(http, router, path, body, key=key).status_code in (200, 400, 401, 403, 404)


@CHECKED
@given(body=fields(CONSOLE_FIELDS), call=st.sampled_from(CONSOLE), key=st.sampled_from([ACCOUNT_KEY, KEY, ""]))
def test_the_console_is_not_upset(
    router: RouterProcess, http: requests.Session, body: dict[str, Any], call: tuple[str, str], key: str
) -> None:
    """What it made of it can be listed, and routed to."""
    method, path = call
    answer = send(http, router, f"/api/v0/{path}", body, method=method, key=key)
    assert answer.status_code in (200, 400, 401, 403, 404, 409), answer.text
    assert answer.json()["success"] is (answer.status_code == 200)
    listed = send(http, router, "/api/v0/endptjobs/", {}, method="GET", key=ACCOUNT_KEY).json()["results"]
    assert all(None not in one.values() for one in listed)
    assert send(http, router, "/route/", {"endpoint": "ep"}, key=ACCOUNT_KEY).status_code == 200


PATHS = [*LOOKING, "/route/", "/worker_status/", "/delete_requests/", "/api/v0/endptjobs/", "/api/v0/sign_cert/"]


@CHECKED
@given(data=st.one_of(st.binary(max_size=60), VALUES.map(lambda value: json.dumps(value).encode())))
def test_no_body_is_too_strange(router: RouterProcess, http: requests.Session, data: bytes) -> None:
    """Bytes that are no JSON, and JSON that is no object."""
    for path in PATHS:
        assert send(http, router, path, data, key=TENANT).status_code < 500, path


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("data", "headers", "statuses"),
    [
        (b"[" * 100_000, {}, {400}),
        (b'{"a":' * 20_000, {}, {400}),
        (b"\x1f\x8b garbage", {"Content-Encoding": "gzip"}, {400}),
        (b'{"id": 1' + b"0" * 5000 + b"}", {}, {400, 401, 403, 404}),
        (b"{}", {"Content-Type": "text/html"}, {200, 400, 401, 403, 404}),
    ],
    ids=["nested", "open", "packed", "long", "type"],
)
def test_bodies_that_are_made_to_hurt(
    router: RouterProcess, path: str, data: bytes, headers: dict[str, str], statuses: set[int]
) -> None:
    """Refused or overlooked in words."""
    answer = requests.post(router.url + path, data=data, headers={"X-API-Key": TENANT, **headers}, timeout=100)
    assert answer.status_code in statuses | {401, 403}, answer.text


@pytest.mark.parametrize(
    ("path", "size"), [("/route/", 300_000), ("/api/v0/sign_cert/", 300_000), ("/worker_status/", 9_000_000)]
)
def test_bodies_that_are_too_large(router: RouterProcess, path: str, size: int) -> None:
    """Refused by what was announced, and by what came."""
    data = b'{"x": "' + b"y" * size + b'"}'
    assert requests.post(router.url + path, data=data, timeout=100).status_code == 413
    assert requests.post(router.url + path, data=iter([data[:1000], data[1000:]]), timeout=100).status_code == 413


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_a_number_of_somebody_else_opens_nothing(router: RouterProcess, http: requests.Session) -> None:
    """Other tenants, keys and endpoints get a number of their own, and its owner keeps its."""
    own = send(http, router, "/route/", {"endpoint": "ep"}, key=TENANT).json()["request_idx"]
    for key, endpoint in ((STRANGER, "ep"), (KEY, "ep"), (ACCOUNT_KEY, "other")):
        asked = {"endpoint": endpoint, "request_idx": own}
        assert send(http, router, "/route/", asked, key=key).json()["request_idx"] != own
    assert (
        send(http, router, "/route/", {"endpoint": "ep", "request_idx": own}, key=TENANT).json()["request_idx"] == own
    )
    assert requests.get(f"{router.url}/explain/{own}", headers={"X-API-Key": STRANGER}, timeout=100).status_code == 404


def test_thousands_of_polls_are_one_request(router: RouterProcess) -> None:
    """From many connections at once: each is answered, by the same number, and counts as one that waits."""
    asked = {"endpoint": "polled", "api_key": ACCOUNT_KEY}
    number = requests.post(f"{router.url}/route/", json=asked, timeout=100).json()["request_idx"]

    def poll(times: int) -> set[int]:
        with requests.Session() as session:
            polls = (
                session.post(f"{router.url}/route/", json=asked | {"request_idx": number}, timeout=100)
                for _ in range(times)
            )
            return {answer.json()["request_idx"] for answer in polls if answer.status_code == 200}

    with ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(poll, [250] * 8)) == {number}
    assert router.waiting("polled") == 1
