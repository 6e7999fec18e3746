"""Our worker behind our router, both as processes, a fake ComfyUI behind: what a router relays, and what it is told."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from lib.protocol.ticket import TICKET_HEADER, TicketKey, new_ticket_key
from router.signing import FILE, load_signing_key
from tests.fakes.comfyui_nodes import MODELS, image_png
from tests.integration.doors import fake_engines, fleet_settings, reports
from tests.integration.harness import WorkerProcess, autoscaler, calling, held, picture, slow, worker
from tests.integration.router_process import ACCOUNT_KEY, TOKEN, RouterProcess, router_process

BASE = "https://router.example/w/ep/7"
PNG = b"\x89PNG\r\n\x1a\n"
MINE, OTHERS = "ep/studio", "ep/lab"


@dataclass
class Relay:
    """Calls the worker as the router's relay does."""

    process: WorkerProcess
    issuer: TicketKey
    number: int
    signatures: bool
    """Whether they open the worker too."""

    def ticket(self, **changes: Any) -> str:
        fields = {"url": self.process.public, "request_idx": 0, "sub": MINE, "base": BASE, "life_s": 60.0}
        return self.issuer.issue(**{**fields, "now": time.time(), **changes})

    def call(self, method: str, path: str, *, ticket: str | None = None, **options: Any) -> requests.Response:
        headers = {TICKET_HEADER: self.ticket() if ticket is None else ticket, **options.pop("headers", {})}
        return requests.request(
            method, f"{self.process.public}/relay{path}", headers=headers, **{"timeout": 30, **options}
        )

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return self.call("POST", path, json=body, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)


def asked(graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A body of the API wrapper."""
    return {"input": {"workflow_json": graph, **fields}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("relay")


@pytest.fixture(scope="module")
def router(place: Path) -> Iterator[RouterProcess]:
    with router_process(place, "ep") as process:
        yield process


@pytest.fixture(scope="module", params=[7, 8], ids=["signatures", "tickets"])
def relay(request: pytest.FixtureRequest, router: RouterProcess, place: Path) -> Iterator[Relay]:
    """A worker that reports to the router; with and without ``TICKETS_REQUIRED`` nothing differs here."""
    number, required = request.param, request.param == 8
    folder = place / f"worker-{number}"
    folder.mkdir()
    settings = fleet_settings(folder, f"{router.url}/e/ep") | {"MASTER_TOKEN": TOKEN, "CONTAINER_ID": str(number)}
    with fake_engines(folder / "comfyui") as (engine,):
        settings |= {"COMFYUI_BACKENDS": engine.base_url, "TICKETS_REQUIRED": str(required)}
        with worker(folder, **settings) as process:
            process.public = f"http://127.0.0.1:{settings['WORKER_PORT']}"
            issuer = new_ticket_key(load_signing_key(place / "state" / FILE), now=time.time(), life_s=3600)
            yield Relay(process, issuer, number=number, signatures=not required)


def test_links_lead_through_the_router(relay: Relay) -> None:
    """Every link of an answer begins with the ticket's base, and opens what it names here, in parts too."""
    done = relay.post("/generate/sync", asked(picture(1)))
    assert done.status_code == 200, done.text
    (output,) = done.json()["output"]
    assert output["url"].startswith(f"{BASE}/outputs/")
    path = output["url"].removeprefix(BASE)
    whole = relay.get(path, ticket=relay.ticket(sub=""))
    assert whole.status_code == 200 and whole.content.startswith(PNG)
    part = relay.get(path, ticket=relay.ticket(sub=""), headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, PNG)
    assert requests.get(relay.process.public + path, timeout=60).content == whole.content
    accepted = relay.post("/generate", asked(picture(2)))
    assert accepted.status_code == 202
    links = [accepted.json()[name] for name in ("status_url", "stream_url", "cancel_url")]
    assert all(link.startswith(f"{BASE}/") for link in [*links, accepted.headers["Location"]])
    assert relay.get(f"{links[0].removeprefix(BASE)}&wait=20", ticket=relay.ticket(sub="")).status_code == 200


def test_a_stream_is_relayed_as_it_comes(relay: Relay, gate: Path) -> None:
    """Events arrive while the job runs."""
    with relay.post("/generate/stream", asked(held(gate, color=3)), stream=True) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines)
        gate.touch()
        text = "\n".join(line.decode() for line in lines)
    assert f"{BASE}/outputs/" in text and BASE in text


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/generate/sync", {"id", "status", "message"}),
        ("/v2/ep/runsync", {"error", "code"}),
        ("/prompt", {"statusCode", "error", "message"}),
        ("/inputs", {"error", "message", "request_id"}),
        ("/cancel/nobody", {"id", "status", "message"}),
        ("/nothing", {"error", "message", "request_id"}),
    ],
)
def test_without_a_good_ticket_nobody_gets_in(relay: Relay, path: str, keys: set[str]) -> None:
    """The answer is 401 in the form of the API that was called, and says what to do."""
    spent = relay.ticket()
    relay.get("/jobs", ticket=spent)
    elsewhere, over = relay.ticket(url="http://10.0.0.9:1"), relay.ticket(now=time.time() - 3600)
    for ticket in ("", "nonsense", spent, elsewhere, over):
        refused = relay.post(path, asked(picture()), ticket=ticket)
        assert refused.status_code == 401, refused.text
        assert keys <= set(refused.json())
        assert "rout" in refused.text or "ask" in refused.text or "ticket" in refused.text


def test_nothing_is_read_from_who_shows_no_ticket(relay: Relay) -> None:
    """A large body is refused before it is sent."""
    place = urlsplit(relay.process.public)
    head = f"POST /relay/generate/sync HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: 100000000\r\n\r\n".encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 401 ")


def test_a_ticket_without_a_tenant_opens_no_jobs(relay: Relay) -> None:
    """Those of direct mode are for the envelope: with them the API would be the operator's."""
    for method, path in (("GET", "/jobs"), ("POST", "/generate"), ("GET", "/queue-info")):
        refused = relay.call(method, path, ticket=relay.ticket(sub=""), json=asked(picture()))
        assert refused.status_code == 401, path


@pytest.mark.parametrize("sub", ["../x", "a//b/c/d/e", "a/../b", "x" * 300, "a b"])
def test_tenants_have_names_that_may_be_folders(relay: Relay, sub: str) -> None:
    """They are parts of keys in buckets."""
    assert relay.get("/jobs", ticket=relay.ticket(sub=sub)).status_code == 401


def test_tenants_do_not_see_each_other(relay: Relay) -> None:
    """Jobs and their names are a tenant's own; the operator sees all of them on the API listener."""
    name = "same-name"
    jobs = {}
    for sub in (MINE, OTHERS):
        done = relay.post("/generate/sync", asked(picture(4), request_id=name), ticket=relay.ticket(sub=sub))
        assert done.status_code == 200, done.text
        page = relay.get("/jobs?limit=1", ticket=relay.ticket(sub=sub)).json()["jobs"]
        jobs[sub] = page[0]["job_id"]
    assert jobs[MINE] != jobs[OTHERS]
    assert relay.get(f"/result/{jobs[OTHERS]}").status_code == 404
    assert relay.post(f"/cancel/{jobs[OTHERS]}", {}).status_code == 404
    assert relay.process.get(f"/result/{jobs[OTHERS]}").status_code == 200


def test_what_is_the_operators_is_not_there(relay: Relay) -> None:
    """Whatever keys a caller brings along."""
    for path in ("/metrics", "/internal/live", "/docs", "/nothing"):
        assert relay.get(path, headers={"Authorization": "Bearer x"}).status_code == 404, path
    assert relay.get("/healthz").json() == {"status": "alive"}


def test_runpods_routes_are_relayed(relay: Relay) -> None:
    """Under their own paths; a job is there for its tenant alone."""
    body = {"input": {"workflow": picture(5)}}
    done = relay.post("/v2/ep/runsync", body)
    assert (done.status_code, done.json()["status"]) == (200, "COMPLETED"), done.text
    started = relay.post("/v2/ep/run", body).json()["id"]
    status = relay.get(f"/v2/ep/status-sync/{started}?wait=20000").json()
    assert status["status"] == "COMPLETED"
    others = relay.get(f"/v2/ep/status/{started}", ticket=relay.ticket(sub=OTHERS))
    assert others.status_code == 404


def test_salads_routes_are_relayed(relay: Relay) -> None:
    """The picture is in the answer."""
    done = relay.post("/prompt", {"prompt": picture(6)})
    assert done.status_code == 200, done.text
    assert done.json()["images"]
    missing = relay.post("/workflow/nothing", {"input": {}})
    assert (missing.status_code, missing.json()["message"]) == (404, "Route POST:/workflow/nothing not found")


def test_files_are_uploaded_through_it(relay: Relay) -> None:
    """As multipart beforehand, and used by the tenant's own job; nobody else can name them."""
    files = {"file": ("mine.png", image_png(8, 8, 9), "image/png")}
    saved = relay.call("POST", "/inputs", files=files, headers={"X-Pyworker-Multipart": "1"})
    assert saved.status_code == 201, saved.text
    reference = saved.json()["inputs"][0]["reference"]
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": reference}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "it/up"}},
    }
    assert relay.post("/generate/sync", asked(graph)).status_code == 200
    theirs = relay.post("/generate/sync", asked(graph), ticket=relay.ticket(sub=OTHERS))
    assert theirs.status_code == 422


def test_a_request_may_bring_its_files_along(relay: Relay) -> None:
    """In one multipart body, as on the API listener."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "upload://photo"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "it/photo"}},
    }
    files = {"request": (None, json.dumps(asked(graph))), "photo": ("p.png", image_png(8, 8, 10), "image/png")}
    done = relay.call("POST", "/generate/sync", files=files, headers={"X-Pyworker-Multipart": "1"})
    assert done.status_code == 200, done.text
    refused = relay.call("POST", "/generate/sync", files=files, headers={"X-Pyworker-Multipart": "1"}, ticket="")
    assert refused.status_code == 401


def test_what_is_too_large_is_too_large_here_too(relay: Relay) -> None:
    """By its announced length, and the answer is the dialect's."""
    place = urlsplit(relay.process.public)
    head = (
        f"POST /relay/prompt HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        f"{TICKET_HEADER}: {relay.ticket()}\r\nContent-Length: 9000000000\r\n\r\n"
    )
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"statusCode" in answer


def test_many_at_once(relay: Relay) -> None:
    """Each with its own ticket, over any connection."""

    def one(number: int) -> int:
        return relay.post("/generate/sync", asked(picture(100 + number))).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(24))) == {200}


def test_the_router_knows_its_own(relay: Relay, router: RouterProcess) -> None:
    """Its worker tells more than Vast's report, so a route has a ticket, and that opens the worker."""
    relay.process.wait_for(lambda: router.workers("ep").get(relay.number, {}).get("status") == "idle", "idle")
    route = router.call("/route/", endpoint="ep", api_key=ACCOUNT_KEY, cost=100, request_idx=0)
    assert route["url"] == relay.process.public and "ticket" in route
    envelope = {"auth_data": route, "session_id": None, "payload": asked(picture(30))}
    for status in (200, 200 if relay.signatures else 401):
        done = requests.post(f"{route['url']}/generate/sync", json=envelope, timeout=60)
        assert done.status_code == status, done.text


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, str]]:
    """A worker and the autoscaler that records what it is told, as a router of ours."""
    folder = tmp_path_factory.mktemp("told")
    key = load_signing_key(folder / FILE)
    with fake_engines(folder / "comfyui") as (engine,), autoscaler("--ours", str(folder / FILE)) as url:
        settings = fleet_settings(folder, url) | {"COMFYUI_BACKENDS": engine.base_url}
        with worker(folder, **settings) as process:
            process.public = f"http://127.0.0.1:{settings['WORKER_PORT']}"
            issuer = new_ticket_key(key, now=time.time(), life_s=3600)
            yield Relay(process, issuer, number=7, signatures=True), url


def sampled() -> dict[str, Any]:
    """A picture by the checkpoint."""
    loaded = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": MODELS[0]}}}
    return loaded | {
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["1", 1]}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "seed": "__RANDOM_INT__", "steps": 1, "cfg": 8, "sampler_name": "euler", "scheduler": "normal",
                "denoise": 1, "model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["2", 0],
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "it/sampled"}},
    }  # fmt: skip


def test_a_relayed_job_is_told_under_its_number(told: tuple[Relay, str], gate: Path) -> None:
    """In reports while it runs, and when it is over, with its model resident from then on."""
    relay, url = told
    number = 5_000_001
    accepted = relay.post("/generate", asked(held(gate, color=32)), ticket=relay.ticket(request_idx=number))
    assert accepted.status_code == 202
    relay.process.wait_for(lambda: number in reports(url)[-1]["working_request_idxs"], "in a report")
    gate.touch()
    relay.process.wait_for(lambda: (number, "Success") in outcomes(url), "told")
    for sequel in (1, 2):  # the first one loads the model
        done = relay.post("/generate/sync", asked(sampled()), ticket=relay.ticket(request_idx=number + sequel))
        assert done.status_code == 200, done.text
    relay.process.wait_for(lambda: set(reports(url)[-1].get("swap_s", ())) == {MODELS[0]}, "timed")
    last = reports(url)[-1]
    assert (last["slots"], last["engines"], last["room"]) == (2, 1, 1)
    assert last["models"] == last["models_warm"] == [MODELS[0]]
    assert {"vast", "wrapper", "runpod", "salad"} == set(last["dialects"])
    assert "slots" not in reports(url)[0]
    relay.process.wait_for(lambda: (number + 2, "Success") in outcomes(url), "told")


def test_who_leaves_cancels_what_he_waited_for(told: tuple[Relay, str]) -> None:
    """The router's connection stands for its caller's."""
    relay, url = told
    number = 5_000_009
    headers = {TICKET_HEADER: relay.ticket(request_idx=number)}
    with calling(f"{relay.process.public}/relay/generate/sync", asked(slow(60.0)), headers=headers):
        relay.process.wait_for(lambda: number in reports(url)[-1]["working_request_idxs"], "in a report")
    relay.process.wait_for(lambda: (number, "Cancelled") in outcomes(url), "told")


def outcomes(url: str) -> list[tuple[int, str]]:
    """Numbers that are free, and why."""
    deletes = requests.get(f"{url}/recorded/", timeout=60).json()["deletes"]
    return [(item["request_idx"], item["status"]) for body in deletes for item in body["requests"]]


def test_a_relayed_job_can_be_cancelled(relay: Relay, gate: Path) -> None:
    """By its tenant, while it runs."""
    accepted = relay.post("/generate", asked(held(gate, color=31)), ticket=relay.ticket(request_idx=5_000_000))
    assert accepted.status_code == 202
    ended = relay.post(f"/cancel/{accepted.json()['job_id']}", {})
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled"), ended.text
