"""RunPod's HTTP API as a contract: paths, methods, states, waits, policy, errors. On a real ComfyUI."""

import base64
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.fakes.http_hosts import png
from tests.integration.doors import FakeEngine, fake_engines
from tests.integration.harness import START_TIMEOUT_S, WorkerProcess, held, picture
from tests.integration.runpod import JSON, Endpoint, busy, endpoint, failing, loading, quickest, request, wait_idle

pytestmark = pytest.mark.comfyui
ALICE, BOB = "the-key-of-alice-for-tests", "the-key-of-bob-for-tests"
PREFIXES = ("", "/v2/any", "/v2/x4f9-another_id")
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
CANCEL_S = 3.0
"""So long the clients wait for an answer to cancel."""


@pytest.fixture(scope="module")
def api(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """With keys of two tenants; who shows none is the operator."""
    keys = f"alice:{ALICE},bob:{BOB}"
    with endpoint(tmp_path_factory.mktemp("runpod-api"), real_comfyui.base_url, API_KEYS=keys) as made:
        yield made


@pytest.fixture(scope="module")
def narrow(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """With room for two jobs, for small bodies and small files."""
    limits = {"MAX_QUEUE_SIZE": "2", "MAX_BODY_BYTES": "50000", "OUTPUT_BASE64_MAX_BYTES": "1000"}
    with endpoint(tmp_path_factory.mktemp("runpod-narrow"), real_comfyui.base_url, **limits) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(real_comfyui: RealComfyUI) -> Iterator[None]:
    """No test leaves work on the GPU."""
    yield
    wait_idle(real_comfyui)


def tallied(text: str) -> dict[str, Any]:
    """A picture whose execution leaves a line in ComfyUI's tally."""
    graph = picture(5, prefix="runpod/tally")
    graph["9"] = {"class_type": "HWTally", "inputs": {"image": ["1", 0], "text": text}}
    graph["2"]["inputs"]["images"] = ["9", 0]
    return graph


# -- paths and methods --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
def test_operations_are_there_by_every_path(api: Endpoint, prefix: str) -> None:
    """Bare as RunPod's local server has them, and under ``/v2`` with any endpoint id; both see the same jobs."""
    here = api.at(prefix)
    job_id = here.run(picture(60))
    assert re.fullmatch(f"{UUID}-[a-z][0-9]", job_id)
    done = api.final(job_id)
    assert done["status"] == "COMPLETED"
    for path in ("status", "status-sync"):
        assert here.get(f"/{path}/{job_id}") == here.post(f"/{path}/{job_id}") == done
    assert here.post("/runsync", request(picture(61)))["status"] == "COMPLETED"
    assert here.post(f"/cancel/{job_id}")["status"] == "COMPLETED"
    assert here.post("/purge-queue") == {"removed": 0, "status": "completed"}
    assert {"jobs", "workers"} <= set(here.get("/health"))
    assert here.ask("GET", "/requests").status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_stream_by_both_methods(api: Endpoint, prefix: str, method: str) -> None:
    """A finished job: its output once, then nothing more; ``stream`` is a list each time."""
    job_id = api.run(picture(62))
    output = api.final(job_id)["output"]
    first, second = (api.at(prefix).ask(method, f"/stream/{job_id}").json() for _ in range(2))
    assert first["status"] == second["status"] == "COMPLETED"
    assert [chunk["output"] for chunk in first["stream"]] == [output]
    assert second["stream"] == []


@pytest.mark.parametrize("sent", [None, b"", b"{}", b"{ not json", b"null"], ids=repr)
def test_what_needs_no_body_looks_at_none(api: Endpoint, sent: bytes | None) -> None:
    """Clients send a type and no content, an empty object, or anything."""
    job_id = api.run(picture(63))
    api.final(job_id)
    for path in (
        f"/status/{job_id}",
        f"/status-sync/{job_id}",
        f"/stream/{job_id}",
        f"/cancel/{job_id}",
        "/purge-queue",
    ):
        assert api.ask("POST", path, data=sent, headers=JSON).status_code == 200, path


def test_health_counts(api: Endpoint, gate: Path) -> None:
    """RunPod's document, nothing else in it, integers; the worker is either free or busy."""
    wait = api.process.wait_for
    wait(lambda: api.get("/health")["workers"]["idle"] == 1, "idle")
    free = api.get("/health")
    assert free["workers"] == {"idle": 1, "initializing": 0, "ready": 1, "running": 0, "throttled": 0, "unhealthy": 0}
    assert set(free) == {"jobs", "workers"}
    running, waiting = api.run(held(gate)), api.run(picture(64))
    api.until(running, "IN_PROGRESS")
    at_work = api.get("/health")
    assert (at_work["workers"]["running"], at_work["workers"]["idle"]) == (1, 0)
    assert (at_work["jobs"]["inProgress"], at_work["jobs"]["inQueue"]) == (1, 1)
    for job_id in (waiting, running):
        api.post(f"/cancel/{job_id}")
    wait(lambda: api.get("/health")["workers"]["idle"] == 1, "idle again")
    api.output(picture(65))
    assert api.final(api.run(failing()))["status"] == "FAILED"
    after = api.get("/health")["jobs"]
    assert (after["completed"], after["failed"]) == (free["jobs"]["completed"] + 1, free["jobs"]["failed"] + 1)


# -- waiting ------------------------------------------------------------------------------------------------------


def test_status_sync_waits_as_long_as_it_is_told(api: Endpoint, gate: Path) -> None:
    """It answers with what there is when the time is over, and at once when the job is."""
    job_id = api.run(held(gate))
    answer, took_s = quickest(lambda: api.get(f"/status-sync/{job_id}?wait=1000"), 2.5)
    assert answer["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert 0.9 < took_s < 2.5
    with ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        waiting = pool.submit(api.get, f"/status-sync/{job_id}?wait=85000")
        gate.touch()
        assert waiting.result()["status"] == "COMPLETED"
    assert time.monotonic() - begun < 80
    over, took_s = quickest(lambda: api.get(f"/status-sync/{job_id}?wait=60000"), 1)
    assert (over["status"], took_s < 1) == ("COMPLETED", True)


@pytest.mark.parametrize("wait", ["1000", "1", "0"])
def test_runsync_waits_a_second_at_least(api: Endpoint, gate: Path, wait: str) -> None:
    """Not final yet: id and state, nothing else of note; the job goes on and is found by its id."""
    colors = itertools.count(1)
    ask = lambda: api.post(f"/runsync?wait={wait}", request(held(gate, color=next(colors))))  # noqa: E731
    answer, took_s = quickest(ask, 2.5)
    assert 0.9 < took_s < 2.5
    assert answer["id"].startswith("sync-")
    assert answer["status"] == "IN_PROGRESS"
    gate.touch()
    assert api.final(answer["id"])["status"] == "COMPLETED"


@pytest.mark.parametrize("wait", ["soon", "1e3", "-5", "NaN", "9" * 400])
def test_a_wait_that_is_no_number(api: Endpoint, wait: str) -> None:
    """Either the usual wait or a refusal that says why; never a crash."""
    job_id = api.run(picture(66))
    api.final(job_id)
    reply = api.ask("GET", f"/status-sync/{job_id}?wait={wait}")
    assert reply.status_code in (200, 400)
    assert reply.json()["status"] in ("COMPLETED", "FAILED")


def test_a_stream_holds_the_request_until_there_is_news(api: Endpoint, gate: Path) -> None:
    """Its job waits behind another one: an empty list after the time, which is well below the clients' 10 s."""
    running, waiting = api.run(held(gate)), api.run(picture(67))
    api.until(running, "IN_PROGRESS")
    for query, least, most in (("?wait=700", 0.6, 2.5), ("", 4.0, 7.0)):
        answer, took_s = quickest(lambda query=query: api.get(f"/stream/{waiting}{query}"), most)
        assert least < took_s < most
        assert (answer["status"], answer["stream"]) == ("IN_QUEUE", [])
    gate.touch()
    assert api.final(waiting)["status"] == "COMPLETED"


def test_progress_in_status_and_stream(api: Endpoint) -> None:
    """While it runs ``output`` says how far it is; the stream gives each piece of news once."""
    job_id = api.run(busy(6))
    api.process.wait_for(lambda: "output" in api.get(f"/status/{job_id}"), "in progress")
    shown = api.get(f"/status/{job_id}")
    assert shown["status"] == "IN_PROGRESS"
    assert set(shown["output"]) == {"type", "value", "max", "percent", "node"}
    assert shown["output"]["type"] == "progress"
    chunks: list[Any] = []
    while (answer := api.get(f"/stream/{job_id}"))["status"] not in ("COMPLETED", "FAILED") or answer["stream"]:
        chunks += [chunk["output"] for chunk in answer["stream"]]
        assert len(chunks) < 30
    assert chunks[-1] == api.final(job_id)["output"]
    told = [(chunk["node"], chunk["value"]) for chunk in chunks[:-1]]
    assert told
    assert len(set(told)) == len(told)


# -- policy -------------------------------------------------------------------------------------------------------


def test_execution_timeout_and_ttl(api: Endpoint, real_comfyui: RealComfyUI) -> None:
    """The first is stopped after its 5 s and TIMED_OUT; the second, which ran then, is forgotten 20 s after it came."""
    begun = time.monotonic()
    first = api.run(busy(60), policy={"executionTimeout": 5000})
    second = api.run(busy(60), policy={"ttl": 20_000})
    over = api.final(first)
    assert over["status"] == "TIMED_OUT"
    assert "5" in over["error"]
    assert 4.5 < time.monotonic() - begun < 15
    assert 4500 < over["executionTime"] < 15_000
    assert api.status(second) in ("IN_QUEUE", "IN_PROGRESS")
    gone = lambda: api.ask("GET", f"/status/{second}").status_code == 404  # noqa: E731
    api.process.wait_for(gone, "forgotten", 40)
    assert 19.5 < time.monotonic() - begun < 50
    wait_idle(real_comfyui)


def test_status_with_ttl_shortens_its_life(api: Endpoint) -> None:
    """``?ttl=`` of a status: the answer, and 404 some time later."""
    job_id = api.run(picture(68))
    api.final(job_id)
    assert api.get(f"/status/{job_id}?ttl=500")["status"] == "COMPLETED"
    api.process.wait_for(lambda: api.ask("GET", f"/status/{job_id}").status_code == 404, "forgotten", 100)


def test_low_priority_goes_last(api: Endpoint, real_comfyui: RealComfyUI, gate: Path) -> None:
    """A job of low priority gets a turn when nobody else waits."""
    tally = real_comfyui.folder / "user" / "tally.log"
    tally.unlink(missing_ok=True)
    running = api.run(held(gate))
    api.until(running, "IN_PROGRESS")
    low = [api.run(tallied(f"low {number}"), policy={"lowPriority": True}) for number in range(2)]
    usual = [api.run(tallied(f"usual {number}")) for number in range(2)]
    gate.touch()
    for job_id in (*low, *usual):
        assert api.final(job_id)["status"] == "COMPLETED"
    order = tally.read_text().splitlines()
    assert sorted(order) == ["low 0", "low 1", "usual 0", "usual 1"]
    assert order[-1] == "low 1"
    assert order.index("usual 1") < order.index("low 1")


@pytest.mark.parametrize(
    "policy",
    [{"executionTimeout": "soon"}, {"ttl": -1}, {"ttl": 10**30}, {"lowPriority": "perhaps"}, [], "x"],
    ids=repr,
)
def test_a_policy_that_is_none(api: Endpoint, policy: Any) -> None:
    """Nonsense is refused in as many words, or brought into its range; the worker is well either way."""
    reply = api.ask("POST", "/run", json=request(picture(69), policy=policy))
    if reply.status_code == 200:
        assert api.final(reply.json()["id"])["status"] == "COMPLETED"
    else:
        assert reply.status_code == 400
        assert "policy" in reply.json()["error"]


# -- cancel, retry, purge -----------------------------------------------------------------------------------------


def cancelled_in_time(api: Endpoint, graph: Callable[[], dict[str, Any]]) -> str:
    """Run something and cancel it; give its id."""

    def cancel() -> None:
        answer = api.post(f"/cancel/{job_ids[-1]}")
        assert (answer["id"], answer["status"]) == (job_ids[-1], "CANCELLED")

    job_ids: list[str] = []
    for _ in range(3):  # a machine may be busy once or twice
        job_ids.append(api.run(graph()))
        api.until(job_ids[-1], "IN_PROGRESS")
        begun = time.monotonic()
        cancel()
        if time.monotonic() - begun < CANCEL_S:
            return job_ids[-1]
    raise AssertionError(f"it takes longer than {CANCEL_S:g} s")


def test_cancel_reaches_the_gpu(api: Endpoint, real_comfyui: RealComfyUI) -> None:
    """Within the clients' 3 s, and ComfyUI has nothing to do soon after; the state stays."""
    job_id = cancelled_in_time(api, lambda: busy(60))
    wait_idle(real_comfyui, 30)
    assert api.final(job_id)["status"] == "CANCELLED"
    assert api.post(f"/cancel/{job_id}")["status"] == "CANCELLED"


def test_cancel_answers_before_a_deaf_node_does(api: Endpoint) -> None:
    """A node that hears no interrupt for 5 s: the answer comes all the same, and the state never goes back."""
    graph = picture(70) | {"3": {"class_type": "HWSleep", "inputs": {"image": ["1", 0], "seconds": 5.0}}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    job_id = cancelled_in_time(api, lambda: graph)
    assert api.status(job_id) == "CANCELLED"
    assert api.final(job_id)["status"] == "CANCELLED"


def test_a_waiting_job_is_cancelled(api: Endpoint, real_comfyui: RealComfyUI, gate: Path) -> None:
    """It never runs; the one before it does not notice."""
    tally = real_comfyui.folder / "user" / "tally.log"
    tally.unlink(missing_ok=True)
    running = api.run(held(gate))
    waiting = [api.run(tallied(f"waiting {number}")) for number in range(2)]
    for job_id in waiting:
        assert api.post(f"/cancel/{job_id}")["status"] == "CANCELLED"
    gate.touch()
    assert api.final(running)["status"] == "COMPLETED"
    assert not tally.exists()


def test_purge_leaves_what_runs(api: Endpoint, gate: Path) -> None:
    """Only what waits is removed; it is cancelled then."""
    running = api.run(held(gate))
    api.until(running, "IN_PROGRESS")
    waiting = [api.run(picture(71)) for _ in range(3)]
    assert api.post("/purge-queue") == {"removed": 3, "status": "completed"}
    assert [api.final(job_id)["status"] for job_id in waiting] == ["CANCELLED"] * 3
    gate.touch()
    assert api.final(running)["status"] == "COMPLETED"


def test_retry(api: Endpoint, real_comfyui: RealComfyUI) -> None:
    """What failed runs again under its id, once its cause is gone; what did not fail can't."""
    job_id = api.run(loading("comes later.png", prefix="runpod/retried"))
    assert api.final(job_id)["status"] == "FAILED"
    assert api.post(f"/retry/{job_id}") == {"id": job_id, "status": "IN_QUEUE"}
    failed = api.final(job_id)
    assert (failed["status"], failed["retries"]) == ("FAILED", 1)
    (real_comfyui.input / "comes later.png").write_bytes(png(32, 16))
    assert api.post(f"/retry/{job_id}") == {"id": job_id, "status": "IN_QUEUE"}
    done = api.final(job_id)
    assert (done["id"], done["status"], done["retries"]) == (job_id, "COMPLETED", 2)
    assert [image["filename"] for image in done["output"]["images"]] == ["retried_00001_.png"]
    again = api.ask("POST", f"/retry/{job_id}")
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (400, job_id, "COMPLETED")
    assert api.final(job_id) == done


def test_retry_has_the_pictures_that_the_job_came_with(api: Endpoint) -> None:
    """They are kept with a job that failed, however long its caller thinks about it."""
    graph = loading("mine.png")
    graph["3"] = {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "value"}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    job_id = api.run(graph, images=[{"name": "mine.png", "image": base64.b64encode(png(32, 16)).decode()}])
    first = api.final(job_id)
    api.post(f"/retry/{job_id}")
    second = api.final(job_id)
    assert first["error"] == second["error"]
    assert "boom from test node" in second["error"]


# -- refusals -----------------------------------------------------------------------------------------------------

STRUCTURE = "'images' must be a list of objects with 'name' and 'image' keys"
WRONG: dict[str, tuple[Any, str]] = {
    "null": (None, "Please provide input"),
    "no JSON": ("{ no json", "Invalid JSON format in input"),
    "nothing": ({}, "Missing 'workflow' parameter"),
    "workflow null": ({"workflow": None}, "Missing 'workflow' parameter"),
    "images no list": ({"workflow": picture(1), "images": "x"}, STRUCTURE),
    "no name": ({"workflow": picture(1), "images": [{"image": "aaaa"}]}, STRUCTURE),
    "no image": ({"workflow": picture(1), "images": [{"name": "a.png"}]}, STRUCTURE),
    "a number": ({"workflow": picture(1), "images": [1]}, STRUCTURE),
    "a text with both words": ({"workflow": picture(1), "images": ["name image"]}, STRUCTURE),
    "image a number": ({"workflow": picture(1), "images": [{"name": "a.png", "image": 7}]}, "images[0].image must be"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("path", ["/run", "/runsync"])
def test_texts_that_clients_compare(api: Endpoint, case: str, path: str) -> None:
    """A request that worker-comfyui's handler refuses is a job that failed, with its text; ours may follow."""
    given, text = WRONG[case]
    answer = api.post(path, {"input": given})
    done = api.final(answer["id"])
    assert done["status"] == "FAILED"
    assert done["error"].startswith(text)
    if path == "/runsync":
        assert answer == done


def test_json_in_a_text(api: Endpoint) -> None:
    """``input`` may be the JSON of itself; JSON of anything else is refused."""
    done = api.post("/runsync", {"input": json.dumps({"workflow": picture(72)})})
    assert done["status"] == "COMPLETED"
    assert api.post("/runsync", {"input": "[1]"})["status"] == "FAILED"


@pytest.mark.parametrize("sent", [b"{", b"", b"[]", b"7", b"{}", b'{"workflow": {}}', b'{"input": NaN}'], ids=repr)
@pytest.mark.parametrize("path", ["/run", "/runsync"])
def test_what_the_platform_refuses(api: Endpoint, sent: bytes, path: str) -> None:
    """No JSON, or no input: 400, ``error`` is a text, and the status is final for clients that look at nothing else."""
    reply = api.ask("POST", path, data=sent, headers=JSON)
    assert reply.status_code == 400
    assert type(reply.json()["error"]) is str
    assert reply.json()["status"] == "FAILED"


@pytest.mark.parametrize("prefix", PREFIXES[1:])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/"),
        ("POST", "/status/"),
        ("GET", "/status-sync/"),
        ("GET", "/stream/"),
        ("POST", "/cancel/"),
        ("POST", "/retry/"),
    ],
)
def test_a_job_that_nobody_knows(api: Endpoint, method: str, path: str, prefix: str) -> None:
    """404 with the id, a final status, an error, and a list where a stream was asked for."""
    reply = api.at(prefix).ask(method, f"{path}nobody-knows-me")
    assert reply.status_code == 404
    answer = reply.json()
    assert (answer["id"], answer["status"]) == ("nobody-knows-me", "FAILED")
    assert answer["error"]
    if path == "/stream/":
        assert answer["stream"] == []


def test_too_large(narrow: Endpoint) -> None:
    """413, in the same form; nothing of it is kept."""
    reply = narrow.ask("POST", "/run", json=request(picture(1), images=[{"name": "a.png", "image": "A" * 60_000}]))
    assert reply.status_code == 413
    assert (reply.json()["status"], type(reply.json()["error"])) == ("FAILED", str)


def test_a_file_that_is_too_large_for_an_answer(narrow: Endpoint) -> None:
    """No bucket: a link to the worker, in the form of a bucket's; the small one beside it is there itself."""
    graph = picture(79, prefix="narrow/large")
    graph["1"]["inputs"] |= {"width": 1024, "height": 1024}
    graph["3"] = picture(80)["1"]
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "narrow/small"}}
    output = narrow.output(graph)
    entries = {entry["filename"]: entry for entry in output["images"]}
    large = entries["large_00001_.png"]
    assert (large["type"], entries["small_00001_.png"]["type"]) == ("s3_url", "base64")
    assert requests.get(large["data"], timeout=60).content.startswith(b"\x89PNG")
    assert "errors" not in output


def test_too_many(narrow: Endpoint, gate: Path) -> None:
    """429 with ``Retry-After`` while as many jobs wait as may; then there is room again."""
    taken = [narrow.run(held(gate)), narrow.run(picture(73))]
    reply = narrow.ask("POST", "/run", json=request(picture(74)))
    assert reply.status_code == 429
    assert int(reply.headers["Retry-After"]) >= 1
    assert (reply.json()["status"], type(reply.json()["error"])) == ("FAILED", str)
    for job_id in reversed(taken):
        narrow.post(f"/cancel/{job_id}")
    room = lambda: narrow.ask("POST", "/runsync", json=request(picture(75))).status_code == 200  # noqa: E731
    narrow.process.wait_for(room, "taking jobs again")


# -- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "{}"])
def test_a_key_in_every_form(api: Endpoint, form: str) -> None:
    """With the scheme as the clients send it, or alone as RunPod's examples do."""
    headers = {"Authorization": form.format(ALICE)}
    job_id = api.ask("POST", "/run", json=request(picture(76)), headers=headers).json()["id"]
    assert api.ask("GET", f"/status/{job_id}", headers=headers).status_code == 200
    bob = {"Authorization": form.format(BOB)}
    for path in (f"/status/{job_id}", f"/stream/{job_id}"):
        assert api.ask("GET", path, headers=bob).status_code == 404
    assert api.ask("POST", f"/cancel/{job_id}", headers=bob).status_code == 404
    assert api.final(job_id)["status"] == "COMPLETED"


def test_purge_takes_only_ones_own(api: Endpoint, gate: Path) -> None:
    """A tenant's purge leaves the jobs of others alone."""
    alice, bob = Endpoint(api.process, key=ALICE), Endpoint(api.process, key=BOB)
    running = api.run(held(gate))
    api.until(running, "IN_PROGRESS")
    mine, other = alice.run(picture(77)), bob.run(picture(78))
    assert alice.post("/purge-queue")["removed"] == 1
    assert alice.final(mine)["status"] == "CANCELLED"
    gate.touch()
    assert bob.final(other)["status"] == "COMPLETED"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_wrong_key(api: Endpoint, prefix: str) -> None:
    """401 with a text; where a job is named with its id and a final status, which the asyncio client looks at."""
    wrong = {"Authorization": "Bearer wrong"}
    reply = api.at(prefix).ask("POST", "/run", json=request(picture(1)), headers=wrong)
    assert (reply.status_code, type(reply.json()["error"])) == (401, str)
    for path in ("status", "status-sync", "stream", "cancel"):
        reply = api.at(prefix).ask("POST", f"/{path}/some-id", headers=wrong)
        assert (reply.status_code, type(reply.json()["error"])) == (401, str), path
        if prefix or path in ("status-sync", "stream"):  # the others belong to several APIs
            assert (reply.json()["id"], reply.json()["status"]) == ("some-id", "FAILED"), path


# -- while it starts ----------------------------------------------------------------------------------------------


def test_jobs_wait_for_the_start(tmp_path: Path) -> None:
    """Nothing answers yet: jobs are IN_QUEUE, health says initializing; when ComfyUI comes they run, in order."""
    engine = FakeEngine(tmp_path / "engine")
    process = WorkerProcess(tmp_path, {"COMFYUI_API_BASE": engine.base_url})
    process.start()
    here = Endpoint(process)
    try:
        process.wait_for(lambda: process.get("/healthz").status_code == 200, "alive", START_TIMEOUT_S)
        jobs = [here.run(picture(number)) for number in range(3)]
        assert [here.status(job_id) for job_id in jobs] == ["IN_QUEUE"] * 3
        workers = here.get("/health")["workers"]
        assert (workers["initializing"], workers["idle"], workers["ready"]) == (1, 0, 0)
        assert requests.get(f"{process.api}/ping", timeout=60).status_code == 204
        with ThreadPoolExecutor() as aside:
            waiting = aside.submit(here.run_sync, picture(9))
            engine.start()
            assert [here.final(job_id)["status"] for job_id in jobs] == ["COMPLETED"] * 3
            assert waiting.result()["status"] == "COMPLETED"
        process.wait_ready()
        assert requests.get(f"{process.api}/ping", timeout=60).status_code == 200
        assert here.get("/health")["workers"]["ready"] == 1
    finally:
        process.stop()
        engine.kill()


def test_jobs_outlive_the_worker(tmp_path: Path, gate: Path) -> None:
    """It is killed in the middle: afterwards every id is known, what ran or waited is made, and what had failed can be
    tried again with the picture that it came with; what was cancelled stays so."""
    with fake_engines(tmp_path / "engine") as (engine,):
        process = WorkerProcess(tmp_path, {"COMFYUI_API_BASE": engine.base_url})
        here = Endpoint(process)
        process.start()
        try:
            process.wait_ready()
            pictures = [{"name": "mine.png", "image": base64.b64encode(png(32, 16)).decode()}]
            broken = loading("mine.png") | {
                "3": {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "value"}}
            }
            broken["2"]["inputs"]["images"] = ["3", 0]
            failed = here.run(broken, images=pictures)
            assert here.final(failed)["status"] == "FAILED"
            jobs = [here.run(held(gate)), here.run(loading("mine.png"), images=pictures), here.run(picture(81))]
            dropped = here.run(picture(82))
            here.post(f"/cancel/{dropped}")
            here.until(jobs[0], "IN_PROGRESS")
            assert process.process is not None
            process.process.kill()
            process.process.wait()
            gate.touch()
            process.start()
            process.wait_ready()
            assert [here.final(job_id)["status"] for job_id in jobs] == ["COMPLETED"] * 3
            assert here.status(dropped) == "CANCELLED"
            assert here.status(failed) == "FAILED"
            assert here.post(f"/retry/{failed}") == {"id": failed, "status": "IN_QUEUE"}
            again = here.final(failed)
            assert (again["status"], again["retries"]) == ("FAILED", 1)
            assert "boom" in again["error"]
        finally:
            process.stop()


def test_ping(api: Endpoint) -> None:
    """RunPod's load balancer asks here: 200, this worker is well."""
    assert requests.get(f"{api.process.api}/ping", timeout=60).status_code == 200
